"""Scores of texts → a model's perplexity with its interval, of all and of each group, and how two models differ on the same texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from train.evaluation import intervals
from train.evaluation.perplexity.score import Scored
from train.evaluation.texts import Text


@dataclass(frozen=True)
class Verdict:
    """loss: mean nats a token, weighted by tokens. Intervals: 95%, bootstrap over papers."""

    loss: float
    tokens: int
    documents: int
    bytes: int
    unscored_bytes: int
    bits_per_byte: float
    loss_interval: intervals.Interval
    bits_interval: intervals.Interval

    def to_json(self) -> dict[str, Any]:
        return {
            "loss": self.loss, "perplexity": perplexity(self.loss), "bits_per_byte": self.bits_per_byte, "tokens": self.tokens,
            "documents": self.documents, "interval": [perplexity(x) for x in self.loss_interval.to_json()],
            "loss_interval": self.loss_interval.to_json(), "bits_per_byte_interval": self.bits_interval.to_json(), "bytes": self.bytes,
            "unscored_bytes": self.unscored_bytes,
        }  # fmt: skip


def perplexity(loss: float) -> float:
    return math.exp(min(loss, 700.0))


def verdict(texts: Sequence[Text], scores: Sequence[Scored]) -> Verdict | None:
    """None where nothing was scored. Texts without a scored token are left out."""
    kept = [(text, one) for text, one in zip(texts, scores, strict=True) if one.tokens]
    if not kept:
        return None
    units = [text.id for text, _ in kept]
    nats, tokens, size = (np.array([getattr(one, name) for _, one in kept], np.float64) for name in ("nats", "tokens", "bytes"))
    total = math.fsum(nats)
    return Verdict(
        loss=total / tokens.sum(), tokens=int(tokens.sum()), documents=len(kept), bytes=int(size.sum()),
        unscored_bytes=sum(one.unscored_bytes for _, one in kept), bits_per_byte=total / math.log(2) / size.sum(),
        loss_interval=intervals.of_ratio(nats, tokens, units), bits_interval=intervals.of_ratio(nats / math.log(2), size, units),
    )  # fmt: skip


def by_group(texts: Sequence[Text], scores: Sequence[Scored]) -> dict[str, dict[str, Verdict]]:
    """kind → name → verdict, kinds and names in the order in which they come."""
    places: dict[str, dict[str, list[int]]] = {}
    for number, text in enumerate(texts):
        for kind, name in text.groups:
            places.setdefault(kind, {}).setdefault(name, []).append(number)
    found = {
        kind: {name: verdict([texts[k] for k in numbers], [scores[k] for k in numbers]) for name, numbers in names.items()}
        for kind, names in places.items()
    }
    return {kind: {name: one for name, one in names.items() if one} for kind, names in found.items()}


@dataclass(frozen=True)
class Difference:
    """What the second of two models changes, on the texts that both have scored: bits a byte, and where both cut them into the same
    tokens, perplexity in percent. p: of a permutation test over papers."""

    documents: int
    bits_per_byte: float
    bits_interval: intervals.Interval
    perplexity_percent: float | None
    percent_interval: intervals.Interval | None
    p: float

    def to_json(self) -> dict[str, Any]:
        return {
            "documents": self.documents, "bits_per_byte": self.bits_per_byte, "bits_per_byte_interval": self.bits_interval.to_json(),
            "perplexity_percent": self.perplexity_percent,
            "perplexity_percent_interval": self.percent_interval.to_json() if self.percent_interval else None, "p": self.p,
        }  # fmt: skip


def difference(texts: Sequence[Text], first: Sequence[Scored], second: Sequence[Scored]) -> Difference | None:
    """second - first; None where they have no scored text in common."""
    pairs = [(text.id, a, b) for text, a, b in zip(texts, first, second, strict=True) if a.tokens and b.tokens]
    if not pairs:
        return None
    units = [id for id, _, _ in pairs]
    change = np.array([b.nats - a.nats for _, a, b in pairs])
    size = np.array([a.bytes for _, a, _ in pairs], np.float64)
    sums = intervals.resampled(np.stack([change / math.log(2), size], axis=1), units)
    percent = percents = None
    if all(a.tokens == b.tokens for _, a, b in pairs):
        tokens = np.array([a.tokens for _, a, _ in pairs], np.float64)
        percent = 100 * math.expm1(min(math.fsum(change) / tokens.sum(), 700))
        drawn = intervals.resampled(np.stack([change, tokens], axis=1), units)
        percents = intervals.of_draws(100 * np.expm1(drawn[:, 0] / drawn[:, 1]))
    return Difference(
        len(pairs), math.fsum(change) / math.log(2) / size.sum(), intervals.of_draws(sums[:, 0] / sums[:, 1]), percent, percents,
        intervals.p_of_sign_flips(change, units),
    )  # fmt: skip
