r"""Every way in which LaTeX and its common packages define a macro gives the macro that TeX would call."""

import pytest

from data_tools.latex.paper import PaperError, read_paper
from tests.made.passages import words

CASES = [  # passage, what a reader sees, preamble
    (r"\x.", "a.", r"\newcommand*\x{a}"),
    (r"\x.", "a.", r"\newcommand \x {a}"),
    (r"\x.", "a.", "\\newcommand{\\x}%\n{a}"),
    (r"\x{b}.", "ab.", r"\newcommand*{\x}[1]{a#1}"),
    (r"\x b.", "ab.", r"\newcommand{\x}[1]{a#1}"),
    (r"\x[c]{b}.", "cb.", r"\newcommand{\x}[2][d]{#1#2}"),
    (r"\x{b}.", "db.", r"\newcommand{\x}[2][d]{#1#2}"),
    (r"\x{b}.", "ab.", r"\long\def\x#1{a#1}"),
    (r"\x.", "a.", r"\global\def\x{a}"),
    (r"\x.", "a.", r"\gdef\x{a}"),
    (r"\x.", "a.", r"\protected\def\x{a}"),
    (r"\x.", "a.", r"\DeclareRobustCommand{\x}{a}"),
    (r"\x.", "a.", r"\newrobustcmd{\x}{a}"),
    (r"\x.", "a.", r"\expandafter\def\csname x\endcsname{a}"),
    (r"\x.", "a.", r"\expandafter\newcommand\csname x\endcsname{a}"),
    (r"\x.", "a.", r"\makeatletter\@namedef{x}{a}\makeatother"),
    (r"\makeatletter\@nameuse{x}.", "a.", r"\def\x{a}"),
    (r"\x.", "a.", r"\let\x=\y\def\y{b}\def\y{a}\let\x\y"),
    (r"\x.", "a.", r"\providecommand\x{a}\providecommand\x{b}"),
    (r"\x.", "b.", r"\newcommand\x{a}\renewcommand\x{b}"),
    (r"\x. \renewcommand{\x}{b}\x.", "a. b.", r"\newcommand\x{a}"),
    (r"\x.", "a%b.", r"\newcommand\x{a\%b}"),
    (r"\eg/ a.", "e.g. a.", r"\def\eg/{e.g.}"),
    (r"\x[b]{c}.", "bc.", r"\def\x[#1]#2{#1#2}"),
    (r"\x(b,c).", "b-c.", r"\def\x(#1,#2){#1-#2}"),
    (r"\x b.", "b", r"\def\x#1.{#1}"),
    (r"$\argmax x$", r"$\operatorname{arg\,max} x$", r"\DeclareMathOperator*{\argmax}{arg\,max}"),
    (r"$\ensuremath\alpha x$", r"$\alpha x$", ""),
    (r"\ensuremath\alpha.", r"$\alpha$.", ""),
    (r"\x.", r"$\alpha$.", r"\def\x{\ensuremath\alpha}"),
    (r"\x.", r"$\alpha$.", r"\def\x{\relax\ifmmode\alpha\else$\alpha$\fi}"),
    (r"\begin{x}b\end{x}.", "b.", r"\newenvironment{x}{\begin{it}}{\end{it}}"),
    (r"\x*{a}", "a star", r"\makeatletter\def\x{\@ifstar{\y}{\z}}\def\y#1{#1 star}\def\z#1{#1}\makeatother"),
    (r"\x{a}", "a", r"\makeatletter\def\x{\@ifstar{\y}{\z}}\def\y#1{#1 star}\def\z#1{#1}\makeatother"),
    (r"\x[a]{b}", "ab", r"\makeatletter\def\x{\@ifnextchar[{\y}{\z}}\def\y[#1]#2{#1#2}\def\z#1{#1}\makeatother"),
    (r"\x{b}", "b", r"\makeatletter\def\x{\@ifnextchar[{\y}{\z}}\def\y[#1]#2{#1#2}\def\z#1{#1}\makeatother"),
    (r"\x*{a}", "a star", r"\makeatletter\def\x{\@ifstar\y\z}\def\y#1{#1 star}\def\z#1{#1}\makeatother"),
    (r"\x{1}{2}{3}{4}{5}{6}{7}{8}{9}.", "987654321.", r"\newcommand{\x}[9]{#9#8#7#6#5#4#3#2#1}"),
    (r"\y{b}.", "[b].", r"\newcommand{\x}[1]{[#1]}\newcommand{\y}[1]{\x{#1}}"),
    (r"\mk{q}\q.", "made.", r"\newcommand{\mk}[1]{\expandafter\newcommand\csname #1\endcsname{made}}"),
    (r"\mk\q\q.", "made.", r"\newcommand{\mk}[1]{\newcommand{#1}{made}}"),
    (r"\x b.", "a b.", r"\newcommand{\x}{a\ignorespaces}"),
    (r"\x{b}.", "a b c.", r"\newcommand{\x}[1]{a #1 c}"),
    (r"\x\y.", "ab.", r"\def\x{a}\def\y{b}"),
    (r"\x1.", "a1.", r"\def\x{a}"),
    (r"\x~b.", "a b.", r"\def\x{a}"),
    (r"\outer.", "a.", r"\def\outer{\def\inner##1{##1}\inner{a}}"),
    (r"\f{b}.", "bb.", r"\def\f#1{\def\g##1{##1#1}\g{b}}"),
    (r"\'\x.", "é.", r"\def\x{e}"),
    (r"\x{\iffalse}b\fi c.", "c.", r"\def\x#1{#1}"),
    (r"\x{}\x{b}.", "nonegot b.", r"\makeatletter\def\x#1{\if\relax\detokenize{#1}\relax\expandafter\@firstoftwo\else\expandafter\@secondoftwo\fi{none}{got #1}}\makeatother"),
    (r"\x{}\x{b}.", "(b).", r"\makeatletter\def\x#1{\if\relax\detokenize{#1}\relax\expandafter\@gobble\else\expandafter\@firstofone\fi{(#1)}}\makeatother"),
    (r"\x{}\x{b}.", "b.", r"\makeatletter\def\x#1{\ifx\relax#1\relax\else\expandafter\@iden\fi{#1}}\makeatother"),
    (r"$\widebar{J}+\widebar x$", r"$\overline{J}+\overline{x}$",
     r"\makeatletter\newcommand*\if@single[3]{\setbox0\hbox{${\mathaccent"+'"0362{#1}}^H$}'+r"\ifdim\ht0=\ht2 #3\else #2\fi}\newcommand*\widebar[1]{\@ifnextchar^{{\wide@bar{#1}{0}}}{\wide@bar{#1}{1}}}\makeatother"),
    (r"$\boxed@{x}$ and \fitted{words}.", "$x$ and words.", r"\newcommand{\fitted}[1]{\setbox0=\hbox{#1}\ifdim\wd0>3cm\box0\else\copy0\fi}\makeatletter\def\boxed@#1{\setbox1\hbox{$#1$}\copy1}"),
    (r"$\pd{f}{x}+\pd[2]{f}{x}$", r"$\frac{\partial f}{\partial x}+\frac{\partial^{2}f}{\partial x^{2}}$",
     r"\makeatletter\newcommand{\spx}[1]{\if\relax\detokenize{#1}\relax\expandafter\@gobble\else\expandafter\@firstofone\fi{^{#1}}}\makeatother\newcommand\pd[3][]{\frac{\partial\spx{#1}#2}{\partial#3\spx{#1}}}"),
]  # fmt: skip


@pytest.mark.parametrize(("passage", "seen", "preamble"), CASES)
def test_a_macro_is_what_its_definition_says(passage: str, seen: str, preamble: str) -> None:
    assert len(CASES) > 45
    assert words(passage, preamble) == seen


def test_machinery_of_a_package_that_never_ends_costs_no_paper() -> None:
    package = rb"""\ProvidesPackage{draw}\newcommand{\draw}[1]{\ifx#1\end\else\more{#1}\fi}\newcommand{\more}[1]{\draw{#1}\draw{#1}}
\newcommand{\nice}{good}\newcommand{\loop}{x\loop}"""
    source = rb"\documentclass{article}\usepackage{draw}\begin{document}\section{Introduction}" + b"Words stand before it. " * 8
    paper = read_paper({"m.tex": source + rb"\draw{A5} \loop All is \nice.\input{gone}\end{document}", "draw.sty": package})
    assert paper.text.endswith("All is good.")
    assert len(paper.notes) == 1  # said once, though the paper was read several times
    with pytest.raises(PaperError, match="endless macros"):
        read_paper({"m.tex": source + rb"\def\a{x\a}\a\end{document}", "draw.sty": package})
