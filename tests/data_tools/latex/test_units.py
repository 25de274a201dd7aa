r"""Numbers keep their values and units their powers: siunitx of both spellings, units, nicefrac, sexagesimal signs, raised numbers."""

import pytest

from data_tools.latex.paper import read_paper

FILL = "The star is observed during many nights with the telescope and its light varies slowly over the season. " * 3


def words(text: str, preamble: str = "") -> str:
    source = f"\\documentclass{{aa}}\n{preamble}\n\\begin{{document}}\n\\section{{Introduction}}\nStart. {text}\n\\section{{Data}}\n{FILL}\\end{{document}}"
    return " ".join(read_paper({"ms.tex": source.encode()}).introduction.removeprefix("Start. ").split())


@pytest.mark.parametrize("sign", ["fh:h", "fm:m", "fs:s", "fd:d", "fp:p", "fday:d"])
def test_a_sign_above_the_point_keeps_the_figures_apart(sign: str) -> None:
    name, letter = sign.split(":")
    assert words(rf"At 12\{name}5 it") == rf"At 12$.\!\!^{{\rm {letter}}}$5 it"
    assert "125" not in words(rf"At $12\{name} 5$ and 12{{\{name}}}5 and 12\{name}{{}}5")


@pytest.mark.parametrize(
    ("tex", "shown"),
    [
        (r"1\fdg5, 1\farcm5, 1\farcs5", r"1$.\!\!^\circ$5, 1$.\!\!'$5, 1$.\!\!''$5"),
        (r"12\hbox{$.\!\!^{\rm s}$}5 and 5\degr\ 3\arcmin\ 2\arcsec", r"12$.\!\!^{\rm s}$5 and 5$^\circ$ 3$'$ 2$''$"),
        (r"5\,\mbox{km\,s$^{-1}$}", "5 km s$^{-1}$"),
        (r"It is \onehalf\ or \nicefrac{1}{2} or \sfrac{3}{4}, 3\nicefrac{1}{2} times", "It is $1/2$ or 1/2 or 3/4, 3 1/2 times"),
        (r"\case{1}{2} and $\nicefrac{a}{b}$", r"1/2 and $\frac{a}{b}$"),
        # the units package
        (r"\unit[10]{kpc}, \unit[5]{km\,s^{-1}}, \unit{kpc}", "10 kpc, 5 km s$^{-1}$, kpc"),
        (r"\unitfrac[5]{km}{s}, \unitfrac{m}{s^2}, \unit[10]{$\mu$m}", r"5 km/s, m/s$^{2}$, 10 µm"),
        (r"\unit{5}{\kilo\metre}", "5 km"),
        # raised and lowered
        (r"10\textsuperscript{-3} and cm\textsuperscript{2} and s\textsuperscript{$-1$}", "10$^{-3}$ and cm$^{2}$ and s$^{-1}$"),
        (r"5\textsuperscript{th}, H\textsuperscript{+}, \textsuperscript{13}CO", r"5th, H$^{+}$, $^{13}$CO"),
        (r"\textsuperscript{2} Institute, H\textsubscript{2}O, T\textsubscript{eff}", r"2 Institute, H$_{2}$O, T$_{\rm eff}$"),
        (r"\isotope[13]{C}, \isotope{C}, \nicefrac{1}{2}\,mm", r"$^{13}$C, C, 1/2 mm"),
        # numbers
        (r"\num{1.5e6}, \num{1e5}, \num{e3}, \num{-2.5d-3}, \num{12345}, \num{.5}", r"$1.5 \times 10^{6}$, $1 \times 10^{5}$, $10^{3}$, $-2.5 \times 10^{-3}$, 12345, 0.5"),
        (r"\num{1.2+-0.3}, \num{1.2 \pm 0.3 e4}, \num{1.5(2)e6}", r"$1.2\pm 0.3$, $(1.2 \pm 0.3) \times 10^{4}$, $1.5(2) \times 10^{6}$"),
        (r"\num[round-precision=2]{3.14}, \numrange{1}{5}, \numlist{1;2;3}, \numproduct{2 x 3}", r"3.14, 1 to 5, 1, 2 and 3, $2 \times 3$"),
        (r"\ang{5.2}, \ang{5;3;2}, \ang{;;2}", r"5.2$^\circ$, 5$^\circ$3'2\", 2\"".replace("\\\"", '"')),
        # quantities
        (r"\SI{5}{\kilo\metre\per\second}, \qty{5}{\km\per\s}, \SI{5}{km.s^{-1}}, \SI{5}{km~s^{-1}}", "5 km s$^{-1}$, " * 3 + "5 km s$^{-1}$"),
        (r"\SI[per-mode=symbol]{5}{\km}, \SI{5}[about]{\km}, \SI{5}\km, \si{\km}, \unit{\kilo\parsec}", "5 km, 5 km, 5 km, km, kpc"),
        (r"\SI{3}{\metre\squared}, \SI{3}{\square\metre}, \SI{3}{\cubic\cm}, \SI{3}{\m\tothe{4}}, \SI{3}{\per\cubic\cm}", "3 m$^{2}$, 3 m$^{2}$, 3 cm$^{3}$, 3 m$^{4}$, 3 cm$^{-3}$"),
        (r"\SI{1e-3}{\erg\per\second\per\cm\squared\per\angstrom}", r"$1 \times 10^{-3}$ erg s$^{-1}$ cm$^{-2}$ Å$^{-1}$"),
        (r"\SIrange{1}{2}{\km}, \qtyrange{1}{2}{\kelvin}, \SIlist{1;2;3}{\km}, \qtylist{1;2}{\Mpc}", "1 to 2 km, 1 to 2 K, 1, 2 and 3 km, 1 and 2 Mpc"),
        (r"\SI{5}{\celsius}, \SI{5}{\degreeCelsius}, \SI{5}{\degree}, \SI{5}{\percent}, \SI{5}{\arcsecond}, \SI{5}{\micro\metre}", "5 °C, 5 °C, 5°, 5%, 5\", 5 µm"),
        (r"\SI{5}{\solarmass}, \SI{5}{M_\odot}, \SI{5}{\mega\electronvolt}, \qty{3}{\uJy}", r"5 $\mathrm{M_\odot}$, 5 $\mathrm{M_\odot}$, 5 MeV, 3 µJy"),
        (r"$v=\SI{5}{\km\per\s}$, $\SIrange{1}{2}{\km}$, $\num{1e5}$", r"$v=5\,\mathrm{km\,s^{-1}}$, $1- 2\,\mathrm{km}$, ${1 \times 10^{5}}$"),
    ],
)  # fmt: skip
def test_a_quantity_becomes(tex: str, shown: str) -> None:
    assert words(tex) == shown


@pytest.mark.parametrize(
    ("preamble", "tex", "shown"),
    [
        (
            r"\DeclareSIUnit\solarlum{L_\odot}",
            r"\SI{5}{\solarlum} \SI{5}{\per\solarlum}",
            r"5 $\mathrm{L_\odot}$ 5 $\mathrm{L_\odot}^{-1}$",
        ),
        (r"\DeclareSIUnit{\jy}{Jy}", r"\SI{5}{\milli\jy}", "5 mJy"),
        (
            r"\DeclareSIUnit[x=y]\kps{\km\per\s}",
            r"\SI{5}{\kps} \SI{5}{\per\kps} \si{\square\kps}",
            "5 km s$^{-1}$ 5 km$^{-1}$ s km$^{2}$ s$^{-2}$",
        ),
        (r"\DeclareSIUnit\hub{\text{h}^{-1}\,\mega\parsec}", r"\SI{5}{\hub}", "5 h$^{-1}$ Mpc"),
        (r"\DeclareSIPrefix\lots{L}{9}", r"\SI{5}{\lots\pc}", "5 Lpc"),
        (r"\DeclareSIPower\quartic\tothefourth{4}", r"\si{\quartic\metre} \si{\metre\tothefourth}", "m$^{4}$ m$^{4}$"),
        (r"\newcommand{\kps}{\km\per\s}\newcommand{\val}{3.5}", r"\SI{\val}{\kps}", "3.5 km s$^{-1}$"),
        (r"\newcommand{\unit}[1]{\,\mathrm{#1}}", r"$5\unit{km}$", r"$5\,\mathrm{km}$"),
    ],
)
def test_units_of_the_papers_own(preamble: str, tex: str, shown: str) -> None:
    assert words(tex, preamble) == shown


def test_what_is_no_quantity_stays() -> None:
    assert words(r"$\qty(\frac{a}{b})$ and $x$") == r"$\qty(\frac{a}{b})$ and $x$"


def test_units_that_multiply_end() -> None:
    own = "".join(rf"\DeclareSIUnit\{name}{{" + rf"\{below} " * 30 + "}" for name, below in zip("uvwxy", "vwxyz", strict=True))
    assert len(words(r"\SI{5}{\u}", own)) < 1000
