r"""Which section is the introduction, which the conclusion, and which is none of the paper: theses, other languages, drafts."""

import pytest

from data_tools.latex.headings.titles import CONCLUSION, INTRODUCTION, plain_title
from data_tools.latex.paper import Paper, read_paper

WORDS = "We looked at many stars on many nights and we write down here what we saw of them, in words and numbers, for all who ask.\n\n"
LONG = WORDS * 8


def read(body: str, kind: str = "article") -> Paper:
    return read_paper({"m.tex": f"\\documentclass{{{kind}}}\n\\begin{{document}}\n{body}\n\\end{{document}}\n".encode()})


def kinds(paper: Paper) -> list[tuple[str, str]]:
    return [(section["title"], section["kind"]) for section in paper.sections]


@pytest.mark.parametrize(
    "title",
    ["Introducción", "Introduzione", "Introdução", "Einleitung", "1. Einführung", "Inleiding", "Wstęp", "Úvod", "Введение", "Introduction générale", "Introduction"],
)  # fmt: skip
def test_an_introduction_is_known_in_the_languages_of_theses(title: str) -> None:
    assert INTRODUCTION.search(plain_title(title))
    paper = read(rf"\chapter{{{title}}}{WORDS}\chapter{{Daten}}{LONG}", "book")
    assert paper.introduction == " ".join(WORDS.split())


@pytest.mark.parametrize(
    "title",
    ["Conclusiones", "Conclusión", "Conclusioni", "Conclusões", "Fazit", "Schlussfolgerungen", "Conclusies", "Wnioski", "Závěr", "Заключение", "Conclusion et perspectives",
     "Conclusiones y trabajo futuro", "Fazit und Ausblick"],
)  # fmt: skip
def test_a_conclusion_is_known_in_the_languages_of_theses(title: str) -> None:
    assert CONCLUSION.search(plain_title(title))
    paper = read(rf"\chapter{{Einleitung}}{WORDS}\chapter{{Daten}}{LONG}\chapter{{{title}}}{WORDS}", "book")
    assert paper.conclusion == " ".join(WORDS.split())


def test_title_pages_before_a_first_chapter_are_no_introduction() -> None:
    declared = "I declare that this work is my own and that nobody else did it, " * 6
    paper = read(rf"{declared}\chapter{{Models}}{LONG}\chapter{{Data}}{LONG}", "report")
    assert paper.introduction is None and declared.split()[0] in paper.text
    paper = read(rf"{declared}\section{{Models}}{LONG}\section{{Data}}{LONG}")
    assert paper.introduction.startswith("I declare")  # of a letter the text before the first section is


def test_an_introduction_may_stand_behind_summaries_and_thanks() -> None:
    before = "".join(rf"\chapter*{{{title}}}{WORDS}" for title in ("Résumé", "Samenvatting", "Preface", "Notation", "Remerciements"))
    paper = read(rf"{before}\chapter{{Introduction}}{WORDS}\chapter{{Data}}{LONG}", "book")
    assert paper.introduction == " ".join(WORDS.split())
    assert "Remerciements" not in paper.text


@pytest.mark.parametrize(
    "heading", [r"\chapter[Short][Head]{Introduction}", r"\chapter[Short]{Introduction}", r"\chapter [Short] [Head] {Introduction}"]
)
def test_memoir_has_two_shorter_titles(heading: str) -> None:
    assert kinds(read(rf"{heading}{WORDS}\chapter{{Data}}{LONG}", "memoir")) == [("Introduction", "introduction"), ("Data", "body")]


@pytest.mark.parametrize("end", [r"\backmatter", r"\mainmatter", r"\backmatter*", r"\end{appendices}"])
def test_what_follows_an_appendix_may_be_the_conclusion(end: str) -> None:
    begin = r"\begin{appendices}" if "end" in end else r"\appendix"
    paper = read(
        rf"\chapter{{Introduction}}{WORDS}\chapter{{Data}}{LONG}{begin}\chapter{{Proofs}}{WORDS}{end}\chapter{{Conclusion}}{WORDS}", "book"
    )
    assert kinds(paper)[2:] == [("Proofs", "appendix"), ("Conclusion", "conclusion")]


def test_a_conclusion_without_a_sentence_is_none_and_no_discussion_takes_its_place() -> None:
    discussion = rf"\section{{Introduction}}{WORDS}\section{{Discussion}}In this paper we have shown it. {WORDS}"
    assert read(discussion).conclusion.startswith("In this paper")
    assert read(rf"{discussion}\section{{Conclusion}}").conclusion is None
    assert read(rf"{discussion}\section{{Conclusions}}\subsection{{Towards a better map}}\subsection{{More}}").conclusion is None


@pytest.mark.parametrize(
    "title", ["Implementation and code availability", "Conclusions and acknowledgements", "Telescope availability in winter"]
)
def test_a_title_that_names_matter_first_is_of_the_paper(title: str) -> None:
    assert title in [found for found, _ in kinds(read(rf"\section{{Introduction}}{WORDS}\section{{{title}}}{WORDS}"))]


@pytest.mark.parametrize(
    "title",
    ["Data availability", "Data and code availability", "Availability of data and materials", "Code Availability Statement", "Acknowledgements and funding", "Agradecimientos",
     "Acknowledgment", "Software", "Software and facilities", "Supplementary material"],
)  # fmt: skip
def test_apparatus_is_not_of_the_paper(title: str) -> None:
    paper = read(rf"\section{{Introduction}}{WORDS}\section{{{title}}}{WORDS}\subsection{{{title}}}{WORDS}")
    assert kinds(paper) == [("Introduction", "introduction")] and title not in paper.text
    assert title not in read(rf"\section{{Introduction}}{WORDS}\section{{Data}}{WORDS}\subsection{{{title}}}{WORDS}").text


def test_a_chapter_about_software_is_matter_for_its_length() -> None:
    paper = read(rf"\chapter{{Introduction}}{WORDS}\chapter{{Data}}{WORDS}\chapter{{Software}}{LONG}", "book")
    assert kinds(paper)[-1] == ("Software", "body")
    assert "Software" in read(rf"\section{{Introduction}}{WORDS}\section{{Data}}{WORDS}\subsection{{Software}}{LONG}").text
