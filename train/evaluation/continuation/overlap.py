"""A continuation beside the truth: shared words (ROUGE), names and numbers, and how often it says the same again.

ROUGE is Lin's (2004), F1 over lower-case words of letters and digits, without stemming.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w]|\.\d)")
# catalogues' names with their numbers; abbreviations; capitalised words that do not begin a sentence
NAME = re.compile(
    r"\b(?:NGC|IC|UGC|ESO|HD|HR|HIP|PSR|SN|GRB|GW|FRB|AT|3C|4C|PKS|PG|Mrk|Mkn|Arp|Abell|SDSS|2MASS|WASP|Kepler|K2|TOI|HAT-P|GJ|LHS|Messier|M)"
    r"[\s-]?[A-Z]?\d[\w+.\-]*\w|\b[A-Z][A-Za-z]*[A-Z][\w-]*|(?<=[a-z,;] )[A-Z][a-z]{2,}(?:\s[A-Z][a-z]+)*"
)


@dataclass(frozen=True)
class Overlap:
    """names, numbers: share of the truth's, not in the prompt, that the text has, None where it has none; invented: of the text's own
    names and numbers the share that neither prompt nor truth has."""

    rouge1: float
    rouge2: float
    rouge_l: float
    names: float | None
    numbers: float | None
    invented: float | None
    repetition: float


def overlap(text: str, truth: str, prompt: str) -> Overlap:
    mine, theirs = _words(text), _words(truth)
    (own_names, own_numbers), (names, numbers), (given, given_numbers) = map(_facts, (text, truth, prompt))
    own, known = own_names | own_numbers, names | numbers | given | given_numbers
    return Overlap(
        rouge_n(mine, theirs, 1), rouge_n(mine, theirs, 2), rouge_l(mine, theirs), _found(own_names, names - given),
        _found(own_numbers, numbers - given_numbers), len(own - known) / len(own) if own else None, repetition(mine),
    )  # fmt: skip


def _facts(text: str) -> tuple[set[str], set[str]]:
    """Names, and the numbers that are not part of one."""
    return set(NAME.findall(text)), set(NUMBER.findall(NAME.sub(" ", text)))


def rouge_n(mine: Sequence[str], theirs: Sequence[str], n: int) -> float:
    a, b = (Counter(zip(*(words[k:] for k in range(n)), strict=False)) for words in (mine, theirs))
    return _f1(sum((a & b).values()), sum(a.values()), sum(b.values()))


def rouge_l(mine: Sequence[str], theirs: Sequence[str]) -> float:
    """By the longest common subsequence."""
    before = [0] * (len(theirs) + 1)
    for word in mine:
        row = [0]
        for k, other in enumerate(theirs):
            row.append(before[k] + 1 if word == other else max(before[k + 1], row[k]))
        before = row
    return _f1(before[-1], len(mine), len(theirs))


def repetition(words: Sequence[str], n: int = 4) -> float:
    """Share of runs of n words that stand there before: 0 says nothing twice."""
    runs = list(zip(*(words[k:] for k in range(n)), strict=False))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _found(own: set[str], wanted: set[str]) -> float | None:
    return len(wanted & own) / len(wanted) if wanted else None


def _f1(shared: int, mine: int, theirs: int) -> float:
    return 2 * shared / (mine + theirs) if shared else 0.0
