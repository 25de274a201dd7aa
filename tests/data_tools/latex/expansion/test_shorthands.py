r"""Babel's shorthands are letters in the language of the paper, and nothing in another."""

import pytest

from data_tools.latex.expansion.shorthands import named_language, spelled_out
from tests.made.passages import words

SPANISH = "La introducci'on es c'omo se'nal est'a aqu'i m'as en la p'agina de n'umeros de f'isica, qu'imica, electr'onica y l'ogica. "


@pytest.mark.parametrize(
    ("preamble", "passage", "seen"),
    [
        (r"\usepackage[ngerman]{babel}", 'F"ur "Uberg"ange, Stra"se, Ma"zstab.', "Für Übergänge, Straße, Maßstab."),
        (r"\usepackage[english,german]{babel}", "\"`Zitat\"' und Zeilen\"-umbruch, X\"=Strahlen.", "„Zitat“ und Zeilenumbruch, X-Strahlen."),
        (r"\usepackage{ngerman}", 'Gr"o"se', "Größe"),
        (r"\usepackage{german}", r'Gr"o\ss e und \"Ol', "Größe und Öl"),
        (r"\usepackage[main=ngerman]{babel}", 'Gr"o"se $x"=y"$', 'Größe $x"=y"$'),
        (r"\usepackage[dutch]{babel}", 'be"invloeden', "beïnvloeden"),
        (r"\usepackage[polish]{babel}", 'ga"lka', "gałka"),
        (r"\usepackage[croatian]{babel}", 'zaklju"cak', "zaključak"),
        (r"\usepackage[activeacute,spanish]{babel}", SPANISH * 2, SPANISH.replace("'i", "í").replace("'o", "ó").replace("'a", "á").replace("'u", "ú").replace("'n", "ñ") * 2),
        (r"\usepackage[spanish]{babel}", "La ecuaci'on de d'Alembert y L'Aquila y la ling\"u'istica", "La ecuación de d'Alembert y L'Aquila y la lingü'istica"),
        # no shorthands
        (r"\usepackage[german,english]{babel}", 'He said "a" and "us".', 'He said "a" and "us".'),
        (r"\usepackage[english]{babel}", "It isn't; we can't'a.", "It isn't; we can't'a."),
        ("", 'The "apple"', 'The "apple"'),
    ],
)  # fmt: skip
def test_a_shorthand_is_the_letter_that_its_language_prints(preamble: str, passage: str, seen: str) -> None:
    assert words(passage, preamble) == " ".join(seen.split())


def test_a_class_may_name_the_language() -> None:
    assert named_language("11pt,ngerman,a4paper") == "ngerman"
    assert named_language("activeacute,spanish") == "spanish"
    assert named_language("german,main=english") == "english"
    assert named_language("12pt") == ""
    assert spelled_out('F"ur', "") == 'F"ur'
