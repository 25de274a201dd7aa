"""Rates of a step: pure arithmetic from counts and times that are given, so that tests need no clock."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class StepNumbers:
    """What one step was; counts and losses are global."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int  # of the run so far, without padding
    step_tokens: int  # of this step, without padding
    supervised: int
    seconds: float  # of this step
    wait_seconds: float  # the slowest rank waited for data
    attended: float = 0.0  # sum(L_i^2) / (2 sum(L_i)) over the step's documents
    skipped: bool = False  # weights unchanged
    why: str = ""  # it was skipped
    deviations: dict[str, float] = field(default_factory=dict)  # robust deviations of loss and norm above their medians, where judged
    run: dict[str, float] = field(default_factory=dict)  # goodput so far; the slowest rank and its cost
    source_losses: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Flops:
    """What MFU needs to know. dense and attention: FLOPs a token without attention, and per attended token."""

    ranks: int
    seq_len: int
    dense: float
    attention: float
    peak_tflops: float | None


def rates(n: StepNumbers, flops: Flops, steps_left: int, seconds_a_step: float) -> dict[str, float | None]:
    """tokens/s, MFU twice over, the share of the step spent waiting for data, and what is left.

    mfu counts attention over whole rows, as most published tables do; mfu_attended what causal attention inside documents computes.
    """
    per_second = n.step_tokens / n.seconds if n.seconds > 0 else 0.0
    peak = flops.peak_tflops * 1e12 * flops.ranks if flops.peak_tflops else None

    def mfu(attended: float) -> float | None:
        return per_second * (flops.dense + flops.attention * attended) / peak if peak else None

    return {
        "tokens_per_second": per_second,
        "tokens_per_second_per_rank": per_second / flops.ranks,
        "mfu": mfu(flops.seq_len),
        "mfu_attended": mfu(n.attended),
        "data_wait_share": min(1.0, n.wait_seconds / n.seconds) if n.seconds > 0 else 0.0,
        "eta_seconds": steps_left * seconds_a_step,
    }
