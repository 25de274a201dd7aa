r"""Papers without \begin{document}: plain TeX, harvmac, AmS-TeX, an author's own macros."""

import pytest

from data_tools.latex.paper import Paper, PaperError, read_paper
from tests.made.passages import FILL

PLAIN = r"""\magnification=\magstep1
\baselineskip=18pt \hsize=6.5truein
\def\half{{1\over 2}}
\nopagenumbers
\rightline{PREPRINT-93/1}
\bigskip
\centerline{\bf On the masses of stars}
\centerline{\bf and planets}
\bigskip
\centerline{A. Author\footnote{$^*$}{Supported by nobody.}}
\centerline{\it Department of Stars, University of Skies}
\vskip 1cm
\centerline{\bf Abstract}
{\narrower We measure $\half$ of all. FILL\par}
\vfill\eject
\centerline{\bf 1. Introduction}
\medskip
First words. FILL
\item{(a)} one thing
\item{(b)} another\footnote*{A note here.} {\it thing}

\centerline{\bf 2. Data}
\medskip
FILL$$E=mc^2\eqno(1)$$ Here.
\topinsert Figure text here. \endinsert
\+ one & two & three \cr
\centerline{\bf 3. Conclusions}
\medskip
Last words. FILL

\centerline{\bf References}
\item{[1]} B. Reference, Ap. J. 1, 2.
\bye
Nobody reads this.
"""
OWN = r"""\font\lbf=cmbx10 scaled\magstep2
\def\bs{\bigskip}\def\ms{\medskip}\def\ni{\noindent}\def\cl{\centerline}
\def\title#1{\cl{\lbf #1}\ms}
\def\stitle#1{\bs{\ni\bf #1}\par\nobreak\ms}
\title{On the masses of stars and planets}
\ms\cl{\bf A. Author}
\ms\cl{Department f\"ur Sterne}
\bs\cl{Revised 1st May 1994}
\bs\ni
{\bf Abstract.}
We measure it. FILL

\stitle{I. Introduction}\ni
First words. FILL\footnote\dag
{A note here.}{\it (a)} one thing. FILL

\stitle{II. Data}\ni
FILL$$a=b\eqno(1)$$

\stitle{III. Conclusion}\ni
Last words. FILL

\bs\ni{\bf Acknowledgements.} Thanks to nobody.
\stitle{References}
B. Reference 1990 {\it J} {\bf 1} 2\par
\vfill\eject\end
"""
HARVMAC = r"""\input harvmac
\Title{\vbox{\hbox{PREPRINT-93/1}}}{On the masses of stars and planets}
\centerline{A. Author}
\bigskip\centerline{Department of Stars}
\noindent We measure it. FILL
\Date{9/93}
\newsec{Introduction}
First words. FILL as in \ref\HW{B. Reference, Nature 1 (1990).} and more (a).\foot{A note here.}
\nref\AB{B. Reference}
\newsec{Model}
FILL \subsec{Part} FILL
\newsec{Conclusions}
Last words. FILL
\listrefs
\bye
"""
AMS = r"""\input amstex
\documentstyle{amsppt}
\topmatter
\title On the masses of stars and planets \endtitle
\author A. Author \endauthor
\affil Department \endaffil
\abstract We measure it. FILL\endabstract
\endtopmatter
\document
\head 1. Introduction \endhead
First words. FILL
\proclaim{Theorem 1} It holds (a). \endproclaim
\head 2. Proof \endhead
FILL
\head 3. Conclusion\endhead
Last words. FILL
\Refs
\ref\key 1\by B. Reference\paper T\jour J\endref
\endRefs
\enddocument
"""
BEGINSECTION = r"""\hsize=6in
\beginsection 1. Introduction

First words. FILL (a)

\beginsection 2. Data

FILL

\beginsection 3. Summary

Last words. FILL
\bye
"""
KINDS = {"plain": PLAIN, "own": OWN, "harvmac": HARVMAC, "AmS-TeX": AMS, "beginsection": BEGINSECTION}


def read(source: str) -> Paper:
    return read_paper({"paper.tex": source.replace("FILL", FILL.strip()).encode()})


@pytest.mark.parametrize("kind", KINDS)
def test_a_paper_without_latex_is_read(kind: str) -> None:
    paper = read(KINDS[kind])
    assert paper.introduction.startswith("First words.") and "(a)" in paper.introduction
    assert paper.conclusion.startswith("Last words.") and paper.conclusion.endswith("season.")
    assert [section["kind"] for section in paper.sections if section["title"]] == [
        "introduction",
        *["body"] * (kind != "letter"),
        "conclusion",
    ]
    if kind != "beginsection":
        assert paper.title == "On the masses of stars and planets"
        assert paper.abstract.startswith("We measure")
    for gone in (
        "Department",
        "Author",
        "nobody",
        "Nobody",
        "note",
        "Reference",
        "Figure",
        "PREPRINT",
        "three",
        "magnification",
        "\\",
        "{",
        "endhead",
        "0pt",
    ):
        assert gone not in (paper.text if gone not in "\\{" else paper.introduction), gone


def test_a_mark_of_a_note_without_braces_leaves_what_follows() -> None:
    assert "another thing" in read(PLAIN).introduction
    assert "(a) one thing." in read(OWN).introduction


def test_citations_of_harvmac_are_citations() -> None:
    assert "as in [citation] and more" in read(HARVMAC).introduction


@pytest.mark.parametrize("source", ["Only words. FILL", r"\section{Introduction} FILL", r"\chapter{One}\label{a} FILL \cite{b}"])
def test_a_part_of_a_paper_or_no_tex_at_all_is_refused(source: str) -> None:
    with pytest.raises(PaperError, match="not LaTeX"):
        read(source)


def test_latex_is_chosen_before_plain_tex() -> None:
    latex = r"\documentclass{article}\begin{document}\section{Introduction} Here it is. FILL\end{document}".replace("FILL", FILL)
    assert read_paper({"a.tex": PLAIN.encode(), "z.tex": latex.encode()}).introduction.startswith("Here it is.")


def test_openings_without_ends_cost_no_more_than_their_length() -> None:
    for many in (r"\title ", r"\topinsert ", r"\abstract x", r"\+ a & b ", r"\ref\a", r"\footnote", r"\centerline{a}"):
        assert read(r"\beginsection 1. Introduction" + "\n\nFirst. FILL\n" + many * 30_000 + r"\bye").introduction
