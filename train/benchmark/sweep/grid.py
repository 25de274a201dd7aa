"""`key=value,value …` → all combinations of words; a comma within brackets or quotes belongs to its value.

combinations(["micro_batch=1,2", "optim.betas=[0.9,0.95],[0.9,0.99]"])   # four pairs of words
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from train.benchmark.ranks import BenchError
from train.benchmark.step.job import full_key

OPEN, CLOSED = "[{(", "]})"


def combinations(words: Sequence[str]) -> list[tuple[str, ...]]:
    """Every combination, the last key moving fastest.

    Raises:
        BenchError: a word is not `key=values`, a key is unknown or given twice, a value comes twice.
    """
    axes: dict[str, list[str]] = {}
    for word in words:
        key, sign, text = word.partition("=")
        if not sign or not text:
            raise BenchError(f"--sweep {word}: give key=value,value, e.g. micro_batch=1,2,4")
        key = full_key(key)
        if key in axes:
            raise BenchError(f"--sweep {word}: {key} is swept twice; put all its values behind one")
        axes[key] = values(text)
        if len(set(axes[key])) < len(axes[key]):
            raise BenchError(f"--sweep {word}: a value comes twice")
    return list(itertools.product(*([f"{key}={value}" for value in one] for key, one in axes.items())))


def values(text: str) -> list[str]:
    """The values between commas.

    Raises:
        BenchError: a bracket or a quote is not closed, or a value is empty.
    """
    found, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"" and (depth or not found[-1]):  # a quote within a word is an apostrophe
            quote = letter
        elif letter in OPEN:
            depth += 1
        elif letter in CLOSED:
            depth -= 1
        elif letter == "," and depth == 0:
            found.append("")
            continue
        found[-1] += letter
    if depth or quote:
        raise BenchError(f"--sweep {text}: a bracket or quote is not closed")
    if not all(found):
        raise BenchError(f"--sweep {text}: a value is empty; write '' for nothing")
    return found
