"""TeX markup in titles and abstracts goes; words and mathematics stay."""

import gzip
import json

import pytest

from data_tools.documents.clean import MATH, clean_abstract, clean_tex, clean_title
from tests.made.where import SHARED


@pytest.mark.parametrize(
    ("tex", "words"),
    [
        (r"Gaier {\it et al.} and {\em Planck\/} show", "Gaier et al. and Planck show"),
        (r"\emph{Euclid}'s \textbf{first \textit{data}}", "Euclid's first data"),
        (r"Erd\H{o}s, Alfv\'en, M\"{u}ller, {\L}ojasiewicz, Stra\ss e, na\"{\i}ve", "Erdős, Alfvén, Müller, Łojasiewicz, Straße, naïve"),
        (r"Espa\~na, Pe\~{n}a~1999, Earth\'s", "España, Peña 1999, Earth's"),
        (r"{\'E}. \c{C}elik, \v{S}idlichovsk\'y, \AA ngstr\"om at 3 \AA", "É. Çelik, Šidlichovský, Å ngström at 3 Å"),
        (r"Fig.~1 of NGC~1275, $z$~is 69~yr, T\&S", "Fig. 1 of NGC 1275, $z$ is 69 yr, T&S"),
        (r"\sim: at z~1, M_BH~10^9 and (~10\%)", r"\sim: at z~1, M_BH~10^9 and (~10%)"),
        ("at z~1 and Fig~2, no TeX at all", "at z~1 and Fig~2, no TeX at all"),
        (r"``quoted'' text , and 1.33\,ms in 5''.2", "“quoted” text, and 1.33 ms in 5''.2"),
        ("``plain'' {words}", "“plain” words"),
        (r"\textcolor{black}{kept} \href{http://a.b/~c}{link} \cite{x}", "kept link"),
        (r"72{\deg}S; {\sc{spex}}; H{\sc i}; \texorpdfstring{$x$}{x}", "72°S; spex; Hi; $x$"),
        (r"$\rm {\it x}~\'e$ stays, \(\emph{y}~z\) too", r"$\rm {\it x}~\'e$ stays, \(\emph{y}~z\) too"),
        (r"a lost $ dollar, {\it so} nothing~is touched", r"a lost $ dollar, {\it so} nothing~is touched"),
        ("x &lt; y &amp; z", "x < y & z"),
    ],
)
def test_markup_goes_and_words_and_mathematics_stay(tex: str, words: str) -> None:
    assert clean_tex(tex) == words


def test_line_wraps_go_and_indented_lines_begin_paragraphs() -> None:
    assert clean_abstract("  One line\nand its wrap.\n  A second paragraph\nhere.\n\n  A third.\n") == (
        "One line and its wrap.\n\nA second paragraph here.\n\nA third."
    )
    assert (
        clean_title("Prompt diphoton production at Tevatron and\n  LHC energies")
        == "Prompt diphoton production at Tevatron and LHC energies"
    )


@pytest.mark.skipif(not SHARED.exists(), reason="the real abstracts are not beside this checkout")
def test_mathematics_of_real_abstracts_comes_out_byte_for_byte() -> None:
    seen = 0
    with gzip.open(SHARED / "abstracts/astro_validation.jsonl.gz", "rt") as file:
        for line in file:
            text = " ".join(json.loads(line)["abstract"].split())
            formulas = [found[0] for found in MATH.finditer(text)]
            seen += len(formulas)
            assert [found[0] for found in MATH.finditer(clean_tex(text))] == formulas, text
    assert seen > 2000
