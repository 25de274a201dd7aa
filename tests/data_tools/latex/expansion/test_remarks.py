r"""Tracked changes and remarks: the new text stays, struck text and remarks go, emphasis stays; the author's own definition wins."""

import pytest

from tests.made.passages import words

NEW = "We measured it."
# (passage, preamble), all of which read as NEW
CASES = [
    (r"We \added{measured} it.", r"\usepackage{changes}"),
    (r"We \added[id=A]{measured} it.", ""),
    (r"We \deleted{lost} measured it.", ""),
    (r"We \deleted[id=A,comment={x}]{lost}measured it.", ""),
    (r"We \replaced{measured}{lost} it.", r"\usepackage{changes}"),
    (r"We \replaced[id=A]{measured}{lost} it.", r"\usepackage[final]{changes}"),
    (r"We \replaced{measured}{lost} it.", ""),
    (r"We \highlight{measured} it.", ""),
    (r"We \highlight[comment=x]{measured} it.", ""),
    (r"We \comment{check} measured it.", r"\usepackage{changes}"),
    (r"We measured\comment[id=A]{check} it.", ""),
    (r"We \chadded{measured} \chdeleted{x}\chreplaced{it}{them}\chcomment{x}.", r"\usepackage[commandnameprefix=always]{changes}"),
    (r"We \chhighlight{measured} it.", ""),
    (r"We \add{measured} it.", r"\usepackage{trackchanges}"),
    (r"We \add[ed]{measured} it.", ""),
    (r"We \remove{lost} measured it.", ""),
    (r"We \remove[ed]{lost}measured it.", ""),
    (r"We \change{lost}{measured} it.", ""),
    (r"We \change[ed]{lost}{measured} it.", ""),
    (r"We \note[ed]{x}measured it.", ""),
    (r"We \note{x}measured it.", ""),
    (r"We \annote{measured}{x} it.", ""),
    (r"We \annote[ed]{measured}{x} it.", ""),
    (r"We \refneeded{measured} it.", ""),
    (r"We \refneeded[ed]{measured} it.", ""),
    (r"\addeditor{AB}We measured it.", ""),
    (r"We \replace{lost}{measured} it.", r"\usepackage{easyReview}"),
    (r"We \comment{measured}{why} it.", r"\usepackage{easyReview}"),
    (r"We \alert{measured} it.", r"\usepackage{easyReview}"),
    (r"We \highlight{measured} it.", r"\usepackage{easyReview}"),
    (r"We \sout{lost} measured it.", ""),
    (r"We \changed{measured} it.", r"\newcommand{\changed}[1]{\textcolor{black}{\textbf{(AJE-update): #1}}}"),
    (r"We \revised{measured} it.", r"\newcommand{\revised}[1]{{\bf [AB: #1]}}"),
    (r"We \new{measured} it.", r"\newcommand{\new}[1]{\textcolor{red}{#1}}"),
    (r"We \edited{measured} it.", r"\newcommand{\edited}[1]{\textcolor{blue}{(CD: #1)}}"),
    (r"We \ab{why?}measured it.", r"\newcommand{\ab}[1]{\textcolor{blue}{(AB: #1)}}"),
    (r"We \changes{do more}measured it.", r"\newcommand{\changes}[1]{\textcolor{red}{[TODO: #1]}}"),
    (r"We \xout{lost} measured it.", ""),
    (r"We \st{lost} measured it.", r"\usepackage{soul}"),
    (r"We \cancel{lost} measured it.", ""),
    (r"We \xcancel{lost} measured it.", ""),
    (r"We \bcancel{lost} measured it.", ""),
    (r"We \uline{measured} it.", ""),
    (r"We \uwave{measured} it.", ""),
    (r"We \uuline{measured} it.", ""),
    (r"We \hl{measured} it.", ""),
    (r"We \ul{measured} it.", ""),
    (r"We \dashuline{measured} it.", ""),
    (r"We \dotuline{measured} it.", ""),
    (r"\sethlcolor{yellow}We \hl{measured} it.", ""),
    (r"\setstcolor{red}We measured it.", ""),
    (r"\setulcolor{red}We measured it.", ""),
    (r"\setul{1pt}{2pt}We measured it.", ""),
    (r"We \so{measured} it.", ""),
    (r"We \caps{measured} it.", ""),
    (r"We \pdfcomment{x}measured it.", ""),
    (r"We \pdfcomment[icon=Note]{x}measured it.", ""),
    (r"We \pdfmarkupcomment{measured}{x} it.", ""),
    (r"We \pdftooltip{measured}{x} it.", ""),
    (r"We \pdfmargincomment{x}measured it.", ""),
    (r"We \fxnote{x}measured it.", ""),
    (r"We \fxnote[inline]{x}measured it.", ""),
    (r"We \fxnote*{x}{measured} it.", ""),
    (r"We \fxwarning{x}\fxerror{x}\fxfatal{x}measured it.", ""),
    (r"We \fxfatal*[inline]{x}{measured} it.", ""),
    (r"We \abnote{x}measured it.", r"\FXRegisterAuthor{ab}{anab}{AB}"),
    (r"We \aberror*{x}{measured} it.", r"\FXRegisterAuthor{ab}{anab}{AB}"),
    ("We \\begin{anfxnote}{x}\nsecret\n\\end{anfxnote}measured it.", ""),
    (r"\fxsetup{draft}We measured it.", ""),
    (r"\listoffixmes We measured it.", ""),
    (r"We \fixme{x}measured it.", ""),
    (r"We \FIXME{x}measured it.", ""),
    (r"We \LEt{x}measured it.", ""),
    (r"We \missingfigure{x}measured it.", ""),
    (r"We \missingfigure[figwidth=2cm]{x}measured it.", ""),
    (r"We \todo{x}measured it.", ""),
    (r"We \todo[inline]{x}measured it.", ""),
    (r"We \todo[inline, color=red!40, caption={x}]{x {y}}measured it.", ""),
    (r"\listoftodos We measured it.", ""),
    (r"\listoftodos[Todo]We measured it.", ""),
    (r"We measured\marginpar{x} it.", ""),
    (r"We measured\marginpar[a]{x} it.", ""),
    (r"We measured\marginnote{x}[2cm] it.", ""),
    (r"We measured\explain{x} it.", ""),
    (r"We \edit1{measured} it.", ""),
    (r"We \edit{1}{measured} it.", ""),
    (r"We \edit2{measured} it.", ""),
    (r"We \DIFadd{measured} \DIFdel{lost}it.", ""),
    (r"We \DIFaddbegin \DIFadd{measured} \DIFaddend it.", r"\providecommand{\DIFadd}[1]{{\protect\color{blue}\uwave{#1}}}"),
    (r"We \DIFdelbegin \DIFdel{lost }\DIFdelend measured it.", ""),
    (r"We \replaced{measured}{lost} it.", r"\newcommand{\replaced}[2]{\textbf{#1}}"),
    (r"We \replaced{lost}{measured} it.", r"\newcommand{\replaced}[2]{\textbf{#2}}"),
    (r"We \note{measured} it.", r"\newcommand{\note}[1]{\textit{#1}}"),
    (r"We \remove{measured} it.", r"\newcommand{\remove}[1]{#1}"),
    (r"We \change{measured} it.", r"\newcommand{\change}[1]{\textcolor{red}{#1}}"),
    (r"We \change{measured}{lost} it.", r"\newcommand{\change}[2]{#1}"),
    (r"We \add{lost}measured it.", r"\newcommand{\add}[1]{}"),
    (r"We \comment{measured} it.", r"\newcommand{\comment}[1]{#1}"),
    (r"We \added{lost}measured it.", r"\renewcommand{\added}[1]{}"),
    (r"We \deleted{measured} it.", r"\renewcommand{\deleted}[1]{#1}"),
    (r"We \ann{x}measured it.", r"\newcommand{\ann}[1]{\textcolor{red}{[Ann: #1]}}"),
    (r"We \ann{x}measured it.", r"\newcommand{\ann}[1]{{\bf [AB: #1]}}"),
    (r"We \ann{x}measured it.", r"\newcommand{\ann}[1]{\textbf{[A.B.: #1]}}"),
    (r"We \ann{x}measured it.", r"\newcommand{\ann}[1]{\textit{(JD: #1)}}"),
    (r"We \ann{x}measured it.", r"\newcommand{\ann}[1]{{\sf [[Bob: #1]]}}"),
    (r"We \ann{x}measured it.", r"\newcommand{\ann}[1]{$\langle$AB: #1$\rangle$}"),
    (r"We \ann{x}measured it.", r"\newcommand{\ann}[1]{\todo[inline]{Ann: #1}}"),
    (r"We \ann{x}measured it.", r"\newcommand{\ann}[1]{\marginpar{#1}}"),
    (r"We \ann{x}measured it.", r"\newcommand{\ann}[1]{\footnote{Ann: #1}}"),
    (r"We \ann[y]{x}measured it.", r"\newcommandx{\ann}[2][1=]{\todo[linecolor=red,#1]{#2}}"),
    (r"We \ann{x}measured it.", r"\newcommandx{\ann}[2][1=]{\todo[linecolor=red,#1]{#2}}"),
    (r"We \rep{lost}{measured} it.", r"\newcommand{\rep}[2]{\sout{#1}\textcolor{blue}{#2}}"),
    (r"We \new{measured} it.", r"\newcommand{\new}[1]{\textcolor{red}{#1}}"),
    (r"We \old{lost}measured it.", r"\newcommand{\old}[1]{\textcolor{red}{\sout{#1}}}"),
    (r"We \ins{measured} it.", r"\newcommand{\ins}[1]{\uline{#1}}"),
]
AUTHORS = [  # definitions of \ann, a remark to a co-author
    r"\newcommand{\ann}[1]{\textbf{\color{red}AB: #1}}",
    r"\def\ann#1{{\bf [AB: #1]}}",
    r"\newcommand{\ann}[1]{\textsc{[Ann: #1]}}",
    r"\newcommand{\ann}[1]{\emph{[A.~B.: #1]}}",
    r"\newcommand\ann[1]{{\color{blue} [[#1]]}}",
    r"\newcommand{\ann}[1]{{\it\small(AB -- #1)}}",
    r"\newcommand{\mycomment}[1]{[#1]}\let\ann\mycomment",
    r"\newcommand{\ann}[1]{\textcolor{red}{\textbf{(#1)}}}",
    r"\newcommand{\ann}[1]{{\bf[Ann Bee: #1]}}",
    r"\newcommand{\ann}[1]{\texttt{<AB: #1>}}",
    r"\newcommand{\ann}[1]{**AB: #1**}",
    r"\newcommand{\ann}[1]{\fbox{AB: #1}}",
    r"\newcommand{\ann}[2][AB]{{\bf [#1: #2]}}",
    r"\newcommand{\ann}[1]{\{AB: #1\}}",
    r"\newcommand{\ann}[1]{\hl{[AB: #1]}}",
    r"\newcommand{\ann}[1]{{\sf [AB] #1}}",
    r"\newcommand{\ann}[1]{\marginnote{#1}}",
    r"\newcommand{\ann}[1]{{\bf $\langle\langle$AB: #1$\rangle\rangle$}}",
    r"\newcommand{\ann}[1]{{\bf [TODO: #1]}}",
    r"\newcommand{\ann}[1]{\textbf{TODO: #1}}",
    r"\newcommand{\ann}[1]{\textbf{[FIXME #1]}}",
    r"\newcommand{\ann}[1]{\textbf{[CHECK: #1]}}",
    r"\newcommand{\todo}[1]{\textbf{#1}}\let\ann\todo",
    r"\newcommand{\ann}[1]{\ignorespaces}",
    r"\newcommand{\ann}[1]{\textbf{[\textcolor{red}{AB}: #1]}}",
    r"\newcommand{\ann}[1]{\textbf{[[[#1 --AB]]]}}",
    r"\newcommand{\ann}[1]{\footnotesize[#1 - AB]}",
]
WORDS = [  # definitions of \ann whose words are the paper's
    r"\newcommand{\ann}[1]{[#1]}",
    r"\newcommand{\ann}[1]{(Fig.~#1)}",
    r"\newcommand{\ann}[1]{[Figure: #1]}",
    r"\newcommand{\ann}[1]{\textbf{#1}}",
    r"\newcommand{\ann}[1]{HD~#1}",
    r"\newcommand{\ann}[1]{[Fe/H]=#1}",
    r"\newcommand{\ann}[1]{\textit{Note:} #1}",
    r"\newcommand{\ann}[1]{[O\,{\sc #1}]}",
    r"\newcommand{\ann}[1]{(Paper~#1)}",
    r"\newcommand{\ann}[1]{\colorbox{yellow}{#1}}",
    r"\newcommand{\ann}[1]{\textcolor{red}{#1}}",
    r"\newcommand{\ann}[1]{\uline{#1}}",
    r"\newcommand{\ann}[1]{\emph{#1}}",
]
OTHERS = [  # (passage, what a reader sees, preamble)
    (r"We [see] \brk{measured} it.", "We [see] [measured] it.", r"\newcommand{\brk}[1]{[#1]}"),
    (r"In \fg{1} it.", "In (Fig. 1) it.", r"\newcommand{\fg}[1]{(Fig.~#1)}"),
    (r"In \fg{1} it.", "In [Figure: 1] it.", r"\newcommand{\fg}[1]{[Figure: #1]}"),
    (r"At \feh{2} it.", "At [Fe/H]=2 it.", r"\newcommand{\feh}[1]{[Fe/H]=#1}"),
    (r"$\cancel{E}$ is", r"$\cancel{E}$ is", ""),
]


@pytest.mark.parametrize(("passage", "preamble"), CASES)
def test_the_new_text_is_read(passage: str, preamble: str) -> None:
    assert len(CASES) > 90
    assert words(passage, preamble) == NEW


@pytest.mark.parametrize(("passage", "seen", "preamble"), OTHERS)
def test_what_only_looks_like_a_remark_stays(passage: str, seen: str, preamble: str) -> None:
    assert words(passage, preamble) == seen


def test_aastex_names_the_old_text_first_and_the_changes_package_the_new() -> None:
    assert words(r"We \replaced{lost}{measured} it.", document_class="aastex631") == NEW
    assert words(r"We \replaced{measured}{lost} it.") == NEW
    assert words(r"We \replaced{measured}{lost} it.", r"\usepackage{changes}", document_class="aastex631") == NEW


@pytest.mark.parametrize("definition", AUTHORS)
def test_an_authors_remark_to_a_co_author_goes(definition: str) -> None:
    assert words(r"We \ann{x} measured it.", definition) == NEW


@pytest.mark.parametrize("definition", WORDS)
def test_an_authors_way_to_set_words_stays(definition: str) -> None:
    assert "vega" in words(r"We \ann{vega} measured it.", definition)
