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
    skipped: bool = False  # a non-finite norm: weights unchanged
    source_losses: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Machine:
    """What MFU needs to know. flops_dense and flops_attention: FLOPs a token without attention, and per attended token."""

    ranks: int
    seq_len: int
    flops_dense: float
    flops_attention: float
    peak_tflops: float | None


def rates(n: StepNumbers, machine: Machine, steps_left: int, seconds_a_step: float) -> dict[str, float | None]:
    """tokens/s, MFU twice over, the share of the step spent waiting for data, and what is left.

    mfu counts attention over whole rows, as most published tables do; mfu_attended what causal attention inside documents computes.
    """
    per_second = n.step_tokens / n.seconds if n.seconds > 0 else 0.0
    peak = machine.peak_tflops * 1e12 * machine.ranks if machine.peak_tflops else None

    def mfu(attended: float) -> float | None:
        return per_second * (machine.flops_dense + machine.flops_attention * attended) / peak if peak else None

    return {
        "tokens_per_second": per_second,
        "tokens_per_second_per_rank": per_second / machine.ranks,
        "mfu": mfu(machine.seq_len),
        "mfu_attended": mfu(n.attended),
        "data_wait_share": min(1.0, n.wait_seconds / n.seconds) if n.seconds > 0 else 0.0,
        "eta_seconds": steps_left * seconds_a_step,
    }
