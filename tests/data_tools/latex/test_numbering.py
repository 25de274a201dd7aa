r"""What \ref shows: the numbers that LaTeX prints for chapters, sections, floats, rows, parts of figures, items and theorems."""

import pytest

from data_tools.latex.limits import Deadline
from data_tools.latex.paper import read_paper
from data_tools.latex.references import number_labels


def numbers(body: str, kind: str = "article") -> str:
    """`label:number` in order of appearance."""
    found = number_labels(f"\\documentclass{{{kind}}}\\begin{{document}}{body}", Deadline())
    return " ".join(f"{label}:{number}" for label, (_, number) in found.items())


FIG = r"\begin{figure}\caption{C}\label{%s}\end{figure}"
EQ = r"\begin{equation}x\label{%s}\end{equation}"
BOOK = (
    r"\frontmatter\chapter{Preface}\label{p}\mainmatter\chapter{One}\label{c1}\section{A}\label{s}\chapter[short]{Two}\label{c2}"
    + EQ % "e1"
    + r"\section{B}\label{s1}\subsection{C}\label{ss}\subsubsection{D}\label{sss}"
    + FIG % "f1"
    + r"\section*{No}\section{E}\label{s2}"
    + FIG % "f2"
    + EQ % "e2"
    + r"\begin{table}\caption{T}\label{t}\end{table}\chapter*{Not counted}\chapter{Three}\label{c3}"
    + FIG % "f3"
    + r"\appendix\chapter{More}\label{a}\section{F}\label{as}"
    + FIG % "af"
    + EQ % "ae"
)


@pytest.mark.parametrize("kind", ["book", "report", "scrbook", "memoir", "mythesis"])
def test_chapters_number_what_is_in_them(kind: str) -> None:
    assert numbers(BOOK, kind) == (
        "p: c1:1 s:1.1 c2:2 e1:2.1 s1:2.1 ss:2.1.1 sss:2.1.1 f1:2.1 s2:2.2 f2:2.2 e2:2.2 t:2.1 c3:3 f3:3.1 a:A as:A.1 af:A.1 ae:A.1"
    )
    found = number_labels(f"\\documentclass{{{kind}}}{BOOK}", Deadline())
    assert [found[label][0] for label in ("c2", "s1", "a", "as", "f1", "e1")] == [
        "Chapter",
        "Section",
        "Appendix",
        "Appendix",
        "Figure",
        "Equation",
    ]


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (r"\section{A}\label{a}\section*{B}\subsection{C}\label{c}\subsubsection{D}\label{d}\subsection*{E}\label{e}", "a:1 c:1.1 d:1.1.1 e:1.1.1"),
        (r"\section *{A}\section {B}\label{b}\section[x]{C}\label{c}", "b:1 c:2"),
        (r"\part{P}\label{p}\section{A}\label{a}\part{Q}\label{q}\section{B}\label{b}", "p:I a:1 q:II b:2"),
        (r"\setcounter{section}{4}\section{A}\label{a}\setcounter{equation}{9}" + EQ % "e", "a:5 e:10"),
        (r"\setcounter{secnumdepth}{1}\section{A}\label{a}\subsection{B}\label{b}", "a:1 b:1"),
        (r"\section{A}\appendix\section{B}\label{b}\subsection{C}\label{c}" + EQ % "e", "b:A c:A.1 e:1"),
        (r"\section{A}\begin{appendix}\section{B}\label{b}\end{appendix}", "b:A"),
        (r"\numberwithin{equation}{section}\section{A}" + EQ % "e" + r"\section{B}" + EQ % "f", "e:1.1 f:2.1"),
        (r"\counterwithin{figure}{section}\section{A}" + FIG % "e" + r"\section{B}" + FIG % "f", "e:1.1 f:2.1"),
        # rows
        (r"\begin{eqnarray} a \\ b \label{b}\end{eqnarray}" + EQ % "c", "b:2 c:3"),
        (r"\begin{eqnarray} a \nonumber \\ b \label{b}\end{eqnarray}", "b:1"),
        (r"\begin{align} a \label{a}\\ b \notag\\ c\label{c} \\ d \end{align}" + EQ % "e", "a:1 c:2 e:4"),
        (r"\begin{align*} a \\ b \end{align*}\begin{eqnarray*} a \\ b \end{eqnarray*}\begin{displaymath}x\end{displaymath}" + EQ % "e", "e:1"),
        (r"\begin{equation}\begin{split} a \\ b \end{split}\label{s}\end{equation}" + EQ % "e", "s:1 e:2"),
        (r"\begin{align} \begin{array}{c} a \\ b \end{array}\label{s} \\ \sum_{\substack{i \\ j}} \label{t}\end{align}", "s:1 t:2"),
        (r"\begin{multline} a \\ b \label{s}\end{multline}" + EQ % "e", "s:1 e:2"),
        (r"\begin{equation}x\tag{X}\label{x}\end{equation}" + EQ % "e", "x:X e:1"),
        (r"\begin{subequations}\label{g}\begin{align}a\label{a}\\b\label{b}\end{align}\end{subequations}" + EQ % "e", "g:1 a:1a b:1b e:2"),
        # floats
        (r"\begin{figure}no caption\end{figure}" + FIG % "f", "f:1"),
        (r"\begin{figure}\label{f}\caption{C}\end{figure}\begin{figure*}\caption{C\label{g}}\end{figure*}", "f:1 g:2"),
        (r"\begin{figure}\caption{A}\label{a}\caption{B}\label{b}\end{figure}", "a:1 b:2"),
        (r"\begin{figure}\begin{subfigure}{3cm}\caption{A}\label{a}\end{subfigure}\begin{subfigure}{3cm}\caption{B}\label{b}\end{subfigure}\caption{C}\label{c}\end{figure}", "a:1a b:1b c:1"),
        (r"\begin{figure}\subfloat[A\label{a}]{x}\subfigure[B]{y\label{b}}\caption{C}\label{c}\end{figure}", "a:1a b:1b c:1"),
        (r"\begin{figure}\caption{A}\end{figure}\begin{figure}\ContinuedFloat\caption{B}\label{b}\end{figure}", "b:1"),
        (r"\begin{deluxetable}{c}\tablecaption{T\label{t}}\end{deluxetable}\begin{longtable}{c}\caption{A}\label{l}\end{longtable}", "t:1 l:2"),
        (r"\section{A}\figcaption{One \label{f}}\figcaption[x.eps]{Two\label{g}} \label{s}", "f:1 g:2 s:1"),
        (r"\section{A}\captionof{table}{T}\label{t}", "t:1"),
        (r"\section{A}\begin{figure}\caption*{None}\end{figure}\label{s}" + FIG % "f", "s:1 f:1"),
        # lists and theorems
        (r"\begin{enumerate}\item\label{a} x\begin{itemize}\item y\end{itemize}\item\label{b}\begin{enumerate}\item\label{c}\item\label{d}\end{enumerate}\item\label{e}\end{enumerate}", "a:1 b:2 c:2a d:2b e:3"),
        (r"\newtheorem{thm}{Theorem}[section]\newtheorem{lem}[thm]{Lemma}\section{A}\begin{thm}\label{t}\end{thm}\begin{lem}\label{l}\end{lem}\section{B}\begin{thm}\label{u}\end{thm}\label{s}", "t:1.1 l:1.2 u:2.1 s:2"),
    ],
)  # fmt: skip
def test_an_article_counts(body: str, wanted: str) -> None:
    assert numbers(body) == wanted


APPENDIX = r"\section{A}\label{a}" + EQ % "e" + r"\appendix\section{B}\label{b}" + EQ % "f" + FIG % "g" + r"\section{C}" + EQ % "h"


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("article", "a:1 e:1 b:A f:2 g:1 h:3"),
        ("aastex631", "a:1 e:1 b:A f:A1 g:1 h:B1"),
        ("mnras", "a:1 e:1 b:A f:A1 g:A1 h:B1"),
        ("aa", "a:1 e:1 b:A f:A.1 g:A.1 h:B.1"),
        ("elsarticle", "a:1 e:1 b:A f:A.1 g:1 h:B.1"),
        ("revtex4-2", "a:I e:1 b:A f:A1 g:1 h:B1"),
    ],
)
def test_classes_number_their_appendices(kind: str, wanted: str) -> None:
    assert numbers(APPENDIX, kind) == wanted


def test_revtex_counts_in_roman_numerals() -> None:
    assert (
        numbers(r"\section{A}\section{B}\label{b}\subsection{C}\label{c}\subsubsection{D}\label{d}", "revtex4-1") == "b:II c:II A d:II A 1"
    )


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        (r"\documentclass{revtex4-1}", "See II A."),
        (r"\documentclass[aps,prl]{revtex4}", "See II A."),
        (r"\documentstyle[12pt,revtex]{article}", "See II A."),
        (r"\documentstyle[aps]{revtex}", "See II A."),
        (r"\documentclass{article}", "See 2.1."),
        (r"\documentstyle[12pt,aasms4]{article}", "See 2.1."),
    ],
)
def test_a_paper_is_numbered_as_its_class_numbers(kind: str, shown: str) -> None:
    body = rf"\section{{Introduction}}{'Words of it. ' * 9} See \ref{{d}}.\section{{Data}}More.\subsection{{Deep}}\label{{d}}More words."
    paper = read_paper({"m.tex": rf"{kind}\begin{{document}}{body}\end{{document}}".encode()})
    assert paper.introduction.endswith(shown)


@pytest.mark.parametrize(
    ("preamble", "shown"),
    [
        ("", "2 2.1 1 1"),
        (r"\renewcommand{\thesection}{S\arabic{section}}", "S2 S2.1 1 1"),
        (r"\renewcommand\thesection{\Roman{section}}", "II II.1 1 1"),
        (r"\def\thesection{\Roman{section}.}", "II II.1 1 1"),
        (r"\makeatletter\def\thesection{\@Alph\c@section}\makeatother", "B B.1 1 1"),
        (r"\renewcommand{\thesubsection}{\thesection\alph{subsection}}", "2 2a 1 1"),
        (r"\renewcommand{\theequation}{\thesection.\arabic{equation}}", "2 2.1 2.1 1"),
        (r"\renewcommand{\theequation}{\mbox{\Alph{section}}\,--\,\arabic{equation}}", "2 2.1 B–1 1"),
        (r"\renewcommand{\thefigure}{S\arabic{figure}}", "2 2.1 1 S1"),
        (r"\renewcommand{\thefigure}{\number\value{section}-\arabic{figure}}", "2 2.1 1 2-1"),
        (r"\renewcommand{\thesection}{S\thesection}", "S2 S2.1 1 1"),
        (r"\renewcommand{\thefigure}{\unheardof}", "2 2.1 1 1"),
        (r"\renewcommand{\thefootnote}{\fnsymbol{footnote}}", "2 2.1 1 1"),
    ],
)
def test_a_number_is_shown_as_its_author_shows_it(preamble: str, shown: str) -> None:
    body = (
        rf"\section{{Introduction}}{'Words of it. ' * 9} See \ref{{s}} \ref{{t}} \ref{{e}} \ref{{f}}.\section{{Data}}\label{{s}}"
        + EQ % "e"
        + FIG % "f"
    )
    paper = read_paper(
        {"m.tex": rf"\documentclass{{article}}{preamble}\begin{{document}}{body}\subsection{{Deep}}\label{{t}}x\end{{document}}".encode()}
    )
    assert paper.introduction.endswith(f"See {shown}.")
    assert "renewcommand" not in paper.text and "S" not in paper.sections[1]["text"]


def test_an_appendix_begins_its_own_numbers() -> None:
    body = r"\renewcommand{\thesection}{\Roman{section}}\section{A}\label{a}\section{B}\label{b}\appendix\section{C}\label{c}"
    assert numbers(body) == "a:I b:II c:A"
    assert numbers(body + r"\renewcommand{\thesection}{A\arabic{section}}\section{D}\label{d}") == "a:I b:II c:A d:A2"


@pytest.mark.parametrize(
    "dress",
    ["{\\bf N. X}\\label{L}\n\n", "{\\bf N. X\\label{L}}\n\n", "\\centerline{\\bf N. X}\n\\label{L}\n\n", "\\noindent\\textbf{N. X} \\label{L}\\\\\n",
     "\\begin{center}{\\sc N. X}\\end{center}\\label{L}\n\n", "N. X\\label{L}\n\n"],
)  # fmt: skip
def test_a_label_behind_a_heading_set_by_hand_has_its_number(dress: str) -> None:
    def heading(number: str, title: str, label: str) -> str:
        return dress.replace("L", label).replace("N", number).replace("X", title.upper() if dress[0] == "N" else title)

    words = "Words of the paper stand here. " * 9
    body = f"{heading('1', 'Introduction', 'i')}{words} See Sects. \\ref{{d}} and \\ref{{c}}.\n\n{heading('II', 'Data', 'd')}{words}\n\n{heading('3', 'Conclusions', 'c')}{words}"
    paper = read_paper({"m.tex": rf"\documentclass{{article}}\begin{{document}}{body}\end{{document}}".encode()})
    assert paper.introduction.endswith("See Sects. II and 3.")
    assert len(paper.sections) == 3


@pytest.mark.parametrize(
    ("passage", "shown"),
    [
        (r"See \crefrange{a}{c}.", "See Equations 1 to 3."),
        (r"See Eqs.~\eqrefs{a,b}.", "See Eqs. 1 and 2."),
        (r"See \figref{fig:none}.", "See."),
        (r"See Eq. \myref{b}.", "See Eq. 2."),
        (r"See \titleref{c} and \prettyref{a}.", "See 3 and 1."),
        (r"The \namecref{a}~\labelcref{a}.", "The equation 1."),
        (r"See \ref*{b}.", "See 2."),
        (r"\hyperref[a]{Words} and \href{http://a.b}{words}.", "Words and words."),
        (r"\briefref{Smith 1990}.", "Smith 1990."),
    ],
)
def test_a_command_that_refers_shows_a_number_and_no_key(passage: str, shown: str) -> None:
    body = rf"\section{{Introduction}}{'Words of it. ' * 9} {passage}\section{{Data}}" + EQ % "a" + EQ % "b" + EQ % "c"
    paper = read_paper({"m.tex": rf"\documentclass{{article}}\begin{{document}}{body}\end{{document}}".encode()})
    assert paper.introduction.endswith(shown)
