"""Cosines of many vectors, some rows at a time, so that the table of all pairs is never held: how they spread, find, and tell apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from train.evaluation import intervals

ROWS = 256  # whose cosines exist at once
BINS = 2000  # of cosines from -1 to 1


@dataclass(frozen=True)
class Spread:
    """Of all pairs of papers. counts: (BINS,) pairs in each bin."""

    counts: np.ndarray
    mean: float
    deviation: float

    def quantile(self, share: float) -> float:
        reached = np.searchsorted(np.cumsum(self.counts), share * self.counts.sum())
        return float((reached + 0.5) / BINS * 2 - 1)

    def to_json(self) -> dict[str, Any]:
        quantiles = {f"{share:g}": self.quantile(share) for share in (0.05, 0.25, 0.5, 0.75, 0.95)}
        return {"mean": self.mean, "standard_deviation": self.deviation, "quantiles": quantiles, "pairs": int(self.counts.sum())}


def unit(vectors: np.ndarray, centre: np.ndarray | None = None) -> np.ndarray:
    """Vectors of length 1, in place of the ones given; centre: taken off before."""
    if centre is not None:
        vectors -= centre
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]  # without a second array of squares
    vectors /= np.where(lengths == 0, 1, lengths)
    return vectors


def spread(units: np.ndarray) -> Spread:
    """Of vectors of length 1."""
    counts, total, squares, pairs = np.zeros(BINS, np.int64), 0.0, 0.0, 0
    for start in range(0, len(units), ROWS):
        block = units[start : start + ROWS] @ units[start:].T
        cosines = block[np.triu_indices(len(block), 1, block.shape[1])].astype(np.float64)
        counts += np.bincount(np.clip(((cosines + 1) * (BINS / 2)).astype(np.int32), 0, BINS - 1), minlength=BINS)
        total, squares, pairs = total + cosines.sum(), squares + (cosines**2).sum(), pairs + len(cosines)
    mean = total / max(pairs, 1)
    return Spread(counts, mean, float(np.sqrt(max(squares / max(pairs, 1) - mean**2, 0.0))))


def ranks(queries: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Where each query finds its own target among all, from 1 on; an equal cosine of another counts against it."""
    found = []
    for start in range(0, len(queries), ROWS):
        block = queries[start : start + ROWS] @ targets.T
        own = block[np.arange(len(block)), start + np.arange(len(block))]
        found.append((block >= own[:, None]).sum(axis=1))
    return np.concatenate(found)


def found(rank: np.ndarray) -> dict[str, Any]:
    """recall@1, recall@10 and the mean reciprocal rank, with intervals over papers."""
    values = {"recall@1": rank <= 1, "recall@10": rank <= 10, "mrr": 1 / rank}
    ones = np.ones(len(rank))
    return {"papers": len(rank)} | {
        name: {"value": float(one.mean()), "interval": intervals.of_ratio(one.astype(np.float64), ones).to_json()}
        for name, one in values.items()
    }


@dataclass(frozen=True)
class Neighbours:
    """Of each paper: the share of its `k` nearest that have its category; the chance that one of its category is nearer than another."""

    same: np.ndarray
    auc: np.ndarray
    k: int
    chance: float  # of a same category, drawn blindly


def neighbours(units: np.ndarray, categories: Sequence[str], k: int = 10) -> Neighbours | None:
    """Papers whose category nobody else has are left out as queries; None where that leaves none, or all are of one."""
    names, kind = np.unique(np.asarray(categories), return_inverse=True)
    sizes = np.bincount(kind)
    asked = [n for n in range(len(units)) if sizes[kind[n]] > 1]
    if not asked or len(names) < 2:
        return None
    k = min(k, len(units) - 1)
    same, auc = [], []
    for rows, block in _blocks(units, asked):
        for n, cosines in zip(rows, block, strict=True):
            cosines[n] = -np.inf  # itself
            order = np.argsort(cosines, kind="stable")
            alike = kind[order] == kind[n]
            alike[0] = False
            same.append(alike[-k:].mean())
            places, number = np.flatnonzero(alike), int(alike.sum())  # places count those below, itself among them
            below = places.sum() - number * (number + 1) / 2
            auc.append(below / (number * (len(units) - 1 - number)))
    shares = sizes / sizes.sum()
    return Neighbours(np.array(same), np.array(auc), k, float((shares**2).sum()))


def _blocks(units: np.ndarray, asked: Sequence[int]) -> Iterator[tuple[Sequence[int], np.ndarray]]:
    for start in range(0, len(asked), ROWS):
        rows = asked[start : start + ROWS]
        yield rows, units[rows] @ units.T
