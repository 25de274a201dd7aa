"""How sure a figure is: bootstrap over the units that were sampled (papers, questions, articles), and paired tests of two models.

Every draw comes from a generator of its own with a fixed seed, so that the same values give the same interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95
MOST_DRAWS = 400_000_000  # units times resamples; larger sets are drawn less often, not below FEWEST
FEWEST = 1_000


@dataclass(frozen=True)
class Interval:
    """The middle 95% of what resampling gives."""

    low: float
    high: float

    def to_json(self) -> list[float]:
        return [self.low, self.high]


def of_ratio(above: np.ndarray, below: np.ndarray, units: Sequence[object] | None = None, seed: int = 0) -> Interval:
    """Of sum(above) / sum(below) over resampled units.

    Args:
        above, below: (values,) float64. units: what each value belongs to, drawn together; None: each is its own.
    """
    sums = resampled(np.stack([above, below], axis=1), units, seed)
    return of_draws(sums[:, 0] / np.where(sums[:, 1] == 0, np.nan, sums[:, 1]))


def of_draws(draws: np.ndarray) -> Interval:
    """By percentiles; NaN where no draw could be counted."""
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return Interval(math.nan, math.nan)
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def resampled(values: np.ndarray, units: Sequence[object] | None = None, seed: int = 0) -> np.ndarray:
    """Sums (resamples, columns) of `values` (values, columns) over units drawn with replacement, as many as there are."""
    if units is not None:
        _, which = np.unique(np.asarray([str(unit) for unit in units]), return_inverse=True)
        grouped = np.zeros((int(which.max(initial=-1)) + 1, values.shape[1]))
        np.add.at(grouped, which, values)
        values = grouped
    count = len(values)
    if not count:
        return np.full((FEWEST, values.shape[1]), np.nan)
    rng = np.random.default_rng([seed, count])
    times = int(np.clip(MOST_DRAWS // count, FEWEST, RESAMPLES))
    at_once = max(1, 4_000_000 // count)
    parts = []
    for start in range(0, times, at_once):
        drawn = rng.integers(0, count, size=(min(at_once, times - start), count))
        # how often each unit was drawn, times the values: a product is faster than gathering every draw
        counts = np.stack([np.bincount(row, minlength=count) for row in drawn]).astype(np.float64)
        parts.append(counts @ values)
    return np.concatenate(parts)


def p_of_sign_flips(differences: np.ndarray, units: Sequence[object] | None = None, seed: int = 0) -> float:
    """Two-sided chance that a sum of differences this large comes about when each unit's sign is a coin's (permutation test)."""
    if units is not None:
        _, which = np.unique(np.asarray([str(unit) for unit in units]), return_inverse=True)
        differences = np.bincount(which, weights=differences)
    rng = np.random.default_rng([seed, len(differences)])
    seen, times = abs(differences.sum()), int(np.clip(MOST_DRAWS // max(len(differences), 1), FEWEST, RESAMPLES))
    at_least, at_once = 0, max(1, 4_000_000 // max(len(differences), 1))
    for start in range(0, times, at_once):
        signs = rng.integers(0, 2, size=(min(at_once, times - start), len(differences)), dtype=np.int8) * 2 - 1
        at_least += int((np.abs(signs @ differences) >= seen * (1 - 1e-12)).sum())
    return (1 + at_least) / (1 + times)


def p_of_mcnemar(first_alone: int, second_alone: int) -> float:
    """McNemar's exact test: two-sided binomial chance of questions that only one of two models gets right."""
    discordant, smaller = first_alone + second_alone, min(first_alone, second_alone)
    if not discordant:
        return 1.0
    tail = sum(math.comb(discordant, k) for k in range(smaller + 1))
    return min(1.0, float(2 * tail / 2**discordant)) if discordant < 1000 else _p_of_large(discordant, smaller)


def _p_of_large(discordant: int, smaller: int) -> float:
    """The same by logarithms, since 2**discordant is beyond a float."""
    logs = [math.lgamma(discordant + 1) - math.lgamma(k + 1) - math.lgamma(discordant - k + 1) for k in range(smaller + 1)]
    top = max(logs)
    return min(1.0, 2 * math.exp(top + math.log(sum(math.exp(x - top) for x in logs)) - discordant * math.log(2)))


def wilson(right: int, count: int) -> Interval:
    """Of a share by Wilson's score, which stays within 0 and 1 and does not vanish where all or none are right."""
    if not count:
        return Interval(math.nan, math.nan)
    z, share = 1.959963984540054, right / count
    centre, spread = share + z * z / (2 * count), z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Interval(max(0.0, (centre - spread) / (1 + z * z / count)), min(1.0, (centre + spread) / (1 + z * z / count)))
