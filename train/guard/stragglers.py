"""Which rank holds the others up: from numbers that travel in the step's status all-reduce, so that nobody waits for them.

each rank's data wait and the time of its own matrix products → a place of its own in the sum → `Stragglers.note`, on every rank → the
rank, its host and what it costs, when the same one has been the slowest for several steps.

Under ZeRO-3 all ranks take equally long, since each waits for the others' slices in every layer; what differs is the time of a matrix
product alone. One product a decoder layer is timed (the largest), forward and recomputed: on CUDA by events, read a step later, when
they have long passed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Any

import torch
from torch import nn

COSTS, STEPS = 0.10, 5  # a tenth of a step, for so many steps in a row
AGAIN = 100  # steps until it is said again


class ProductTimes:
    """Seconds of one matrix product a layer, added up over a step; nothing where layers are compiled, since hooks would cut them up."""

    def __init__(self, layers: Sequence[nn.Module], on_cuda: bool, compiled: bool):
        self._on_cuda = on_cuda
        self._spans: list[tuple[Any, Any]] = []
        self._last: list[tuple[Any, Any]] = []
        self._begun: Any = None
        for layer in () if compiled else layers:
            products = [m for m in layer.modules() if isinstance(m, nn.Linear)]
            if products:
                largest = max(products, key=lambda m: getattr(m.weight, "ds_numel", m.weight.numel()))
                largest.register_forward_pre_hook(self._before)  # after DeepSpeed's, which waits for the slices
                largest.register_forward_hook(self._behind, prepend=True)

    def taken(self) -> float:
        """Of the step before the one at hand; asked once a step."""
        ended, self._last, self._spans = self._last, self._spans, []
        if self._on_cuda:
            return sum(a.elapsed_time(b) for a, b in ended) / 1e3
        return sum(b - a for a, b in ended)

    def _now(self) -> Any:
        if not self._on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _before(self, *_: Any) -> None:
        self._begun = self._now()

    def _behind(self, module: nn.Module, *_: Any) -> None:
        if module.training:  # an evaluation is none of a step
            self._spans.append((self._begun, self._now()))


@dataclass(frozen=True)
class Slowest:
    """A rank and what it holds the others up by."""

    rank: int
    cost: float  # share of the step, at most
    why: str


def slowest(data: Sequence[float], products: Sequence[float], seconds: float) -> Slowest:
    """The rank that costs most, from every rank's data wait and time of products; seconds: of the step.

    Its cost is the step's share that goes when it is as fast as the median rank, which of an even number is the faster one.
    """
    waits = median_low(data)
    of_data = {rank: (value - waits) / seconds if seconds > 0 else 0.0 for rank, value in enumerate(data)}
    usual = median_low(products)
    of_products = {rank: 1 - usual / value if value > 0 else 0.0 for rank, value in enumerate(products)}
    rank_d, rank_p = max(of_data, key=of_data.__getitem__), max(of_products, key=of_products.__getitem__)
    if of_data[rank_d] >= of_products[rank_p]:
        return Slowest(rank_d, min(1.0, of_data[rank_d]), f"waits {data[rank_d]:.2f} s for its data, the median rank {waits:.2f} s")
    return Slowest(
        rank_p, of_products[rank_p], f"its matrix products take {products[rank_p] / usual if usual else 0:.1f} times the median rank's"
    )


class Stragglers:
    """Says which rank is slow, once it has been for STEPS steps."""

    def __init__(self, hosts: Sequence[str]):
        self.hosts = hosts
        self._rank, self._steps = -1, 0

    def mine(self, rank: int, data: float, products: float) -> dict[str, float]:
        """This rank's numbers for the sum over all ranks."""
        return {f"data {r}": data if r == rank else 0.0 for r in range(len(self.hosts))} | {
            f"products {r}": products if r == rank else 0.0 for r in range(len(self.hosts))
        }

    def note(self, agreed: dict[str, float], seconds: float) -> tuple[Slowest, str]:
        """The slowest rank of a step, and a line for people when there is something to say."""
        ranks = range(len(self.hosts))
        found = slowest([agreed[f"data {r}"] for r in ranks], [agreed[f"products {r}"] for r in ranks], seconds)
        if found.cost <= COSTS:
            self._rank, self._steps = -1, 0
            return found, ""
        self._steps = self._steps + 1 if found.rank == self._rank else 1
        self._rank = found.rank
        if (self._steps - STEPS) % AGAIN:
            return found, ""
        return found, f"rank {found.rank} on {self.hosts[found.rank]} is slow: {found.why}; it costs up to {found.cost:.0%} of a step"
