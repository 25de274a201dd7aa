r"""A control word ends where TeX ends it: what expansion, comments, inputs and cuts bring together stays as many tokens as it was."""

import pytest

from data_tools.latex.paper import read_paper
from tests.made.passages import words

WORDS = """noindent it bf em rm sc sl tt large relax indent newpage clearpage par centering quad hfill newline protect leavevmode smallskip
medskip onecolumn balance normalsize itshape bfseries scshape normalfont vfill sloppy unskip null strut maketitle ignorespaces""".split()
FOLLOWS = {
    "Zanzibar is": "Zanzibar is",
    "1234 stars": "1234 stars",
    "Éclair is": "Éclair is",
    "λ is": "λ is",
    "{Zanzibar} is": "Zanzibar is",
    r"\textit{Zanzibar} is": "Zanzibar is",
    "$x$ is": "$x$ is",
    "[Zanzibar] is": "[Zanzibar] is",
    "``Zanzibar'' is": '"Zanzibar" is',
    "(Zanzibar) is": "(Zanzibar) is",
}
# passage and preamble, with WORD for the control word and NEXT for what follows
MEETINGS = [
    ("\\WORD%\nNEXT", ""),
    ("\\WORD% c\n  % d\n  NEXT", ""),
    (r"\WORD\input{sub}", ""),
    ("\\WORD\\input sub\n", ""),
    (r"\WORD\include{sub}", ""),
    (r"\WORD\m", r"\newcommand{\m}{NEXT}"),
    (r"\WORD\m{}", r"\def\m{NEXT}"),
    (r"{\WORD\m}", r"\def\m{NEXT}"),
    (r"\WORD\m{a}", r"\newcommand{\m}[1]{NEXT}"),
    (r"\m{NEXT}", r"\newcommand{\m}[1]{\WORD#1}"),
    (r"\m{\WORD}NEXT", r"\newcommand{\m}[1]{#1}"),
    (r"\m{\WORD}{NEXT}", r"\newcommand{\m}[2]{#1#2}"),
    (r"\mm NEXT", r"\newcommand{\mm}{\WORD}"),
    ("\\mm%\nNEXT", r"\newcommand{\mm}{\WORD}"),
    (r"\mm\m", r"\newcommand{\mm}{\WORD}\newcommand{\m}{NEXT}"),
    (r"\mm", r"\newcommand{\mm}{\WORD\input{sub}}"),
    (r"\WORD\iffalse no\fi NEXT", ""),
    ("\\WORD\\iffalse no\\fi%\nNEXT", ""),
    (r"\WORD\iftrue NEXT\fi", ""),
    (r"\WORD\iffalse no\else NEXT\fi", ""),
    (r"\WORD\begin{comment}x\end{comment}NEXT", ""),
    ("\\WORD\\begin{lstlisting}\nx\n\\end{lstlisting}NEXT", ""),
    (r"\WORD\begin{figure}x\end{figure}NEXT", ""),
    (r"\WORD\nix NEXT", r"\newcommand{\nix}{}"),
    (r"\WORD\todo{x}NEXT", ""),
    (r"\WORD\csname m\endcsname", r"\newcommand{\m}{NEXT}"),
    (r"\WORD\DIFdelbegin x\DIFdelend NEXT", ""),
]
FORMULAS = [  # passage, what it becomes, preamble
    ("$\\alpha%\nx$", r"$\alpha x$", ""),
    (r"$2\cdot\Np$", r"$2\cdot N$", r"\newcommand{\Np}{N}"),
    (r"$3\times\u$", r"$3\times pc$", r"\def\u{pc}"),
    (r"$\alpha\label{a}x$", r"$\alpha x$", ""),
    (r"$\alpha\iffalse y\fi x$", r"$\alpha x$", ""),
    (r"$\alpha\ifmmode x\else y\fi$", r"$\alpha x$", ""),
    (r"$\m{N}$", r"$\cdot N$", r"\newcommand{\m}[1]{\cdot#1}"),
    (r"$\m{\alpha}$", r"$\alpha x$", r"\newcommand{\m}[1]{#1x}"),
    (r"$\m\alpha$", r"$\alpha x$", r"\newcommand{\m}[1]{#1x}"),
    (r"$\m{\alpha}{x}$", r"$\alpha x$", r"\newcommand{\m}[2]{#1#2}"),
    (r"$\m{2}$", r"$\alpha2$", r"\newcommand{\m}[1]{\alpha#1}"),
    (r"$\frac\a\b$", r"$\frac{M_1}{M_2}$", r"\def\a{M_1}\def\b{M_2}"),
    (r"$\sqrt\a$", r"$\sqrt{M_1}$", r"\def\a{M_1}"),
    (r"$\mathrm\x$", r"$\mathrm{km}$", r"\def\x{km}"),
    (r"$\a_\b$", "$M_N$", r"\def\a{M}\def\b{N}"),
    (r"\a\b", "$x y$", r"\def\a{$x$}\def\b{$y$}"),
    (r"$\nix$ and $x$", "and $x$", r"\def\nix{}"),
    (r"$\quad\color{red}x$", r"$\quad x$", ""),
    (r"$\log\m$", r"$\log é$", r"\newcommand{\m}{é}"),
    (r"$\alpha\input{sub}$", r"$\alpha Zanzibar$", ""),
    (r"$\x\y$", r"$\beta N$", r"\let\x\beta\def\y{N}"),
    ("\\begin{equation}\n\\alpha% c\nx\n\\end{equation}", r"$$ \alpha x $$", ""),
    ("\\begin{equation}\n\\alpha\\label{e}x\n\\end{equation}", r"$$ \alpha x $$", ""),
    (r"\be\alpha\n\ee", r"$$ \alpha N $$", r"\newcommand{\be}{\begin{equation}}\newcommand{\ee}{\end{equation}}\def\n{N}"),
]
TEXTS = [
    (r"\begin{itemize}\item\fe is\end{itemize}", "- [Fe/H] is", r"\newcommand{\fe}{[Fe/H]}"),
    (r"a\\\fe is", "a [Fe/H] is", r"\newcommand{\fe}{[Fe/H]}"),
    (r"\def\nc{\newcommand}\nc\vega{Vega}\vega", "Vega", ""),
    (r"\nc{\vega}{Vega}\vega", "Vega", r"\newcommand{\nc}{\newcommand}"),
    ("One\n\\nix\ntwo", "One two", r"\def\nix{}"),
    ("One\n\\def\\nix{}\ntwo", "One two", ""),
    ("One\n\\iffalse x\\fi\n\ntwo", "One two", ""),
    (r"caf\'\x\ t", "café t", r"\def\x{e}"),
    (r"\x@y is", "Vega@y is", r"\def\x{Vega}"),
    (r"\x is", "Vega is", r"\makeatletter\def\x@y{Vega}\def\x{\x@y}\makeatother"),
    ("\\footnote%\n{Secret}is", "is", ""),
    (r"\x 1 to 2. is", "2, 1 is", r"\def\x#1 to #2.{#2, #1}"),
]


@pytest.mark.parametrize("word", WORDS)
def test_what_follows_a_control_word_is_read(word: str) -> None:
    assert len(MEETINGS) > 25
    for follows, seen in FOLLOWS.items():
        for passage, preamble in MEETINGS:
            tex, before = (text.replace("WORD", word).replace("NEXT", follows) for text in (passage, preamble))
            found = words(tex, before, {"sub.tex": follows.encode()})
            assert found == seen, (tex, before)


@pytest.mark.parametrize(("passage", "seen", "preamble"), FORMULAS + TEXTS)
def test_tokens_stay_apart(passage: str, seen: str, preamble: str) -> None:
    assert words(passage, preamble, {"sub.tex": b"Zanzibar\n"}) == seen


def test_a_paragraph_ends_only_where_a_line_is_blank() -> None:
    source = "\\documentclass{a}\\begin{document}\\section{Introduction}\nOne\n\\def\\x{}\ntwo\n\\x\n\\input{sub}\nthree\n\n\\x\nfour "
    files = {"ms.tex": (source + "words " * 30 + "\\end{document}").encode(), "sub.tex": b"sub\n"}
    assert read_paper(files, "ms.tex").introduction.startswith("One two sub three\n\nfour words")


@pytest.mark.parametrize(
    "gone", ["\\label{x}", "\\noindent", "\\index{x}", "\\footnote{x}", "\\todo{x}", "\\begin{figure}x\\end{figure}", "\\iffalse x\\fi"]
)
def test_a_line_of_which_nothing_is_left_ends_no_paragraph(gone: str) -> None:
    source = "\\documentclass{a}\\begin{document}\\section{Introduction}\nOne\n%s\ntwo.\n\n%s\nThree " + "words " * 30 + "\\end{document}"
    assert read_paper({"ms.tex": source.replace("%s", gone).encode()}).introduction.startswith("One two.\n\nThree words")
