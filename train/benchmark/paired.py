"""Two results of `benchmark.py train` → whether the second is slower: by pairs, with the interval that the pairs allow.

Runs that were added to one file (`--again`) are paired in order: the k-th of A with the k-th of B. With one run each, steps are paired, which
have the same rows; then whatever differs between two starts is in the verdict, and it says so.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.benchmark.ranks import BenchError

TOLERANCE = 0.02  # a difference smaller than this is none
LEAST = 3  # runs of each that are worth pairing
# two-sided 95% of Student's t by degrees of freedom; beyond the last its value there
T95 = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
    2.120,
    2.110,
    2.101,
    2.093,
    2.086,
)
NOT_THE_RECIPE = ("name", "runs", "steps", "logging", "heldout", "checkpoint", "guard")


def compare(a: Path, b: Path) -> dict[str, Any]:
    """The verdict on B against A. `verdict`: slower, faster, same or undecided.

    Raises:
        BenchError: the files are no results, or not of one machine, recipe and number of ranks.
    """
    one, other = _read(a), _read(b)
    if differ := _differences(one, other):
        raise BenchError(f"{a} and {b} are not comparable: " + "; ".join(differ))
    runs_a, runs_b = one["runs"], other["runs"]
    said = []
    if min(len(runs_a), len(runs_b)) >= LEAST:
        count = min(len(runs_a), len(runs_b))
        ratios = [x["median"] / y["median"] for x, y in zip(runs_b[:count], runs_a[:count])]
        pairs = f"{count} pairs of runs"
        times = sorted([(r["time"], "a") for r in runs_a[:count]] + [(r["time"], "b") for r in runs_b[:count]])
        if any(x[1] == y[1] == z[1] for x, y, z in zip(times, times[1:], times[2:])):
            said.append("the runs were not taken in turn: what the machine did meanwhile is in the verdict")
    else:
        steps_a, steps_b = (r[-1]["steps"] for r in (runs_a, runs_b))
        count = min(len(steps_a), len(steps_b))
        ratios = [y["seconds"] / x["seconds"] for y, x in zip(steps_a[:count], steps_b[:count])]
        pairs = f"{count} pair{'s' * (count > 1)} of steps of one run each"
        said.append(f"what differs between two starts is in the verdict: add runs of each in turn (--again), {LEAST} or more")
    middle, low, high = interval(ratios)
    verdict = judged(middle, low, high)
    between = f" ({100 * (low - 1):+.1f} to {100 * (high - 1):+.1f})" if math.isfinite(high) else ""
    words = {
        "slower": "B is slower",
        "faster": "B is faster",
        "same": f"no difference beyond {TOLERANCE:.0%}",
        "undecided": "undecided: more pairs",
    }
    notes = {f"version of {k}": f"{one['versions'].get(k)} → {other['versions'].get(k)}" for k in {**one["versions"], **other["versions"]}
             if one["versions"].get(k) != other["versions"].get(k)}  # fmt: skip
    return {
        "verdict": verdict, "figure": f"{words[verdict]}: {100 * (middle - 1):+.1f}%{between}, {pairs}",
        **({"mind": "; ".join(said)} if said else {}), **notes, "commits": f"{one['commit']} → {other['commit']}",
        "rows": [{"pair": k + 1, "B / A": ratio} for k, ratio in enumerate(ratios)],
    }  # fmt: skip


def interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Geometric mean of the ratios and its 95% interval, by Student's t of their logarithms; without bounds for a single one."""
    logs = [math.log(r) for r in ratios]
    mean = statistics.fmean(logs)
    if len(logs) < 2:
        return math.exp(mean), 0.0, math.inf
    half = T95[min(len(logs) - 1, len(T95)) - 1] * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def judged(middle: float, low: float, high: float) -> str:
    """Slower or faster: by more than TOLERANCE, and surely; the same: surely by less."""
    if middle <= 1 - TOLERANCE and high < 1:
        return "slower"
    if middle >= 1 + TOLERANCE and low > 1:
        return "faster"
    return "same" if low > 1 - TOLERANCE and high < 1 + TOLERANCE else "undecided"


def run_of(result: dict[str, Any], time: float) -> dict[str, Any]:
    """A result as one of the runs of a file."""
    return {"median": result["tokens_per_second_per_gpu"], "time": time, "steps": result["steps_taken"]["packed"]}


def _read(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BenchError(
            f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'not JSON'}); give a file of benchmark.py train --json"
        ) from None
    if not isinstance(report, dict) or not {"recipe", "runs", "machine", "ranks", "versions"} <= report.keys():
        raise BenchError(f"{path}: not a result of benchmark.py train --json, or of an older program; measure again")
    return report


def _differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """What makes two results incomparable."""
    found = [f"{key} {one[key]} and {other[key]}" for key in ("machine", "device", "ranks") if one[key] != other[key]]
    flat_a, flat_b = (_flat({k: v for k, v in r["recipe"].items() if k not in NOT_THE_RECIPE}) for r in (one, other))
    found += [f"{key}={flat_a.get(key)} and {flat_b.get(key)}" for key in {**flat_a, **flat_b} if flat_a.get(key) != flat_b.get(key)]
    for key in ("size", "layers", "shards", "mean_tokens"):
        if one["job"][key] != other["job"][key]:
            found.append(f"--{key.replace('_', '-')} {one['job'][key]} and {other['job'][key]}")
    return found


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {prefix: values}
    return {k: v for key, value in values.items() for k, v in _flat(value, f"{prefix}.{key}".strip(".")).items()}
