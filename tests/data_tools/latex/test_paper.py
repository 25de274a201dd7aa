"""One paper from its files: what each stage of the reader promises, through `read_paper` where it can be."""

import json
import sys
from pathlib import Path

import pytest

from data_tools.latex.paper import Paper, PaperError, main, read_paper
from tests.made import processes

FILL = "The star is observed during many nights with the telescope and its light varies slowly over the season. " * 3


def paper(body: str, preamble: str = "", files: dict[str, bytes] | None = None) -> Paper:
    source = f"\\documentclass{{aastex631}}\n{preamble}\n\\begin{{document}}\n\\title{{A star}}\n{body}\n\\end{{document}}\n"
    return read_paper({"ms.tex": source.encode(), **(files or {})})


def prose(text: str, preamble: str = "", after: str = "") -> str:
    """What becomes of a passage of the introduction."""
    found = paper(f"\\section{{Introduction}}\n{text}\n\\section{{Data}}\n{FILL}{after}", preamble)
    return found.introduction or ""


@pytest.mark.parametrize(
    ("tex", "words"),
    [
        (r"It is~seen \citep{a,b}. Next", "It is seen. Next"),
        (r"As \citet{a} show", "As [citation] show"),
        (r"shown (e.g. \citealt{a}; see also \citealp{b}) here", "shown here"),
        (r"so \citep[see][for more]{a}, and", "so, and"),
        (r"measured by \cite{a} twice", "measured by [citation] twice"),
        (r"are common \cite{a}.", "are common."),
        (r"so, \cite{a} found it", "so, [citation] found it"),
        (r"a {\it very \bf old} \textbf{star}", "a very old star"),
        (r"one\footnote{Not {so} \emph{short}.} two", "one two"),
        (
            r"Erd\H{o}s, M\"uller, \'{\i}, \c{c}a, \v Z, \AA{}ngstr\"{o}m, \o re, na\"ive, \~n",
            "Erdős, Müller, í, ça, Ž, Ångström, øre, naïve, ñ",
        ),
        (r"``quoted'' and `so' --- 1--2", "\"quoted\" and 'so' — 1–2"),
        (r"50\% of A\&A \#3 \_x", "50% of A&A #3 _x"),
        (r"10\,km and 3\ s \- here\/", "10 km and 3 s here"),
        (r"see \url{https://a.b/c_d%20e}", "see https://a.b/c_d%20e"),
        (r"the \href{https://a.b}{page} is", "the page is"),
        (r"in \textcolor{red}{red} and \colorbox{blue}{box}", "in red and box"),
        (r"mass $M_\odot$ and \(x^2\)", "mass $M_\\odot$ and $x^2$"),
        (r"\ion{H}{2} and \ion{Fe}{xxv} and \ion{C}{IV}", "H II and Fe XXV and C IV"),
        (
            r"\SI{5}{\kilo\metre\per\second}, \qty{3}{\percent}, \num{1e5}, $v=\qty{2}{\km}$",
            r"5 km s$^{-1}$, 3%, $1 \times 10^{5}$, $v=2\,\mathrm{km}$",
        ),
        (r"about 10 \Msun\ at 30 \kms\ in \apj", r"about 10 $M_\odot$ at 30 ${\rm km\,s^{-1}}$ in ApJ"),
        ("a % comment\n b", "a b"),
        ("one\n% a line\ntwo", "one two"),
        (r"\unknown{kept} \mystery[x]{too}", "kept too"),
        (r"\textsuperscript{2} and \texorpdfstring{H$_2$}{H2}", "2 and H$_2$"),
        (r"\looseness=-1 word \vskip 2em end", "word end"),
        (r"costs $\approx$$10$ units", r"costs $\approx 10$ units"),
        (r"\enquote{so} \verb|x_1|", '"so" x_1'),
        (r"by \added{new} \deleted{old} \replaced{this}{that}", "by new that"),
        (r"{unbalanced words", "unbalanced words"),
        (r"words with a stray \$ and $ never closed" + "\n\nnext", "words with a stray $ and never closed\n\nnext"),
    ],
)
def test_a_passage_becomes(tex: str, words: str) -> None:
    assert prose("Start " + tex) == "Start " + words


@pytest.mark.parametrize(
    ("definition", "use", "words"),
    [
        (r"\newcommand{\kepler}{\emph{Kepler}\xspace}", r"by \kepler mission, \kepler, \kepler", "by Kepler mission, Kepler, Kepler"),
        (r"\newcommand\pair[2]{#1 and #2}", r"\pair{a}{b}", "a and b"),
        (r"\newcommand{\opt}[2][x]{#1=#2}", r"\opt{1} \opt[y]{2}", "x=1 y=2"),
        (r"\def\two#1#2{#2#1}", r"\two{a}b", "ba"),
        (r"\DeclareMathOperator{\erf}{erf}", r"$\erf x$", r"$\operatorname{erf} x$"),
        (r"\newcommand{\lo}{\ensuremath{L_0}}", r"\lo\ is $\lo^2$", r"$L_0$ is ${L_0}^2$"),
        (r"\newcommand{\cm}{\ifmmode{\rm cm}\else cm\fi}", r"\cm\ and $\cm$", r"cm and ${\rm cm}$"),
        (r"\newcommand{\todo}[1]{{\color{red}#1}}", r"so \todo{fix this} it", "so it"),
        (r"\newcommand{\ann}[1]{\textcolor{blue}{[Ann: #1]}}", r"so \ann{no!} it", "so it"),
        (r"\newcommand{\rev}[1]{\textcolor{blue}{#1}}", r"so \rev{said} it", "so said it"),
        (r"\def\be{\begin{equation}}\def\ee{\end{equation}}", r"then \be x=1 \label{q} \ee so", "then $$ x=1 $$ so"),
        (r"\newif\ifdraft", r"a \ifdraft b\else c\fi d", "a c d"),
        ("", r"a \iffalse b \ifx c \fi d \fi e", "a e"),
        (r"\newcommand{\inner}{i}\newcommand{\outer}{o\inner}", r"\outer", "oi"),
        (r"\let\old\emph \renewcommand{\emph}[1]{\old{#1}}", r"\emph{x}", "x"),
        (r"\newenvironment{eq}{\begin{equation}}{\end{equation}}", r"\begin{eq}a=b\end{eq} c", "$$ a=b $$ c"),
        (r"\NewDocumentCommand{\whiten}{ m }{w(#1)}", r"\whiten{a}", "w(a)"),
        (r"\def\simlt{\lower.5ex\hbox{$\; \buildrel < \over \sim \;$}}", r"$a \simlt b$", r"$a \lesssim b$"),
        (r"\newcommand{\section}[1]{nothing}", "x", "x"),
    ],
)
def test_a_macro_of_the_author(definition: str, use: str, words: str) -> None:
    assert prose("Start " + use, definition) == "Start " + words


def test_displays_and_lists_keep_their_shape() -> None:
    assert prose(
        "We have\n\\begin{align}\na &= b \\label{x}\\\\ c &= d\n\\end{align}\nand \\begin{enumerate}\\item one \\item two\\end{enumerate}\nEnd."
    ) == ("We have $$ \\begin{align} a &= b \\\\ c &= d \\end{align} $$ and\n(1) one\n(2) two\n\nEnd.")


def test_floats_tables_and_listings_are_gone() -> None:
    text = prose(
        "Before.\n\\begin{figure*}[t]\\includegraphics{a}\\caption{Seen \\begin{tabular}{c}x\\end{tabular}}\\end{figure*}\n"
        "\\begin{deluxetable}{cc}\\tablecaption{T}\\startdata 1 & 2 \\enddata\\end{deluxetable}\n"
        "\\begin{lstlisting}\n% code { } \\section{no}\n\\end{lstlisting}\nAfter."
    )
    assert " ".join(text.split()) == "Before. After."


def test_references_are_the_numbers_of_the_printed_paper() -> None:
    body = (
        r"Figure~\ref{f2}, Section~\ref{d}, \autoref{s}, Equations~\eqref{e}, \cref{t}, Appendix~\ref{a}, Figure~\ref{nowhere}."
        r"\begin{equation}x\label{e}\end{equation}\begin{figure}\caption{A}\label{f1}\end{figure}\begin{figure}\caption{B\label{f2}}\end{figure}"
        r"\begin{table}\caption{C}\label{t}\end{table}"
    )
    after = r"\label{d}\subsection{Sub}\label{s} text \appendix\section{More}\label{a} text"
    assert prose(body, after=after).startswith("Figure 2, Section 2, Section 2.1, Equations (1), Table 1, Appendix A, Figure.")


def test_rows_of_one_environment_have_their_own_numbers() -> None:
    text = prose(
        r"Equations \ref{a}, \ref{b} and \ref{c}. \begin{align}1\label{a}\\2\label{b}\end{align}\begin{equation}3\label{c}\end{equation}"
    )
    assert text.startswith("Equations 1, 2 and 3.")


def test_names_of_citations_come_from_the_papers_own_bibliography() -> None:
    bbl = rb"\begin{thebibliography}{}\bibitem[{Lee} {et~al.}(2014)Lee, Kim]{lee} Lee, K. 2014 \bibitem[Doe \& Roe(1999)]{doe} x\end{thebibliography}"
    found = paper(
        f"\\section{{Introduction}} As \\citet{{lee}} and \\citeauthor{{doe}} say \\citep{{doe}}.\n\\section{{Data}} {FILL}\\bibliography{{x}}",
        files={"ms.bbl": bbl},
    )
    assert found.introduction == "As Lee et al. (2014) and Doe and Roe say."
    assert "Kim" not in found.text


def test_acronyms_are_spelled_out_once_a_passage() -> None:
    assert prose(r"An \ac{GW} and \acp{GW} or \acl{GW}.", r"\DeclareAcronym{X}{short=X,long=y}\acrodef{GW}[GW]{gravitational wave}") == (
        "An gravitational wave (GW) and GWs or gravitational wave."
    )


@pytest.mark.parametrize(
    "source",
    [
        "\\begin{abstract}\nWe see {it}.\n\\end{abstract}\n\\section{Introduction}",
        "\\abstract{We see it.}\\maketitle\\section{Introduction}",
        "\\abstract{We}{see}{}{it.}{}\n\\keywords{stars}\\maketitle\\section{Introduction}",
        "\\begin{onecolabstract}We see it.\\end{onecolabstract}\\section{1. INTRODUCTION}",
        "\\maketitle\\section*{Abstract} We see it.\\section{I. Introduction}",
    ],
)
def test_abstracts_in_many_dresses(source: str) -> None:
    found = paper(f"{source} {FILL}\\section{{Data}} {FILL}")
    assert found.abstract.replace("\n", " ") == "We see it."
    assert found.introduction == FILL.strip()
    assert found.title == "A star"


@pytest.mark.parametrize(
    "title",
    [
        "Conclusions",
        "CONCLUSION",
        "5. Concluding remarks",
        "Summary",
        r"Summary \& Discussion",
        r"Discussion \\ and conclusions",
        "{\\sc Summary and conclusions}",
        "Summary of results",
        "Conclusions and Future Work",
        "Final remarks",
        "Discussion and Summary",
    ],
)
def test_conclusions_under_many_names(title: str) -> None:
    found = paper(
        f"\\section{{Introduction}} {FILL}\\section{{Summary of the data}} {FILL}\\section{{{title}}} We end here.\\section{{Acknowledgements}} Grant 1234 paid."
    )
    assert found.conclusion == "We end here."
    assert "1234" not in found.text


@pytest.mark.parametrize(
    ("discussion", "conclusion"),
    [("We have shown that stars vary.", True), ("In this paper, stars vary.", True), ("The rate of variation is large.", False)],
)
def test_a_last_discussion_is_the_conclusion_when_it_says_what_was_done(discussion: str, conclusion: bool) -> None:
    found = paper(f"\\section{{Introduction}} {FILL}\\section{{Discussion}} {discussion}")
    assert found.conclusion == (discussion if conclusion else None)


def test_a_discussion_before_other_sections_is_no_conclusion() -> None:
    found = paper(f"\\section{{Introduction}} {FILL}\\section{{Discussion}} In this paper, stars vary.\\section{{Data}} {FILL}")
    assert found.conclusion is None


def test_a_last_subsection_can_be_the_conclusion() -> None:
    found = paper(
        f"\\section{{Introduction}} {FILL}\\section{{Discussion}} {FILL}\\subsection{{More}} {FILL}\\subsection{{Conclusions}} We end here."
    )
    assert found.conclusion == "We end here."


def test_text_before_the_first_section_is_an_introduction() -> None:
    found = paper(
        f"\\author{{A. Body}}\\affiliation{{Somewhere}}\\begin{{abstract}}Short.\\end{{abstract}}\n{FILL}\\section{{Methods}} {FILL}"
    )
    assert found.introduction == FILL.strip()
    assert [s["kind"] for s in found.sections] == ["introduction", "body"]


def test_a_letter_without_sections_has_text_and_neither_part() -> None:
    found = paper(f"\\begin{{abstract}}Short.\\end{{abstract}}\n{FILL}\\acknowledgments We thank all. \\bibliography{{x}}")
    assert (found.introduction, found.conclusion) == (None, None)
    assert found.text.endswith(FILL.strip())


@pytest.mark.parametrize("heading", ["\\textit{%s.}---", "{\\it %s.---}", "\\emph{%s}.---", "\\centerline{\\bf %s}\n"])
def test_run_in_headings_of_letters(heading: str) -> None:
    found = paper(
        f"\\begin{{abstract}}Short.\\end{{abstract}}\n\n{heading % 'Introduction'}{FILL}\n\n{heading % 'Model'}{FILL}\n\n"
        f"{heading % 'Conclusions'}We end here.\n\n{heading % 'Acknowledgments'}We thank all."
    )
    assert (found.introduction, found.conclusion) == (FILL.strip(), "We end here.")
    assert "thank" not in found.text


def test_macros_come_from_the_authors_own_package() -> None:
    found = paper(
        f"\\section{{Introduction}} By \\mystar. {FILL}", r"\usepackage[x]{natbib, mine}", {"mine.sty": rb"\newcommand{\mystar}{HD 1}"}
    )
    assert found.introduction.startswith("By HD 1.")


def test_an_empty_section_is_no_part() -> None:
    found = paper(
        f"\\section{{Introduction}}\\label{{i}}\\section{{Data}} {FILL}\\section{{Conclusions}}\\subsection{{One}}\\subsection{{Two}}"
    )
    assert (found.introduction, found.conclusion) == (None, None)


def test_thanks_at_the_end_of_a_conclusion_are_cut() -> None:
    found = paper(
        f"\\section{{Introduction}} {FILL}\\section{{Conclusions}} We end here.\n\nWe would like to thank the referee.\n\n"
        "A.B. is supported by NASA.\n\nThis research has made use of the archive.\n\nFunding for the survey was given by the foundation."
    )
    assert found.conclusion == "We end here."


def test_subsections_of_thanks_and_availability_are_cut() -> None:
    found = paper(
        f"\\section{{Introduction}} {FILL}\\section{{Conclusions}} We end here.\\subsection*{{Acknowledgments}} A.B. and others.\\subsection*{{Data availability}} On request."
    )
    assert found.conclusion == "We end here."


def test_appendices_are_text_but_no_part() -> None:
    found = paper(f"\\section{{Introduction}} {FILL}\\section{{Conclusions}} We end here.\\appendix\\section{{Summary}} {FILL}")
    assert found.conclusion == "We end here."
    assert found.sections[-1]["kind"] == "appendix"


def test_an_appendix_before_the_conclusion_is_no_end_of_the_section_before_it() -> None:
    found = paper(f"\\section{{Introduction}} {FILL}\\appendix Still here.\\section{{Data}} {FILL}\\section{{Conclusions}} We end here.")
    assert " ".join(found.introduction.split()) == f"{FILL}Still here."


def test_a_latexdiff_reads_as_its_new_version() -> None:
    found = paper(
        f"\\section{{Introduction}} We \\DIFdelbegin \\DIFdel{{saw}}\\section{{\\DIFdel{{Gone}}}} {FILL} \\DIFdelend \\DIFaddbegin \\DIFadd{{see}} \\DIFaddend it. {FILL}\\section{{Data}} {FILL}",
        r"\providecommand{\DIFadd}[1]{{\protect\color{blue}\uwave{#1}}}",
    )
    assert found.introduction == f"We see it. {FILL}".strip()


def test_inputs_are_followed_inside_the_tree() -> None:
    files = {
        "sec/intro.tex": b"\\section{Introduction}\n\\input{sec/more}",
        "sec/more.tex": FILL.encode(),
        "data.tex": b"\\section{Data} Data words.",
    }
    found = paper("\\include{sec/intro}\n\\subfile{data.tex}\n\\input{absent}", files=files)
    assert found.introduction == FILL.strip()
    assert "Data words." in found.text
    assert found.notes == ["absent is missing"]


def test_an_input_too_large_or_binary_is_left_out_with_a_note() -> None:
    found = paper(
        f"\\section{{Introduction}} {FILL}\\input{{big}}\\input{{odd}}",
        files={"big.tex": b"x " * 3_000_000, "odd.tex": bytes(range(32)) * 99},
    )
    assert found.introduction == FILL.strip()
    assert [note.split(":")[0] for note in found.notes] == ["too large", "binary"]


def test_import_looks_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "a.tex").write_text("Imported words. " + FILL)
    (tmp_path / "ms.tex").write_text(
        "\\documentclass{aa}\\begin{document}\\section{Introduction}\\import{parts/}{a}\\section{Data} x\\end{document}"
    )
    assert read_paper(tmp_path / "ms.tex").introduction.startswith("Imported words.")


@pytest.mark.parametrize(
    "data",
    [
        "\\usepackage[latin1]{inputenc} Möbius".encode("latin-1"),
        "Möbius".encode("cp1252"),
        b"\xef\xbb\xbf" + "Möbius".encode(),
        "Möbius".encode("utf-16"),
        "M\0öbius".encode(),
    ],
)
def test_encodings(data: bytes) -> None:
    files = {"a.tex": data}
    assert "Möbius" in paper(f"\\section{{Introduction}} {FILL}\\input{{a}}", files=files).text


def test_the_main_file_is_chosen_among_many() -> None:
    main = f"\\documentclass{{mnras}}\\title{{Right}}\\begin{{document}}\\begin{{abstract}}A.\\end{{abstract}}\\input{{part}}{FILL}\\end{{document}}".encode()
    part = b"\\documentclass[ms]{subfiles}\\begin{document}\\section{Introduction} words\\end{document}"
    found = read_paper(
        {
            "aux/ms.tex": main,
            "part.tex": part,
            "aux/response.tex": b"\\documentclass{letter}\\begin{document}Dear editor\\end{document}",
            "aux/ms_diff.tex": main.replace(b"Right", b"Wrong"),
            "figure.pdf": b"%PDF \\documentclass",
        }
    )
    assert found.title == "Right"


def test_the_same_files_give_the_same_paper() -> None:
    assert paper(f"\\section{{Introduction}} {FILL}") == paper(f"\\section{{Introduction}} {FILL}")


def test_a_paper_without_words_is_refused_with_a_reason() -> None:
    with pytest.raises(PaperError) as refused:
        paper("\\section{Introduction} Withdrawn.")
    assert refused.value.reason == "no text"


@pytest.mark.slow
def test_the_command_prints_one_json_object(tmp_path: Path) -> None:
    (tmp_path / "ms.tex").write_text(
        f"\\documentclass{{aa}}\\begin{{document}}\\title{{T}}\\abstract{{A.}}\\section{{Introduction}} {FILL}\\end{{document}}"
    )
    done = processes.run([sys.executable, "-m", "data_tools.latex", tmp_path / "ms.tex"], check=True)
    assert {"title", "abstract", "introduction", "conclusion", "sections", "text"} <= json.loads(done.stdout).keys()
    assert "words in 1 sections" in done.stderr


def test_a_fault_is_one_message_and_exit_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.tex")]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "is not a file" in err


@pytest.mark.slow
def test_reading_a_paper_loads_no_torch() -> None:
    code = "import sys, data_tools.latex.paper; assert not {'torch', 'transformers'} & set(sys.modules)"
    processes.run([sys.executable, "-c", code], check=True)
