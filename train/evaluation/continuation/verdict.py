"""Continuations → a model's figures with intervals over abstracts, and what it has by heart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from train.evaluation import intervals
from train.evaluation.continuation.copies import Copy
from train.evaluation.continuation.items import Item
from train.evaluation.continuation.overlap import Overlap, overlap
from train.evaluation.continuation.score import Written

FIGURES = ("rouge1", "rouge2", "rouge_l", "names", "numbers", "invented", "repetition")


def overlaps(items: Sequence[Item], texts: Sequence[Sequence[str]]) -> list[list[Overlap]]:
    """Of each item's texts, greedy first."""
    return [[overlap(text, item.truth, item.prompt) for text in of_item] for item, of_item in zip(items, texts, strict=True)]


def figures(found: Sequence[Sequence[Overlap]], written: Sequence[Written] | None, copies: Sequence[Copy] | None) -> dict[str, Any]:
    """`greedy` and, where there are any, `sampled` (the mean of an item's samples); likelihood of the truth, where it is known."""
    told: dict[str, Any] = {"items": len(found), "greedy": _means([[of_item[0]] for of_item in found])}
    if any(len(of_item) > 1 for of_item in found):
        told["sampled"] = _means([of_item[1:] for of_item in found])
    if written is not None:
        nats, tokens = (np.array([getattr(one, name) for one in written], np.float64) for name in ("nats", "tokens"))
        loss, interval = math.fsum(nats) / max(tokens.sum(), 1), intervals.of_ratio(nats, tokens)
        told["truth"] = {
            "loss": loss, "perplexity": math.exp(min(loss, 700)), "tokens": int(tokens.sum()),
            "interval": [math.exp(min(x, 700)) if math.isfinite(x) else None for x in interval.to_json()],
        }  # fmt: skip
    if copies is not None:
        lengths = np.array([one.tokens for one in copies], np.float64)
        told["copied"] = {
            "mean_tokens": float(lengths.mean()), "interval": intervals.of_ratio(lengths, np.ones(len(lengths))).to_json(),
            "longest_tokens": int(lengths.max()), "longest_from": max(copies, key=lambda one: one.tokens).document,
        }  # fmt: skip
    return told


def _means(found: Sequence[Sequence[Overlap]]) -> dict[str, Any]:
    told = {}
    for name in FIGURES:
        values = [[v for v in (asdict(one)[name] for one in of_item) if v is not None] for of_item in found]
        known = np.array([sum(of_item) / len(of_item) for of_item in values if of_item], np.float64)
        told[name] = (
            {"value": float(known.mean()), "interval": intervals.of_ratio(known, np.ones(len(known))).to_json(), "items": len(known)}
            if len(known)
            else None
        )
    return told
