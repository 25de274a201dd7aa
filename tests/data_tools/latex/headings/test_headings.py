r"""Headings in every dress: those of the classes, and those set by hand in papers that have none other."""

import time

import pytest

from data_tools.latex.headings.titles import plain_title
from data_tools.latex.paper import Paper, read_paper

INTRODUCTION = """First sentence of the introduction stands here. It goes on for a while with words.

{\\bf Gaia} is a satellite and \\textbf{bold words} begin this paragraph. Last sentence of the introduction stands here."""
DATA = "The data were taken with a telescope on a mountain."
CONCLUSION = "We have shown what we set out to show. Last words."
# N is the number, X the name, U the name in capitals
DRESSES = [
    "{\\bf @N. @X}\n\n",
    "{\\bf @N. @X}\n",
    "{\\bf @N. @X} ",
    "{\\bf @N. @X}\\\\\n",
    "{\\bf @N. @X.} ",
    "{\\bf @N @X}\n\n",
    "\\noindent{\\bf @N. @X}\n\n",
    "\\noindent {\\bf @X}\n\n",
    "\\textbf{@N. @X}\n\n",
    "\\textbf{@X}\n\n",
    "\\textbf{@X}\\\\\n",
    "\\noindent\\textbf{@X}\n",
    "\\textbf{@N.~@X}\n\n",
    "\\textbf{@N.\\ @X}\n\n",
    "\\textbf{@N\\quad @X}\n\n",
    "\\begin{center}{\\bf @X}\\end{center}\n",
    "\\begin{center}\\bf @N. @X\\end{center}\n",
    "\\begin{center}\n\\textbf{@N. @X}\n\\end{center}\n",
    "\\begin{center}\\textsc{@X}\\end{center}\n\n",
    "\\begin{center}@N. @U\\end{center}\n\n",
    "\\begin{center}{\\large\\bf @N. @X}\\\\ \\end{center}\n\n",
    "\\centerline{\\bf @N. @X}\n\n",
    "\\centerline{\\bf @U}\n\n",
    "\\centerline{@N. @U}\n\n",
    "\\centerline{\\sc @N. @X}\n",
    "\\centerline{\\underline{@X}}\n\n",
    "\\bigskip\\centerline{\\bf @X}\\medskip\n",
    "\\vskip 12pt\\noindent{\\bf @N. @X}\\vskip 6pt\n",
    "\\vspace{0.5cm}\n\\noindent{\\bf @N. @X}\n\\vspace{0.2cm}\n\n",
    "{\\sc @N. @X}\n\n",
    "\\textsc{@N. @X}\n\n",
    "{\\sc @X}\n\n",
    "\\underline{@N. @X}\n\n",
    "\\underline{@X}\n\n",
    "\\noindent\\underline{\\bf @X}\n\n",
    "{\\underline{\\textbf{@X}}}\n\n",
    "{\\it @N. @X}\n\n",
    "\\emph{@N. @X}\n\n",
    "\\textit{@X}\n\n",
    "{\\em @X.}\n\n",
    "@N. @U\n\n",
    "@N. @U\n",
    "@N @U\n\n",
    "@U\n\n",
    "\\noindent @N. @U\n\n",
    "\\noindent @U\n\n",
    "{\\large\\bf @X}\\par\n\n",
    "{\\Large \\textbf{@N. @X}}\n\n",
    "{\\bfseries @N. @X}\\par\n",
    "\\par\\noindent{\\bf @N. @X}\\par\\noindent ",
    "\\leftline{\\bf @N. @X}\n\n",
    "\\bf @N. @X \\rm\n\n",
    "{\\bf\\large @N. @X\\\\}\n\n",
    "{\\bf @N. @X\\hfill}\n\n",
    "{\\bf @N.} {\\bf @X}\n\n",
    "\\textbf{\\large @N. @X}\n\n",
    "\\large{\\bf @N. @X}\\normalsize\n\n",
    "\\medskip\\noindent{\\bf @N. @X}\\medskip\\noindent ",
    "{\\bf \\S @N. @X}\n\n",
    "\\hbox{\\bf @N. @X}\n\n",
    "\\noindent\\textbf{@N. @X} --- ",
    "{\\bf @N.\\hskip 1em @X}\n\n",
    "{\\bf @N) @X}\n\n",
    "{\\bf @X:}\n\n",
    "{\\bf @X:} ",
    "\\textbf{@X.} ",
    "\\textit{@X.}---",
    "\\section *{@X}\n",
    "\\section * {@X}\n",
    "\\section  {@X}\n",
    "\\section[short]{@X}\n",
    "\\section*\n{@X}\n",
    "\\section{\\bf @X}\n",
    "\\section{\\centering @U}\n",
    "\\addsec{@X}\n",
    "\\addsec*{@X}\n",
    "\\addsec[x]{@X}\n",
    "\\addchap{@X}\n",
    "\\addchap*{@X}\n",
    "\\chapter*{@X}\n",
    "\\begin{section}{@X}\n",
    "\\specialsection*{@X}\n",
    "\\head{@X}\n",
    "\\head @N. @X \\endhead\n",
    "\\heading @X\\endheading\n",
    "\\beginsection @N. @X\n\n",
    "\\beginsection @X\\par\n",
    "\\titlea{@N. @X}\n",
    "\\heading{@X}\n",
    "\\section{@U\\label{sec:x}}\n",
    "\\section*{\\uppercase{@X}}\n",
    "\\section{\\texorpdfstring{@X}{@X}}\n",
    "\\section{@N. @X}\n",
    "\\section{{\\large @X}}\\label{a}\n",
    "\\section{ @X }\n",
    "\\Section{@X}\n",
    "\\firstsection\\section{@X}\n",
    "\\textcolor{blue}{\\textbf{@X}}\n\n",
    "@N.~\\underbar{@X}\n\n",
    "\\noindent{\\bf @N. @X}\\hfill\\break\n",
    "{\\bf\\noindent @N~~@X}\\\\[2mm]\n",
    "\\begin{flushleft}\n{\\Large\\bf @N. @X}\n\\end{flushleft}\n",
    "@N. @X\n\n",
    "\\noindent @N. @X\n\n",
    "\\noindent\\fbox{\\bf @X}\n\n",
    "{\\bf\n@X\n}\n\n",
    "\\section*{}\n{\\bf @X}\n\n",
    "{\\bf @N.} {\\bf @X}\n\n",
    "\\centerline{\\bf @N~~~@X}\\vskip 5mm\n",
    "\\newsec{@X}\n",
]


def read(body: str) -> Paper:
    abstract = "\\begin{abstract}\nWe measure the brightness of many stars over several nights and report.\n\\end{abstract}\n\n"
    source = f"\\documentclass{{article}}\n\\begin{{document}}\n\\title{{T}}\n{abstract}{body}\n\\end{{document}}\n"
    return read_paper({"m.tex": source.encode()})


def dressed(dress: str, number: str, name: str) -> str:
    return dress.replace("@N", number).replace("@X", name).replace("@U", name.upper())


@pytest.mark.parametrize("dress", DRESSES)
def test_introduction_and_conclusion_are_found_under_any_heading(dress: str) -> None:
    for one, two, three in (("1", "2", "3"), ("I", "II", "III"))[: 2 if "@N" in dress else 1]:
        for below in ("", "{\\bf 2.1 The sample}\n\nThe sample is good.\n\n") if "@N" in dress else ("",):
            found = read(
                f"{dressed(dress, one, 'Introduction')}{INTRODUCTION}\n\n{dressed(dress, two, 'Data')}{DATA}\n\n{below}"
                f"{dressed(dress, three, 'Conclusions')}{CONCLUSION}\n\n"
                f"{dressed(dress.replace('@N. ', ''), '4', 'Acknowledgements')}We thank the referee."
            )
            assert found.introduction.startswith("First sentence") and found.introduction.endswith("stands here."), found.introduction
            assert "Gaia is a satellite and bold words begin" in found.introduction
            assert found.conclusion == CONCLUSION
            assert "referee" not in found.text
            assert [s["kind"] for s in found.sections] == ["introduction", "body", "conclusion"]


@pytest.mark.parametrize(
    "dress", ["\\begin{center}{\\bf @N. @X}\\end{center}\n\n", "\n\n\\noindent{\\bf @N. @X}\n\n", "\\centerline{\\sc @N. @X}\n\n"]
)
def test_a_paper_may_set_only_its_first_and_last_heading_by_hand(dress: str) -> None:
    found = read(
        f"{dressed(dress, '1', 'Introduction')}{INTRODUCTION}\n\\section{{Data}}\n{DATA}\n{dressed(dress, '3', 'Conclusions')}{CONCLUSION}"
    )
    assert found.introduction.startswith("First sentence") and found.introduction.endswith("stands here.")
    assert found.conclusion == CONCLUSION


def test_bold_words_in_prose_are_no_headings() -> None:
    text = (
        "{\\bf Gaia} is a satellite.\n\n\\textbf{Results} show that stars vary.\n\n{\\bf Note.} All is well here.\n\n"
        "1. We found a star.\n\n2. We lost a star.\n\n\\underline{Never} say this.\n\n\\begin{center}{\\bf Three centred words}\\end{center}\n\n"
    )
    letter = read(text * 2 + DATA * 5)
    assert (letter.introduction, letter.conclusion, len(letter.sections)) == (None, None, 1)
    paper = read(f"\\section{{Introduction}}\n{INTRODUCTION}\n\n{text}\\section{{Data}}\n{text}\\section{{Conclusions}}\n{CONCLUSION}")
    assert [s["title"] for s in paper.sections] == ["Introduction", "Data", "Conclusions"]
    assert paper.conclusion == CONCLUSION


def test_numbered_headings_by_hand_need_no_known_name_when_they_go_on_counting() -> None:
    names = ("Why we look", "What we saw", "What it means")
    found = read("".join(f"{{\\bf {i}. {name}}}\n\n{DATA}\n\n" for i, name in enumerate(names, 1)))
    assert [plain_title(s["title"]) for s in found.sections] == [name.lower() for name in names]


def test_many_openings_of_headings_cost_no_more_than_a_refusal() -> None:
    for many in ("\n\n1. Introduction" * 20_000, "\n\\begin{center}" * 20_000, "\n\n{\\bf 1. " * 1_900, "\n\n" + "\\noindent" * 50_000):
        start = time.thread_time()
        assert read(f"{DATA}{many}{DATA}").text
        assert time.thread_time() - start < 4, many[:20]


def test_sections_of_copernicus_and_of_nature() -> None:
    found = read(f"\\introduction\n{INTRODUCTION}\n\\section{{Data}}\n{DATA}\n\\conclusions[Summary]\n{CONCLUSION}")
    assert found.introduction.startswith("First sentence") and found.conclusion == CONCLUSION
    assert read(f"\\section{{Introduction}}{DATA}\\begin{{methods}}{DATA}\\end{{methods}}").sections[1]["title"] == "Methods"


@pytest.mark.parametrize(
    ("title", "plain"),
    [
        ("I N T R O D U C T I O N", "introduction"),
        ("C O N C L U S I O N S", "conclusions"),
        ("V. CONCLUSIONS", "conclusions"),
        ("IV SUMMARY", "summary"),
        ("3.2. Data & methods", "data and methods"),
        ("Section 4: Results", "results"),
    ],
)
def test_a_title_is_compared_without_its_number(title: str, plain: str) -> None:
    assert plain_title(title) == plain


@pytest.mark.parametrize(
    "item",
    [
        "\\item {\\bf @X}\\\\\n",
        "\\item[@N.] \\textbf{@X}\n\n",
        "\\item {\\sc @X}\n\n",
        "\\item \\underline{@X}\\\\\n",
        "\\item[{@N}] {\\bf @X.} ",
    ],
)
def test_the_items_of_a_list_may_be_the_sections(item: str) -> None:
    body = "".join(
        dressed(item, number, name) + text + "\n\n"
        for number, name, text in (("1", "Introduction", INTRODUCTION), ("2", "Data", DATA), ("3", "Conclusions", CONCLUSION))
    )
    found = read(f"\\begin{{enumerate}}\n{body}\\end{{enumerate}}\n")
    assert found.introduction.endswith("stands here.") and found.conclusion == CONCLUSION
    # and in a paper with sections they are the items of a list
    listed = read(f"\\section{{Introduction}}\n{INTRODUCTION}\n\\section{{Data}}\n\\begin{{enumerate}}\n{body}\\end{{enumerate}}\n")
    assert [s["title"] for s in listed.sections] == ["Introduction", "Data"] and listed.conclusion is None
