r"""Inputs come to their places however they are asked for, and in whichever encoding they were written."""

import pytest

from data_tools.latex.paper import read_paper
from tests.made.passages import words

INPUT = "Input words stand here."
FILES = {
    "sub.tex": INPUT.encode() + b"\n",
    "sec/a.tex": INPUT.encode() + b"\n",
    "sec/b.tex": b"\\input{a}",
    "two words.tex": INPUT.encode(),
    "x.txt": INPUT.encode(),
    "Cap/Intro.TeX": INPUT.encode(),
}
# (passage, preamble), all of which bring INPUT
CASES = [
    (r"\input{sub} More.", ""),
    (r"\input sub More.", ""),
    ("\\input  sub\n More.", ""),
    ("\\input\tsub\nMore.", ""),
    ("\\input\nsub\nMore.", ""),
    (r"\input{sub.tex} More.", ""),
    (r"\input sub.tex More.", ""),
    (r"\input{ sub } More.", ""),
    (r"\input {sub} More.", ""),
    ("\\input\n{sub} More.", ""),
    (r"\input{./sub} More.", ""),
    (r"\input{SUB} More.", ""),
    (r"\input{Sub.TEX} More.", ""),
    (r"\input{cap/intro} More.", ""),
    (r"\input{cap/intro.tex} More.", ""),
    (r"\include{sub} More.", ""),
    (r"\include{SUB} More.", ""),
    (r"\subfile{sub} More.", ""),
    (r"\subfileinclude{sub} More.", ""),
    (r"\import{sec/}{a} More.", ""),
    (r"\import{sec}{a.tex} More.", ""),
    (r"\subimport{sec/}{a} More.", ""),
    (r"\import*{sec/}{a} More.", ""),
    (r"\includefrom{sec/}{a} More.", ""),
    (r"\inputfrom{sec/}{a} More.", ""),
    (r"\subimport*{./sec/}{a} More.", ""),
    (r"\input{\dir/a} More.", r"\newcommand{\dir}{sec}"),
    (r"\input\dir/a  More.", r"\def\dir{sec}"),
    (r"\input{\f} More.", r"\def\f{sub}"),
    (r"\input\f\ More.", r"\def\f{sub}"),
    (r"\inp{sub} More.", r"\newcommand{\inp}[1]{\input{#1}}"),
    (r"\inp{sub} More.", r"\newcommand{\inp}[1]{\input{#1.tex}}"),
    (r"\inp{a} More.", r"\newcommand{\inp}[1]{\input{sec/#1}}"),
    (r"\inp{a} More.", r"\newcommand{\inp}[1]{\input{\dir/#1}}\def\dir{sec}"),
    (r"\inp{sub} More.", r"\let\inp\input"),
    (r"\inp{sub} More.", r"\newcommand{\inp}{\input}"),
    (r'\input{"two words"} More.', ""),
    (r'\input "two words" More.', ""),
    (r"\input{two words} More.", ""),
    (r"\input{x.txt} More.", ""),
    (r"\IfFileExists{sub.tex}{\input{sub}}{Missing.} More.", ""),
    (r"\IfFileExists{nosuch}{Found.}{\input{sub}} More.", ""),
    (r"\InputIfFileExists{sub}{}{Missing.} More.", ""),
    (r"\InputIfFileExists{nosuch}{}{\input{sub}} More.", ""),
    (r"\expandableinput{sub} More.", ""),
    (r"\makeatletter\@input{sub}\makeatother More.", ""),
    (r"\makeatletter\@@input sub \makeatother More.", ""),
    (r"\input{sec/b} More.", ""),
    (r"\variable{sub} More.", ""),
    (r"\iftrue\input{sub}\fi{} More.", ""),
    (r"\iffalse\input{nosuch}\else\input{sub}\fi{} More.", ""),
    (r"\textbf{\input{sub}} More.", ""),
    (r"\csname input\endcsname{sub} More.", ""),
    (r"\input{sub}\input{nosuch} More.", ""),
    (r"\begin{center}\input{sub}\end{center} More.", ""),
    ("%\\input{nosuch}\n\\input{sub} More.", ""),
    (r"\include{sub}\include{x} More.", r"\includeonly{sub}"),
]
FRENCH = "Université, été, naïve façon, où, Günther, García, señor, Ångström."
RUSSIAN = "звезда светит ярко. Наблюдения Звезды"
DECLARED = [  # inputenc's name, Python's, text
    ("applemac", "mac-roman", FRENCH),
    ("macce", "mac-latin2", "Štefan"),
    ("latin1", "latin-1", FRENCH),
    ("ansinew", "cp1252", FRENCH),
    ("cp1252", "cp1252", FRENCH),
    ("latin9", "iso8859-15", "cœur"),
    ("latin2", "iso8859-2", "Štefan Włoch"),
    ("latin5", "iso8859-9", "şarkı"),
    ("cp1250", "cp1250", "Štefan Włoch"),
    ("cp437", "cp437", "été"),
    ("cp850", "cp850", FRENCH),
    ("utf8", "utf-8", RUSSIAN + FRENCH),
    ("koi8-r", "koi8-r", RUSSIAN),
    ("koi8-u", "koi8-u", RUSSIAN),
    ("cp1251", "cp1251", RUSSIAN),
    ("cp866", "cp866", RUSSIAN),
    ("maccyr", "mac-cyrillic", RUSSIAN),
    ("iso88595", "iso8859-5", RUSSIAN),
]
GUESSED = [
    *((codec, text) for codec in ("mac-roman", "cp1252") for text in (FRENCH, "the star’s “light” – so", "Günther and José")),
    *((codec, RUSSIAN) for codec in ("koi8-r", "cp1251", "cp866")),
    ("latin-1", FRENCH),
    ("cp1252", "5±1 µm at 30° in Günther"),
]


@pytest.mark.parametrize(("passage", "preamble"), CASES)
def test_an_input_is_found(passage: str, preamble: str) -> None:
    assert len(CASES) > 50
    assert words(passage, preamble, FILES) == f"{INPUT} More."


@pytest.mark.parametrize("end", ["", "\n", "% c\n", "\n\n", "\\endinput\nNo.\n", "\n\\end{document} No.", "\n\\endinput"])
def test_an_input_ends_where_it_says(end: str) -> None:
    assert words(r"\input{s} More.", files={"s.tex": (INPUT + end).encode()}) == f"{INPUT} More."


def test_a_sub_file_with_a_preamble_of_its_own_brings_its_body() -> None:
    alone = f"\\documentclass[main]{{subfiles}}\nNo.\n\\begin{{document}}\n{INPUT}\n\\end{{document}}\nNo."
    assert words(r"\subfile{s} More.", files={"s.tex": alone.encode()}) == f"{INPUT} More."


def test_a_file_that_the_paper_writes_can_be_read() -> None:
    assert words(r"\input{s} More.", f"\\begin{{filecontents}}{{s.tex}}\n{INPUT}\n\\end{{filecontents}}") == f"{INPUT} More."


@pytest.mark.parametrize("how", [r"\usepackage[%s]{inputenc}", r"\inputencoding{%s}", r"\RequirePackage[ %s ]{inputenc}"])
@pytest.mark.parametrize(("name", "codec", "text"), DECLARED)
def test_sub_files_are_of_the_papers_encoding(name: str, codec: str, text: str, how: str) -> None:
    assert words(r"\input{s} More.", how % name, {"s.tex": f"{text} {INPUT}".encode(codec)}) == f"{text} {INPUT} More."


@pytest.mark.parametrize(("codec", "text"), GUESSED)
def test_an_encoding_that_nobody_names_is_guessed(codec: str, text: str) -> None:
    assert words(r"\input{s} More.", files={"s.tex": f"{text} {INPUT}".encode(codec)}) == f"{text} {INPUT} More."


def test_the_main_file_may_leave_even_the_beginning_to_another() -> None:
    main = b"\\documentclass{book}\n\\input{preamble}\n\\input{body}\n"
    body = b"\\title{A title}\n\\begin{document}\n\\include{one}\n\\end{document}\n"
    one = b"\\documentclass{subfiles}\\begin{document}\\chapter{Introduction}" + b"Words of the first chapter. " * 9 + b"\\end{document}"
    paper = read_paper({"m.tex": main, "preamble.tex": b"\\newcommand{\\x}{y}\n", "body.tex": body, "one.tex": one})
    assert paper.title == "A title" and paper.introduction.startswith("Words of the first chapter.")
    assert "subfiles" not in paper.text


def test_a_few_letters_beyond_ascii_tell_the_encoding_by_where_they_stand() -> None:
    for text in (
        "Algorithmique et géométrie discrète, droites discrètes",
        "Größe über alles",
        "À la recherche d'une étoile",
        "El año próximo",
    ):
        for codec in ("cp1252", "mac-roman"):
            passage = words(r"\input{sub}", "", {"sub.tex": text.encode(codec)})
            assert passage == text, codec
