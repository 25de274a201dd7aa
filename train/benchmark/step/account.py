"""From steps that were taken to figures: pure arithmetic on counts and times.

Conventions of FLOPs a token, each times tokens/s over the device's peak:

    MFU, 6N                 6 (N - input embedding), no attention: what "6N" tables print
    MFU                     6 (N - input embedding) + 12 L d T over whole rows of T (PaLM, arXiv 2204.02311, appendix B): the norm here
    MFU attended            the same over what causal attention inside documents computes, sum(L_i^2) / (2 sum(L_i))
    HFU, HFU attended       with what activation checkpointing computes again (arXiv 2205.05198, section 6.3)
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from train.world.beat import COMPUTING


@dataclass(frozen=True)
class Taken:
    """One step over all ranks: useful tokens, places they lie in, attended tokens a token, seconds of the slowest rank, loss."""

    useful: float
    places: float
    attended: float
    seconds: float
    data_seconds: float
    loss: float

    @property
    def per_second(self) -> float:
        return self.useful / self.seconds


@dataclass(frozen=True)
class Shape:
    """FLOPs a token: dense, per attended token, and both again as activation checkpointing computes them; peak of a device in FLOP/s."""

    dense: float
    attention: float
    again_dense: float
    again_attention: float
    seq_len: int
    peak: float | None

    @classmethod
    def of(cls, config: Any, parameters: int, checkpointing: str, seq_len: int, peak: float | None, frozen: int = 0) -> Shape:
        from train.model.flops import flops_per_token, recomputed_flops_per_token

        dense, again = flops_per_token(config, parameters, 0, frozen), recomputed_flops_per_token(config, parameters, 0, checkpointing)
        return cls(
            dense, flops_per_token(config, parameters, 1, frozen) - dense, again,
            recomputed_flops_per_token(config, parameters, 1, checkpointing) - again, seq_len, peak,
        )  # fmt: skip

    def model(self, attended: float) -> float:
        return self.dense + self.attention * attended

    def hardware(self, attended: float) -> float:
        return self.model(attended) + self.again_dense + self.again_attention * attended


def row(name: str, steps: Sequence[Taken], shape: Shape, ranks: int, attended: float) -> dict[str, Any]:
    """A line of the table: the median step, and how far apart the steps are.

    Args:
        attended: what the documents need, however they are laid out.
    """
    speeds = sorted(one.per_second for one in steps)
    speed = statistics.median(speeds)
    a_rank = speed / ranks

    def share(flops: float) -> float | None:
        return 100 * a_rank * flops / shape.peak if shape.peak else None

    return {
        "batches": name, "useful tokens/s": speed, "a rank": a_rank, "seconds a step": statistics.median(one.seconds for one in steps),
        "spread %": 100 * (quantile(speeds, 0.75) - quantile(speeds, 0.25)) / speed, "slowest": speeds[0], "fastest": speeds[-1],
        "useful %": 100 * sum(one.useful for one in steps) / sum(one.places for one in steps),
        "data wait %": 100 * sum(one.data_seconds for one in steps) / sum(one.seconds for one in steps),
        "model TFLOP/s": a_rank * shape.model(shape.seq_len) / 1e12, "hardware TFLOP/s": a_rank * shape.hardware(shape.seq_len) / 1e12,
        "MFU, 6N %": share(shape.dense), "MFU %": share(shape.model(shape.seq_len)), "MFU attended %": share(shape.model(attended)),
        "HFU %": share(shape.hardware(shape.seq_len)), "HFU attended %": share(shape.hardware(attended)),
    }  # fmt: skip


def quantile(ordered: Sequence[float], share: float) -> float:
    """Between neighbours in proportion; of one value that."""
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def besides(seconds: dict[str, float]) -> dict[str, float]:
    """Shares of a step, in %: of all but forward, backward and optimizer, and of it waiting for data."""
    total = sum(seconds.values()) or 1.0
    rest = sum(spent for name, spent in seconds.items() if name not in COMPUTING)
    return {"all but forward, backward and optimizer %": 100 * rest / total, "waiting for data %": 100 * seconds.get("data", 0.0) / total}


def phase_rows(seconds: dict[str, float], steps: int) -> list[dict[str, Any]]:
    """Seconds a step in each phase, and their share, in the order in which they come."""
    total = sum(seconds.values()) or 1.0
    return [{"phase": name, "seconds": spent / steps, "share %": 100 * spent / total} for name, spent in seconds.items()]
