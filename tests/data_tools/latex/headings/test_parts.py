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


@pytest.mark.parametrize(
    "command", ["SpecialSection", "mysection", "unnumberedsection", "sectionstar", "NewSection", "ssection", "sectionNoNum", "Chapter", "mychapter", "chapterA"]
)  # fmt: skip
def test_a_command_that_names_a_level_sets_a_heading(command: str) -> None:
    body = rf"\{command}{{Introduction}}\label{{a}}{WORDS}\section{{Data}}{WORDS}\{command}{{Conclusion}}{WORDS}"
    paper = read(body.replace("section{Data", "chapter{Data"), "book")
    assert kinds(paper) == [("Introduction", "introduction"), ("Data", "body"), ("Conclusion", "conclusion")]
    if "hapter" not in command:
        assert kinds(read(body)) == kinds(paper)


@pytest.mark.parametrize(
    "command", [r"\sectionfont{\bf Words}", r"\chaptermark{Words}", r"\sectionname{Words}", r"\sectionref{a}", r"\addtocounter{section}{2}"]
)
def test_a_command_about_headings_sets_none(command: str) -> None:
    assert kinds(read(rf"\section{{Introduction}}{WORDS}{command} {WORDS}\section{{Data}}{WORDS}")) == [
        ("Introduction", "introduction"),
        ("Data", "body"),
    ]


def test_a_heading_of_layout_alone_is_none() -> None:
    poem = (
        r"\chapter*{\centering \begin{normalsize}\end{normalsize}}"
        + "Roses stand here in rows of words and more words than you would think. " * 6
    )
    paper = read(rf"{poem}\chapter{{Introduction}}{WORDS}\chapter{{Data}}{LONG}", "book")
    assert paper.introduction == " ".join(WORDS.split())


@pytest.mark.parametrize(
    "methods",
    [r"\matmethods{@}\showmatmethods{}", r"\section*{Methods}@", r"\section{Materials and methods}@", r"\section*{Figure legends}@"],
)
def test_methods_may_stand_behind_the_discussion_and_its_conclusion(methods: str) -> None:
    behind = methods.replace("@", rf"\subsection*{{Rates}}{WORDS}")
    paper = read(rf"{LONG}\section*{{Results}}{WORDS}\section*{{Discussion}}{WORDS}\subsection*{{Conclusion}}Last words. {WORDS}{behind}")
    assert paper.conclusion.startswith("Last words.")
    assert read(rf"{LONG}\section*{{Results}}{WORDS}\section*{{Discussion}}We have shown it. {WORDS}{behind}").conclusion.startswith(
        "We have shown"
    )


@pytest.mark.parametrize(
    "statement",
    [r"\textbf{Availability of Data and Material}\\ ", "{\\bf Acknowledgements}\n\n", r"\noindent\textbf{Acknowledgments.} ", r"\textbf{Data availability}\\ ",
     r"\paragraph*{Acknowledgments} ", r"{\bf Author contributions:} ", r"\underline{Competing interests}" + "\n\n"],
)  # fmt: skip
def test_statements_set_by_hand_are_not_of_the_conclusion(statement: str) -> None:
    body = rf"\section{{Introduction}}{WORDS}\section{{Conclusion}}Last words of all. {WORDS}{statement}The authors declare it. {WORDS}\section{{References}}"
    paper = read(body + r"\appendix\section{Proof}It is easy. " + WORDS)
    assert paper.conclusion.startswith("Last words") and "declare" not in paper.text
    assert paper.sections[-1]["title"] == "Proof"


def test_a_summary_before_the_introduction_is_not_the_conclusion() -> None:
    assert read(rf"\chapter*{{Summary}}{WORDS}\chapter{{Introduction}}{WORDS}\chapter{{Data}}{LONG}", "book").conclusion is None


@pytest.mark.parametrize(
    "other",
    [r"\begin{foreignabstract}@\end{foreignabstract}", r"\begin{abstract}@\end{abstract}", r"\begin{abstractEN}@\end{abstractEN}",
     r"\begin{ThesisAbstract}\begin{EnglishAbstract}@\end{EnglishAbstract}\end{ThesisAbstract}"],
)  # fmt: skip
def test_of_abstracts_in_two_languages_the_english_one_is_the_papers(other: str) -> None:
    spanish = "Presentamos una medida de la masa de las galaxias que están en los cúmulos y que son las más lejanas de todas, " * 3
    english = "We present a measurement of the mass of the galaxies that are in clusters and that are the most distant of all, " * 3
    body = rf"\section{{Introduction}}{WORDS}\section{{Data}}{WORDS}"
    paper = read(rf"\begin{{abstract}}{spanish}\end{{abstract}}{other.replace('@', english)}{body}")
    assert paper.abstract.startswith("We present") and paper.text.count("measurement") == 3
    assert read(rf"\begin{{abstract}}{spanish}\end{{abstract}}{body}").abstract.startswith("Presentamos")
    assert read(rf"\begin{{abstract}}{english}\end{{abstract}}{other.replace('@', spanish)}{body}").abstract.startswith("We present")


def test_an_abstract_with_a_heading_and_no_heading_behind_it_ends_with_its_paragraph() -> None:
    paper = read(rf"\subsection{{Abstract}}{WORDS}\newpage{LONG * 9}\subsection{{References}}")
    assert paper.abstract == " ".join(WORDS.split())
    assert [s["title"] for s in paper.sections] == [""] and paper.text.count("many stars") == 73


def test_an_abstract_by_any_command_is_no_section() -> None:
    body = rf"\section{{Introduction}}{WORDS}\section{{Data}}{WORDS}\section{{Conclusion}}Last words. {WORDS}"
    assert read(rf"\Abstract{{{WORDS}}}{body}").abstract == " ".join(WORDS.split())
    for name in ("FrenchAbstract", "resumen", "Zusammenfassung", "abstractfr"):
        assert (
            "Étoiles"
            not in read(rf"\begin{{abstract}}{WORDS}\end{{abstract}}{body}\begin{{{name}}}Étoiles {LONG}\end{{{name}}}").conclusion
        )


def test_a_subsection_about_authors_is_matter_for_its_length() -> None:
    body = rf"\section{{Introduction}}{WORDS}\section{{What it means}}{WORDS}\subsection{{Authors}}"
    assert "Authors" in read(body + LONG).text
    assert "Authors" not in read(body + WORDS).text


def test_contributions_are_matter_unless_they_say_who_did_what() -> None:
    body = rf"\section{{Introduction}}{WORDS}\section{{Data}}{WORDS}\subsection{{Contributions}}"
    assert "Contributions" in read(body + WORDS).text
    assert "Contributions" not in read(body + "A. B. wrote the paper, and C. D. led the work. " + WORDS).text


def test_titles_of_a_books_parts_are_of_no_chapter() -> None:
    part = r"\part[Short]{Objects \\ {\large Pieces of lines}}\part*{More}"
    paper = read(rf"\chapter{{Introduction}}{WORDS}{part}\chapter{{Data}}{LONG}", "book")
    assert paper.introduction == " ".join(WORDS.split()) and "Pieces" not in paper.text


@pytest.mark.parametrize("command", ["Annex", "annexe", "Appendix", "appendixsection", "appsection", "appendixchapter"])
def test_a_command_for_an_appendix_ends_the_conclusion(command: str) -> None:
    for level, kind in (("chapter", "book"), ("section", "article")):
        paper = read(
            rf"\{level}{{Introduction}}{WORDS}\{level}{{Data}}{WORDS}\{level}{{Conclusion}}Last words. {WORDS}\{command}{{Tables}}{WORDS}",
            kind,
        )
        assert kinds(paper)[2:] == [("Conclusion", "conclusion"), ("Tables", "appendix")]


@pytest.mark.parametrize("begin", ["UTabstract}{A. Adviser}", "Zusammenfassung}", "thesisabstract}", "resumen}"])
def test_the_only_abstract_is_the_papers_however_it_is_called(begin: str) -> None:
    paper = read(
        rf"\begin{{{begin}" + "\n" + rf"{WORDS}\end{{{begin.partition('}')[0]}}}\chapter{{Introduction}}{WORDS}\chapter{{Data}}{LONG}",
        "book",
    )
    assert paper.abstract == " ".join(WORDS.split())
