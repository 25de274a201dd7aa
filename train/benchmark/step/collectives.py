"""How long the ranks need to gather and to scatter what a step of this recipe sends: by size, and for a whole step.

Bus bandwidth is NCCL-tests' measure: bytes x (n - 1) / n / seconds. What a step sends is `train/preflight/wire.py`'s arithmetic over
one link a rank; that of several nodes stands beside it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from train.benchmark.step.phases import settle
from train.world.ranks import World

SECONDS = 2.0  # of one size
REPEATS = 5


def measured(numels: Sequence[int], layer: int, element: int, zero: dict[str, Any], micro_steps: int, world: World) -> dict[str, Any]:
    """Rows by size, and the seconds of a step's collectives one after another; every rank calls it.

    Args:
        numels: elements of each parameter; layer: of a decoder layer. element: bytes of a weight as it is computed with.
    """
    if world.size == 1:
        return {"collectives": [], "collectives of a step": "one rank sends nothing"}
    sizes = {"smallest gathered": _gathered(numels, zero)[0], "largest": max(numels), "a decoder layer": layer}
    bucket = int(zero.get("reduce_bucket_size", 5e8))
    rows = [
        _row("all-gather", f"weights, {name}", n, element, world) for name, n in dict(sorted(sizes.items(), key=lambda s: s[1])).items()
    ]
    rows += [
        _row("reduce-scatter", f"gradients in fp32, {name}", min(n, bucket), 4, world)
        for name, n in (*sizes.items(), ("a bucket", bucket))
        if n
    ]
    rows = [r for k, r in enumerate(rows) if r not in rows[:k]]
    gather = max((r for r in rows if r["collective"] == "all-gather"), key=lambda r: r["MB"])
    scatter = max((r for r in rows if r["collective"] == "reduce-scatter"), key=lambda r: r["MB"])
    weights = 2 * micro_steps * sum(_gathered(numels, zero)) * element
    gradients = micro_steps * 4 * sum(numels)
    seconds = (weights / gather["bytes/s"] + gradients / scatter["bytes/s"]) * (world.size - 1) / world.size
    for one in rows:
        one["GB/s (bus)"] = one.pop("bytes/s") / 1e9
    return {
        "collectives": rows,
        "collectives of a step": f"{weights / 1e6:,.0f} MB of weights gathered and {gradients / 1e6:,.0f} MB of gradients scattered: {seconds:.3g} s at these rates",
    }


def _gathered(numels: Sequence[int], zero: dict[str, Any]) -> list[int]:
    """Parameters that do not stay gathered, smallest first."""
    threshold = int(zero.get("stage3_param_persistence_threshold", 100_000))
    return sorted(n for n in numels if n >= threshold) or sorted(numels)


def _row(collective: str, what: str, elements: int, element: int, world: World) -> dict[str, Any]:
    kind = {2: torch.bfloat16, 4: torch.float32}[element]
    part = max(1, elements // world.size)
    whole, own = (torch.zeros(n, dtype=kind, device=world.device) for n in (part * world.size, part))

    def go() -> None:
        if collective == "all-gather":
            dist.all_gather_into_tensor(whole, own, group=world.group)
        else:
            dist.reduce_scatter_tensor(own, whole, group=world.group)

    seconds = _seconds(go, world)
    nbytes = part * world.size * element
    rate = nbytes * (world.size - 1) / world.size / seconds
    return {"collective": collective, "of": what, "MB": nbytes / 1e6, "ms": 1e3 * seconds, "bytes/s": rate}


def _seconds(go: Callable[[], None], world: World) -> float:
    """Median of the slowest rank's times; fewer where one takes long. The first, which sets things up, is left out."""
    times: list[float] = []
    while len(times) < REPEATS + 1 and (len(times) < 2 or sum(times) < SECONDS):
        world.barrier()
        settle(world.device)
        begun = time.perf_counter()
        go()
        settle(world.device)
        times += world.max([time.perf_counter() - begun])
    return statistics.median(times[1:])
