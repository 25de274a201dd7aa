"""The bytes ZeRO-3 sends between nodes in one step, by arithmetic alone.

P elements in all, w ranks, m micro-batches a step, e bytes an element of the weights. Rings: to gather or to scatter B bytes over w ranks, (w-1)/w B
leave every node once, however many ranks it has.

    weights     m times: each matrix before its forward and before its backward, 2 (P - p) e; layers that are computed again in the backward
                pass are still there for it. p: parameters below stage3_param_persistence_threshold stay gathered. What lies within
                stage3_max_reuse_distance of the end of the forward is kept for the backward and gathered once: all of a small model.
                What is fetched ahead for the way back is not let go of either: with a layer ahead, one of a large model's.
    gradients   m times, in optim.reduce_dtype: 4 P or 2 P. Over gloo, which reduces to all and then takes a part, twice that.
    update      once: p e, as the ranks change their parts of the parameters that stay gathered.
    hpZ         with a second copy of the weights in every node only the first gather of a step leaves it: (P - p) e, once.

Measured on interfaces of namespaces by tests/launch/test_wire.py. A run's first step gathers twice whatever is kept: it records the order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

DEFAULT_PERSISTENCE = 100_000
DEFAULT_REUSE = 1_000_000_000


@dataclass(frozen=True)
class Wire:
    """Bytes that leave each node in one step."""

    weights: float
    gradients: float
    update: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.update

    def of_trained(self, share: float) -> Wire:
        """With gradients of a share of the elements alone: of a frozen base there are none."""
        return replace(self, gradients=self.gradients * share)

    def seconds(self, gigabits_a_second: float) -> float:
        """How long the node's network takes for them at its full rate, if nothing is computed meanwhile."""
        return self.total * 8 / (gigabits_a_second * 1e9)


def bytes_a_step(
    numels: Sequence[int], zero: dict[str, Any], ranks: int, nodes: int, micro_steps: int, element: int, gradient: int = 4
) -> Wire:
    """What a node sends in one step.

    Args:
        numels: sizes of the parameters in elements. zero: zero_optimization of the DeepSpeed config, `sized` (engine/gathering.py). element:
            bytes of a weight as it is computed with. gradient: bytes of one as it is sent; over gloo twice as many.
    """
    if nodes == 1:
        return Wire(0.0, 0.0, 0.0)
    threshold = int(zero.get("stage3_param_persistence_threshold", DEFAULT_PERSISTENCE))
    total, stay = sum(numels), sum(n for n in numels if n < threshold)
    hpz = zero.get("zero_hpz_partition_size", 1) > 1
    kept = min(total - stay, int(zero.get("stage3_max_reuse_distance", DEFAULT_REUSE)))
    gathered = (total - stay) if hpz else micro_steps * (2 * (total - stay) - kept)
    leaves = (ranks - 1) / ranks
    return Wire(leaves * gathered * element, leaves * micro_steps * gradient * total, leaves * stay * element)


def cheaper(now: Wire, hpz: Wire | None, low: Wire | None, copy_bytes: float) -> list[str]:
    """What a step sends out of a node, and settings that send at least a fifth less.

    Args:
        hpz: with a copy of the weights in every node, copy_bytes on each GPU. low: with gradients sent in bf16. None: it is so already.
    """
    said = [f"{now.total / 1e9:,.0f} GB leave each node a step ({now.seconds(400):,.1f} s at 400 Gb/s, beside computing)"]
    if hpz and hpz.total <= 0.8 * now.total:
        said.append(f"deepspeed=ds_configs/zero3_hpz.json: {hpz.total / 1e9:,.0f} GB, for {copy_bytes / 2**30:.1f} GiB more on each GPU")
    if low and low.total <= 0.8 * now.total:
        said.append(f"optim.reduce_dtype=bf16: {low.total / 1e9:,.0f} GB, gradients of each micro-batch rounded")
    return said
