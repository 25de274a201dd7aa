"""Which documents are worth training on: each filter looks at one document and gives None, or the reason to drop it.

    chosen = parse_filters(["length:min_words=50", "language"])
    reason = first_reason(text, chosen)                   # None, "too_short", "not_english" …

No model is asked. All but length look at the prose: the text without its mathematics.
Limits were set on 34,000 abstracts and passages and 80 full papers so that what they drop is, looked at, worth dropping.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property

from data_tools.documents.clean import MATH


class FilterError(ValueError):
    """A filter or limit that does not exist."""


@dataclass
class Prose:
    """What the filters look at, made once for a document."""

    text: str

    @cached_property
    def plain(self) -> str:
        return MATH.sub(" ", self.text) if "$" in self.text or "\\" in self.text else self.text

    @cached_property
    def words(self) -> list[str]:
        return re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", self.plain.lower())


def length(prose: Prose, *, min_words: float = 20, max_words: float = 500_000) -> str | None:
    words = len(prose.text.split())
    return "too_short" if words < min_words else "too_long" if words > max_words else None


# Words no English sentence does without, and those of other languages arXiv holds; words that English shares with one are left out.
FUNCTION_WORDS = {
    "English": "the of and to that is for with are we by this as it from be which on at an these was have has our not their between can or "
    "than been its were also using but into they such both more where when through may one two some there however",
    "French": "le les des du une est dans pour que qui nous sur avec par cette sont ces pas aux être entre ont plus leur ainsi",
    "German": "der die das und den von mit ist für auf ein eine wird dem nicht durch werden sich bei einer sind aus zur wir oder auch",
    "Spanish": "el los las una que por con para del es este esta se como son más entre sus ha también sobre lo",
    "Italian": "il di della che una per con sono del le dei nel alla questo gli delle si è dalla più anche",
    "Portuguese": "os das uma que com para por um não dos são mais como ao pela entre seu também foi",
    "Dutch": "het een van en dat met voor zijn op niet worden door deze aan ook bij",
    "Polish": "w na z się że jest do nie oraz przez są dla po od jak",
    "Indonesian": "yang dan dari dengan untuk pada ini dalam adalah",
}
LANGUAGES_OF: dict[str, list[str]] = {}
for _language, _words in FUNCTION_WORDS.items():
    for _word in _words.split():
        LANGUAGES_OF.setdefault(_word, []).append(_language)


def language(prose: Prose, *, min_share: float = 0.1, min_latin: float = 0.85) -> str | None:
    """English by its function words: at least `min_share` of all words, more than any other language's; in Latin letters (Greek aside)."""
    head = prose.plain[:20_000]
    letters = [] if head.isascii() else [letter for letter in head if letter.isalpha() and not "\u0370" <= letter <= "\u03ff"]
    if letters and sum(letter < "\u0250" for letter in letters) < min_latin * len(letters):
        return "not_english"
    counts = dict.fromkeys(FUNCTION_WORDS, 0)
    words = prose.words[:5000]
    for word in words:
        for name in LANGUAGES_OF.get(word, ()):
            counts[name] += 1
    english = counts.pop("English")
    return "not_english" if english < min_share * len(words) or english <= max(counts.values()) else None


def repetition(prose: Prose, *, max_share: float = 0.2, min_words: float = 40, max_run: float = 100) -> str | None:
    """Words in a sequence of ten seen before (more than `min_words`: a title may open its abstract); one character over and over."""
    if re.search(rf"(\S)\1{{{int(max_run)}}}", prose.text):
        return "repetitive"
    words = prose.plain.split()
    if len(words) < 20:
        return None
    seen: set[int] = set()
    again = bytearray(len(words))
    for start in range(len(words) - 9):
        gram = hash(tuple(words[start : start + 10]))  # equal within one process is all that is needed
        if gram in seen:
            again[start : start + 10] = b"\1" * 10
        seen.add(gram)
    return "repetitive" if sum(again) > max(max_share * len(words), min_words) else None


def residue(prose: Prose, *, max_per_100_words: float = 6.0) -> str | None:
    """TeX commands, environments and alignment marks left in running prose."""
    marks = len(re.findall(r"\\[A-Za-z@]+|\\\\|(?<=\s)&(?=\s[^A-Z])|\\begin\{|\\end\{", prose.plain))
    return "latex_residue" if marks > 1 and marks * 100 > max_per_100_words * max(len(prose.words), 1) else None


def alphabetic(prose: Prose, *, min_share: float = 0.65) -> str | None:
    """Letters among all that is no space."""
    visible = re.sub(r"\s+", "", prose.plain)
    letters = sum(map(str.isalpha, visible))
    return "few_letters" if letters < min_share * len(visible) else None


FILTERS: dict[str, Callable[..., str | None]] = {
    "length": length,
    "language": language,
    "repetition": repetition,
    "residue": residue,
    "alphabetic": alphabetic,
}


@dataclass(frozen=True)
class Filter:
    name: str
    limits: dict[str, float] = field(default_factory=dict)


def parse_filters(words: Iterable[str]) -> list[Filter]:
    """`length:min_words=50,max_words=9000`, `language` … in FILTERS' order; `none` alone for no filter. Raises FilterError."""
    chosen: dict[str, dict[str, float]] = {}
    for word in words:
        name, _, limits = word.partition(":")
        if name == "none":
            continue
        if name not in FILTERS:
            raise FilterError(f"--filters {word}: no filter is called {name!r}; there are {', '.join(FILTERS)}, and none")
        known = FILTERS[name].__kwdefaults__
        chosen[name] = {}
        for limit in filter(None, limits.split(",")):
            key, _, value = limit.partition("=")
            if key not in known:
                raise FilterError(f"--filters {word}: {name} has no limit {key!r}; it has {', '.join(known)}")
            try:
                chosen[name][key] = float(value)
            except ValueError:
                raise FilterError(f"--filters {word}: {key} must be a number, {value!r} is none") from None
    return [Filter(name, chosen[name]) for name in FILTERS if name in chosen]


def first_reason(text: str, filters: list[Filter]) -> str | None:
    prose = Prose(text)
    for chosen in filters:
        if reason := FILTERS[chosen.name](prose, **chosen.limits):
            return reason
    return None


def all_limits(filters: list[Filter]) -> dict[str, dict[str, float]]:
    """Every limit in force, defaults included: for the record of how documents were made."""
    return {chosen.name: {**FILTERS[chosen.name].__kwdefaults__, **chosen.limits} for chosen in filters}
