r"""A definition ends with its group; one that is \global, or in an argument, does not."""

import pytest

from data_tools.latex.expansion.expander import expand
from data_tools.latex.limits import Deadline
from data_tools.latex.tree import Files, Tree
from tests.made.passages import words

CASES = [  # passage, what a reader sees, preamble beside \def\x{a}
    (r"{\def\x{b}\x} \x.", "b a.", ""),
    (r"{\it \renewcommand{\x}{b}\x} \x.", "b a.", ""),
    (r"{\let\x\y\x}\x.", "ba.", r"\def\y{b}"),
    (r"word {\def\x{b}\x}word \x.", "word bword a.", ""),
    (r"\textbf{\def\x{b}\x} \x.", "b a.", ""),
    (r"{\def\z{b}\z} and \z!", "b and!", ""),
    (r"{{\def\x{b}\x}\x\def\x{c}\x}\x.", "baca.", ""),
    (r"{\def\x{b}{\def\x{c}\x}\x}\x.", "cba.", ""),
    (r"{\def\x{b}\def\x{c}\x}\x.", "ca.", ""),
    (r"\begin{quote}\def\x{b}\x\end{quote} \x.", "b a.", ""),
    (r"\begin{quote}{\def\x{b}\x}\x\end{quote}\x.", "ba a.", ""),
    (r"\begin{center}\begin{quote}\def\x{b}\end{quote}\x\end{center}\x.", "a a.", ""),
    (r"\begingroup\def\x{b}\x\endgroup{} \x.", "b a.", ""),
    (r"\bgroup\def\x{b}\x\egroup{} \x.", "b a.", ""),
    (r"{\s\x} \x.", "b a.", r"\def\s{\def\x{b}}"),
    (r"\begin{y}\x\end{y}\x.", "b a.", r"\newenvironment{y}{\begin{quote}\def\x{b}}{\end{quote}}"),
    (r"{\providecommand{\w}{b}\w}\providecommand{\w}{c}\w.", "bc.", ""),
    (r"{\makeatletter\@namedef{x}{b}\x}\x.", "ba.", ""),
    # global
    (r"{\gdef\x{b}\x} \x.", "b b.", ""),
    (r"{\xdef\x{b}\x} \x.", "b b.", ""),
    (r"{\global\def\x{b}\x} \x.", "b b.", ""),
    (r"{\global\long\def\x{b}\x} \x.", "b b.", ""),
    (r"{\global\let\x\y\x} \x.", "b b.", r"\def\y{b}"),
    (r"\x.", "b.", r"\AtBeginDocument{\def\x{b}}"),
    (r"\x.", "b.", r"\makeatletter\@ifpackageloaded{none}{}{\def\x{b}}\makeatother"),
    (r"\ifthenelse{1=1}{\def\x{b}}{}\x.", "b.", r"\usepackage{ifthen}"),
    (r"\s\x.", "b.", r"\def\s{\def\x{b}}"),
]  # fmt: skip


@pytest.mark.parametrize(("passage", "seen", "preamble"), CASES)
def test_a_definition_ends_with_its_group(passage: str, seen: str, preamble: str) -> None:
    assert words(passage, r"\def\x{a}" + preamble) == seen


def test_marks_of_groups_stand_in_no_text() -> None:
    source = (
        rb"\def\x{a}\begin{document}"
        + rb"{\def\x{b}\x}\x " * 50
        + rb"\iffalse {\def\x{c}} \fi {\def\x{b} $ {\let\x\y} $ }\footnote{{\def\x{d}}}\end{document}"
    )
    deadline = Deadline()
    text = expand(lambda: Files(Tree({"m.tex": source}), "m.tex", [], deadline), "m.tex", deadline)
    assert text.count("{b}a") == 50 and all(ord(sign) < 128 for sign in text)
