"""Rules over held-out perplexity, as `heldout.stop_if` and `heldout.warn_if` write them.

general > 1.05x      the perplexity on the source `general` is more than 1.05 times what it was before step 1
papers > 12.5        the perplexity on the source `papers` is above 12.5
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

SHAPE = re.compile(r"\s*(?P<source>\S.*?)\s*>\s*(?P<limit>[0-9][0-9_]*(\.[0-9]*)?([eE][+-]?[0-9]+)?)\s*(?P<times>x?)\s*")
EXAMPLE = "write SOURCE > 1.05x (times what it was before step 1) or SOURCE > 12.5 (perplexity), SOURCE one of heldout.sources"


@dataclass(frozen=True)
class Rule:
    """Broken when the perplexity on a source is above `limit`: times that before step 1 (`relative`), or as it stands."""

    source: str
    limit: float
    relative: bool

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Raises ValueError that says what is wrong with the text, and what to write."""
        found = SHAPE.fullmatch(text)
        if not found:
            raise ValueError(f"not a rule; {EXAMPLE}")
        limit, relative = float(found["limit"].replace("_", "")), bool(found["times"])
        if not math.isfinite(limit):
            raise ValueError(f"{found['limit']} is no perplexity; {EXAMPLE}")
        if relative and limit < 1:
            raise ValueError(f"before step 1 it is 1x, more than {limit:g}x, already; give a factor of at least 1")
        if not relative and limit < 1:
            raise ValueError(f"no perplexity is below 1, so {limit:g} is broken always; give a perplexity, or a factor with an x: 1.05x")
        return cls(found["source"], limit, relative)

    def __str__(self) -> str:
        return f"{self.source} > {self.limit:g}{'x' * self.relative}"

    def broken_by(self, losses: Mapping[str, float], before: Mapping[str, float]) -> str:
        """In words how these mean token losses (nats, by source) break the rule; empty where they do not, or nothing is known.

        A loss that is not a number breaks it. Args: before: the losses before step 1.
        """
        now = losses.get(self.source)
        if now is None or self.relative and self.source not in before:
            return ""
        start = before.get(self.source)
        limit = math.log(self.limit) + (start if self.relative else 0.0)
        if now <= limit:
            return ""
        if self.relative:
            return f"{self}: perplexity {_perplexity(now)}, {_perplexity(now - start)} times the {_perplexity(start)} before step 1"
        return f"{self}: perplexity {_perplexity(now)}"


def faults(key: str, texts: Iterable[str], sources: Iterable[str]) -> list[str]:
    """What is wrong with the rules of a key, a line each."""
    known, found = list(sources), []
    for text in texts:
        try:
            source = Rule.parse(text).source
        except ValueError as error:
            found.append(f"{key}={text!r}: {error}")
            continue
        if source not in known:
            near = difflib.get_close_matches(source, known, n=1)
            there = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}" if known else "there are none; add it"
            found.append(f"{key}={text!r}: heldout.sources has no {source!r}; {there}")
    return found


def broken(texts: Iterable[str], losses: Mapping[str, float], before: Mapping[str, float]) -> list[str]:
    """In words, each rule that is broken."""
    return [said for text in texts if (said := Rule.parse(text).broken_by(losses, before))]


def learned(names: Iterable[str], texts: Iterable[str]) -> list[str]:
    """The sources to be learned: those that no rule wants kept, or all where every one has a rule."""
    names = sorted(names)
    return [name for name in names if name not in {Rule.parse(text).source for text in texts}] or names


def judged_loss(losses: Mapping[str, float], before: Mapping[str, float], texts: Iterable[str]) -> float | None:
    """By which the best checkpoint is known: the mean loss over the sources to be learned; None where a rule is broken, or nothing known."""
    texts = list(texts)
    if not losses or broken(texts, losses, before):
        return None
    names = learned(losses, texts)
    return sum(losses[name] for name in names) / len(names)


def _perplexity(loss: float) -> str:
    return f"{math.exp(min(loss, 700.0)):.4g}"
