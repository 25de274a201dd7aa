"""The bytes ZeRO-3 sends between nodes in one step, by arithmetic alone.

P elements in all, w ranks, m micro-batches a step, e bytes an element of the weights. Rings: to gather or to scatter B bytes over w ranks, (w-1)/w B
leave every node once, however many ranks it has.

    weights     m times: each matrix before its forward and before its backward, 2 (P - p) e. Not gathered again is what is used again within
                stage3_max_reuse_distance R elements: min(P - p, R). p: parameters below stage3_param_persistence_threshold stay gathered.
                Where layers are computed again in the backward pass and R is less than a layer, a third time but for its last matrix.
    gradients   m times, in fp32: 4 P. Over gloo, which reduces to all and then takes a part, twice that.
    update      once: p e, as the ranks change their parts of the parameters that stay gathered.
    hpZ         with a second copy of the weights in every node only the first gather of a step leaves it: (P - p) e, once.

Measured on interfaces of namespaces by tests/launch/test_wire.py; gathers a layer agree with DeepSpeed 0.19.8's coordinator run on the shapes of
LLaMA-2: 1.85 P e for 7B, 1.99 P e for 70B by ds_configs/zero3.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

DEFAULT_REUSE = 1_000_000_000  # DeepSpeed's stage3_max_reuse_distance
DEFAULT_PERSISTENCE = 100_000


@dataclass(frozen=True)
class Wire:
    """Bytes that leave each node in one step."""

    weights: float
    gradients: float
    update: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.update

    def seconds(self, gigabits_a_second: float) -> float:
        """How long the node's network takes for them at its full rate, if nothing is computed meanwhile."""
        return self.total * 8 / (gigabits_a_second * 1e9)


@dataclass(frozen=True)
class Tensors:
    """Sizes of a model's parameters in elements. layer, last: of a decoder layer, and of the matrix it ends with (0: not computed again)."""

    numels: Sequence[int]
    layer: int = 0
    last: int = 0


def bytes_a_step(
    tensors: Tensors, zero: dict[str, Any], ranks: int, nodes: int, micro_steps: int, element: int, over_gloo: bool = False
) -> Wire:
    """What a node sends in one step.

    Args:
        zero: zero_optimization of the DeepSpeed config. element: bytes of a weight as it is computed with. tensors: with `layer` where
            activations are computed again.
    """
    if nodes == 1:
        return Wire(0.0, 0.0, 0.0)
    threshold = int(zero.get("stage3_param_persistence_threshold", DEFAULT_PERSISTENCE))
    reuse = int(zero.get("stage3_max_reuse_distance", DEFAULT_REUSE))
    total = sum(tensors.numels)
    stay = sum(n for n in tensors.numels if n < threshold)
    cut = total - stay
    gathered = 2 * cut - min(cut, reuse)
    if tensors.layer and reuse < tensors.layer:
        gathered += cut * (1 - tensors.last / tensors.layer)
    leaves = (ranks - 1) / ranks
    times = micro_steps
    if zero.get("zero_hpz_partition_size", 1) > 1:
        gathered, times = cut, 1
    reduced = 4 * total * (2 if over_gloo else 1)
    return Wire(leaves * times * gathered * element, leaves * micro_steps * reduced, leaves * stay * element)
