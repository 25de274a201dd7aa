"""Filters: what stays, what goes, and by which word it is counted."""

import gzip
import json

import pytest

from data_tools.documents.filters import (
    FILTERS,
    FilterError,
    Prose,
    all_limits,
    alphabetic,
    first_reason,
    language,
    length,
    parse_filters,
    repetition,
    residue,
)
from tests.made.where import SHARED

ABSTRACT = (
    "We present deep imaging of the galaxy cluster Abell 1689 and measure its mass profile by weak lensing. The fitted model "
    "has a virial mass of "
    "$M = 1.3 \\times 10^{15}\\,M_\\odot$ and a concentration that is larger than that expected from simulations. We discuss "
    "how a triaxial halo, "
    "seen along its major axis, would relieve the tension with the standard model of cosmology."
)
FOREIGN = {
    "French": "Dans cette note nous présentons les principaux résultats du récent travail sur les équations qui décrivent le "
    "phénomène, et nous "
    "montrons que les solutions sont stables pour des données analytiques avec une décroissance exponentielle de la force dans le temps",
    "German": "Die vorliegende Arbeit behandelt die Entstehung der Sterne in dichten Wolken und zeigt, dass sich die Verteilung der "
    "Massen nicht "
    "durch den Druck des Gases erklären lässt, sondern von der Turbulenz und dem Feld bestimmt wird, das auf die Wolke wirkt",
    "Spanish": "En este trabajo se presentan los resultados de las observaciones que fueron realizadas con el telescopio para el "
    "estudio de las "
    "estrellas más jóvenes, y se discute cómo los datos son una prueba de la teoría sobre la formación de los discos",
    "Portuguese": "Neste trabalho não são apresentados os dados das observações que foram feitas com um telescópio para uma medida da "
    "massa das "
    "estrelas, mas também se discute como os resultados ao longo do tempo são uma prova da teoria entre seu campo e a luz",
    "Russian": "В работе рассмотрены основные свойства звёзд главной последовательности и показано, что наблюдаемое распределение масс "
    "не может быть "
    "объяснено только давлением газа, а определяется турбулентностью и магнитным полем облака, в котором они возникли",
    "Chinese": "我们利用望远镜观测了这个星系团并测量了它的质量分布。结果表明其中心密度高于数值模拟的预期。" * 2,
}


def test_a_plain_abstract_passes_every_filter() -> None:
    assert first_reason(ABSTRACT, parse_filters(FILTERS)) is None


@pytest.mark.parametrize("name", FOREIGN)
def test_other_languages_are_not_english(name: str) -> None:
    assert language(Prose(FOREIGN[name])) == "not_english"


def test_english_full_of_names_greek_and_mathematics_is_english() -> None:
    assert (
        language(
            Prose(
                "The λ-CDM model with Ω = 0.3 and the Hα line of the Sołtan & Dziembowski sample by Šidlichovský are used as in α Cen. " * 2
            )
        )
        is None
    )


def test_length_counts_words() -> None:
    assert length(Prose("word " * 19)) == "too_short"
    assert length(Prose("word " * 20)) is None
    assert length(Prose("word " * 30), max_words=29) == "too_long"


def test_text_said_twice_is_repetitive_and_a_title_said_twice_is_not() -> None:
    assert repetition(Prose(ABSTRACT + " " + ABSTRACT)) == "repetitive"
    title = "Deep imaging of the galaxy cluster Abell 1689 and its mass profile by weak lensing: a virial mass"
    assert repetition(Prose(f"{title}\n\n{title} are presented. {ABSTRACT}")) is None
    assert repetition(Prose(ABSTRACT + "." * 200)) == "repetitive"


def test_tex_left_in_prose_counts_and_tex_in_mathematics_does_not() -> None:
    assert residue(Prose(ABSTRACT + r" $\alpha \beta \gamma \delta \mathrm{d}x \over \sqrt{2}$ \[\frac{a}{b}\]")) is None
    assert (
        residue(Prose(ABSTRACT + r" \begin{table} \hline \multicolumn{2}{c}{a} \\ \hline \end{table} \vskip \def\x{y} \nobreak"))
        == "latex_residue"
    )


def test_tables_of_numbers_have_few_letters() -> None:
    assert alphabetic(Prose("12.5 0.33 1e-7 ; 14.2 0.29 2e-7 NGC 1275 13.3 0.11 " * 5)) == "few_letters"


def test_reasons_come_in_a_fixed_order() -> None:
    assert first_reason("no", parse_filters(["alphabetic", "length"])) == "too_short"


def test_limits_are_read_and_recorded() -> None:
    chosen = parse_filters(["length:min_words=50,max_words=60", "language"])
    assert all_limits(chosen) == {"length": {"min_words": 50.0, "max_words": 60.0}, "language": {"min_share": 0.1, "min_latin": 0.85}}
    assert first_reason("word " * 40, chosen) == "too_short"
    assert parse_filters(["none"]) == []


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("lenght", "no filter is called 'lenght'; there are length, language, repetition, residue, alphabetic, and none"),
        ("length:words=3", "length has no limit 'words'; it has min_words, max_words"),
        ("length:min_words=many", "min_words must be a number, 'many' is none"),
    ],
)
def test_a_wrong_filter_is_named(word: str, message: str) -> None:
    with pytest.raises(FilterError, match=message):
        parse_filters([word])


@pytest.mark.skipif(not SHARED.exists(), reason="the real abstracts are not beside this checkout")
def test_real_abstracts_are_hardly_ever_dropped() -> None:
    chosen, dropped, read = parse_filters(FILTERS), 0, 0
    with gzip.open(SHARED / "abstracts/astro_validation.jsonl.gz", "rt") as file:
        for line in file:
            read += 1
            dropped += first_reason(json.loads(line)["abstract"], chosen) is not None
    assert read == 1400 and dropped <= 14
