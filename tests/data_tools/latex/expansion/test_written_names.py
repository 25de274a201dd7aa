r"""Names that this program writes itself: signs that authors draw become the sign, and no redefinition goes round in circles."""

import pytest

from tests.made.passages import words

DRAWINGS = [
    r"\def\X{\mathrel{\hbox{\rlap{\hbox{\lower4pt\hbox{$\sim$}}}\hbox{$<$}}}}",
    r"\def\X{\mathrel{\raise.3ex\hbox{$<$}\mkern-14mu\lower0.6ex\hbox{$\sim$}}}",
    r"\def\X{\lower.5ex\hbox{$\; \buildrel < \over \sim \;$}}",
    r"\newcommand{\X}{\mathrel{\mathpalette\vereq<}}",
    r"\def\X{\mathrel{\mathpalette\@versim<}}",
    r"\newcommand{\X}{\raisebox{-.6ex}{$\stackrel{<}{\sim}$}}",
    r"\def\X{\,\lower2truept\hbox{${<\atop\hbox{\raise4truept\hbox{$\sim$}}}$}\,}",
    r'\def\X{\mathrel{\spose{\lower 3pt\hbox{$\mathchar"218$}}\raise 2.0pt\hbox{$\mathchar"13C$}}}',
    r"\newcommand{\X}{\mathrel{\rlap{\lower4pt\hbox{\hskip1pt$\sim$}}\raise1pt\hbox{$<$}}}",
    r"\newcommand{\X}{\mathrel{\hbox{\rlap{\lower.55ex \hbox {$\sim$}} \kern-.3em \raise.4ex \hbox{$<$}}}}",
    r"\def\X{\mathrel{\mathchoice {\vcenter{\offinterlineskip\halign{\hfil$\displaystyle##$\hfil\cr<\cr\sim\cr}}}{\vcenter{\offinterlineskip\halign{\hfil$\textstyle##$\hfil\cr<\cr\sim\cr}}}{\vcenter{\offinterlineskip\halign{\hfil$\scriptstyle##$\hfil\cr<\cr\sim\cr}}}{\vcenter{\offinterlineskip\halign{\hfil$\scriptscriptstyle##$\hfil\cr<\cr\sim\cr}}}}}",
    r"\renewcommand{\X}{\mathrel{\hbox{\rlap{\hbox{\lower4pt\hbox{$\sim$}}}\hbox{$<$}}}}",
    r"\def\X{\ \raise -2.truept\hbox{\rlap{\hbox{$\sim$}}\raise5.truept\hbox{$<$}\ }}",
    r"\def\X{{_<\atop^{\sim}}}",
    r"\newcommand{\X}{\ensuremath{\stackrel{<}{\sim}}}",
    r"\newcommand\X{\mathrel{\substack{\textstyle<\\[-.6ex]\sim}}}",
    r"\def\X{\mathrel{\ooalign{\raise.6ex\hbox{$<$}\cr\lower.6ex\hbox{$\sim$}}}}",
]
NAMES = "la lsim lesssim simlt apprle lapprox ltsim".split()
WRITTEN = """sun odot lesssim gtrsim arcsec arcmin degr farcs fdg micron msun kms times pm mathrm space operatorname la ga mu oplus ldots Box
earth rm apj ensuremath ifmmode prime circ sim""".split()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("drawing", DRAWINGS)
def test_a_drawn_sign_is_the_sign(name: str, drawing: str) -> None:
    drawing = drawing.replace(r"\X", "\\" + name)
    more = drawing.replace("<", ">").replace('"13C', '"13E')
    assert words(rf"At $a \{name} b$, \{name}\ 5 and \{name} 5.", drawing) == r"At $a \lesssim b$, $\lesssim$ 5 and $\lesssim$ 5."
    assert words(rf"At $a \{name} b$, $\{name}5$.", more) == r"At $a \gtrsim b$, $\gtrsim5$."


@pytest.mark.parametrize("name", ["arcsec", "farcs", "fdg", "sun"])
def test_a_drawing_of_a_name_that_astronomers_share_is_that_name(name: str) -> None:
    drawn = words(rf"At $5\{name}$.", rf"\def\{name}{{\hbox{{$\rlap{{\raise1pt\hbox{{.}}}}\hbox to 2pt{{.\hss}}$}}}}")
    assert drawn == words(rf"At $5\{name}$.")


@pytest.mark.parametrize(
    "definition",
    [r"\let\old%s\%s\renewcommand{\%s}{\old%s}", r"\renewcommand{\%s}{\ensuremath{\star}}", r"\def\%s{\hbox{$\star$}}", r"\edef\%s{\%s}"],
)
@pytest.mark.parametrize("name", WRITTEN)
def test_no_redefinition_of_a_name_that_is_written_here_is_endless(name: str, definition: str) -> None:
    passage = rf"At \{name} $\{name}$ \SI{{5}}{{\km\per\s}} \num{{1e5}} \ang{{5}} \msun\ and on."
    assert words(passage, definition % ((name,) * definition.count("%s"))).endswith("and on.")


def test_a_macro_defined_by_itself_holds_what_it_held() -> None:
    assert words(r"\x.", r"\edef\x{a}\edef\x{\x, b}\edef\x{\x, c}") == "a, b, c."


@pytest.mark.parametrize(
    "definition",
    [
        r"\def\ltsima{$\; \buildrel < \over \sim \;$}\def\lsim{\lower.5ex\hbox{\ltsima}}",
        r"\newcommand{\ltsimeq}{\mbox{$\, \stackrel{<}{\sim}\,$}}\newcommand{\lsim}{\ensuremath{\ltsimeq}}",
    ],
)
def test_a_drawn_sign_that_is_placed_anew_is_the_sign(definition: str) -> None:
    assert words(r"At $a \lsim b$ and \lsim\ 5.", definition) == r"At $a \lesssim b$ and $\lesssim$ 5."
