"""What becomes of a step that went wrong: pure rules, from numbers that are the same on every rank.

loss and gradient norm, before the update → `judged`: take it, or skip it and why → `after`: what is remembered of it → `verdict`:
go on, rewind to a checkpoint from before, or stop. Nothing else is remembered than `Memory`, which lies in every checkpoint, so that
a resumed run decides as the uncut one does.

A number is far out when it lies more than `zscore` robust deviations (1.4826 times the median distance from the median) above the
median of the last accepted steps. The deviation is never taken for less than 1% of a median loss or 25% of a median norm: losses of
large batches lie so close together, and norms are clipped anyway, that harmless steps would count as far out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from train.guard.replay import Record

LEAST_DEVIATION = {"loss": 0.01, "grad_norm": 0.25}  # of the median
SPAN = 1000  # steps over which skipped ones are counted


class SpikeError(RuntimeError):
    """Too many steps were skipped, or too many rewinds did not help; names the documents."""


@dataclass(frozen=True)
class Rules:
    """What is far out, and how often it may be; `Guard` of the recipe explains each."""

    zscore: float | None = None
    window: int = 128
    nonfinite_in_a_row: int = 10
    skipped_of_1000: int = 20
    rewind_after: int = 5
    max_rewinds: int = 0


@dataclass(frozen=True)
class Memory:
    """What the rules remember."""

    losses: tuple[float, ...] = ()  # of the last accepted steps, as many as the window holds
    norms: tuple[float, ...] = ()
    in_a_row: int = 0  # steps skipped since the last accepted one
    nonfinite_in_a_row: int = 0
    skipped: tuple[int, ...] = ()  # the last SPAN steps' skipped ones
    rewinds: int = 0

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, saved: Mapping[str, Any]) -> Memory:
        """From a checkpoint; one that was written before there were rules remembers nothing."""
        return cls(**{k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in saved.items()})


@dataclass(frozen=True)
class Judged:
    """A step before its update."""

    skip: str = ""  # why; "" takes it
    deviations: Mapping[str, float] = field(default_factory=dict)  # of `loss` and `grad_norm`, above the median; none: too early to say


@dataclass(frozen=True)
class Verdict:
    """What the run does next: go on, rewind, or stop for a reason."""

    rewind: bool = False
    stop: str = ""

    @property
    def ends_here(self) -> bool:
        """Whether it is anything but going on."""
        return self.rewind or bool(self.stop)


def judged(rules: Rules, memory: Memory, loss: float, norm: float) -> Judged:
    """Whether a step's update is made."""
    if not (math.isfinite(loss) and math.isfinite(norm)):
        return Judged("not finite")
    if rules.zscore is None or 2 * len(memory.losses) < rules.window:
        return Judged()
    values = {"loss": (loss, memory.losses), "grad_norm": (norm, memory.norms)}
    z = {name: deviations(value, recent, LEAST_DEVIATION[name]) for name, (value, recent) in values.items()}
    far = [f"{name.replace('_', ' ')} {z[name]:.1f}" for name in values if z[name] > rules.zscore]
    return Judged(f"{' and '.join(far)} deviations out" if far else "", z)


def deviations(value: float, recent: tuple[float, ...], least: float) -> float:
    """How many robust deviations a value lies above the median; least: the smallest deviation, as a share of the median."""
    middle = median(recent)
    spread = max(1.4826 * median(abs(v - middle) for v in recent), least * abs(middle), 1e-12)
    return (value - middle) / spread


def after(rules: Rules, memory: Memory, step: int, loss: float, norm: float, skip: str) -> Memory:
    """What is remembered when a step is over."""
    skipped = tuple(s for s in memory.skipped if s > step - SPAN)
    if not skip:
        recent = {"losses": (*memory.losses, loss)[-rules.window :], "norms": (*memory.norms, norm)[-rules.window :]}
        return dataclasses.replace(memory, in_a_row=0, nonfinite_in_a_row=0, skipped=skipped, **recent)
    nonfinite = 0 if math.isfinite(loss) and math.isfinite(norm) else memory.nonfinite_in_a_row + 1
    return dataclasses.replace(memory, in_a_row=memory.in_a_row + 1, nonfinite_in_a_row=nonfinite, skipped=(*skipped, step))


def verdict(rules: Rules, memory: Memory) -> Verdict:
    """What follows from what is remembered: asked before every step, so that a run killed here finds the same answer when it goes on."""
    if memory.in_a_row >= rules.rewind_after:
        if memory.rewinds < rules.max_rewinds:
            return Verdict(rewind=True)
        if rules.max_rewinds:
            return Verdict(stop=f"{_times(memory.in_a_row, 'step')} skipped in a row again, after {_times(memory.rewinds, 'rewind')}")
        if rules.zscore is not None and memory.in_a_row > memory.nonfinite_in_a_row:
            return Verdict(stop=f"{_times(memory.in_a_row, 'step')} skipped in a row")
    if memory.nonfinite_in_a_row >= rules.nonfinite_in_a_row:
        return Verdict(stop=f"loss or gradient not finite for {_times(memory.nonfinite_in_a_row, 'step')} in a row")
    if len(memory.skipped) > rules.skipped_of_1000:
        return Verdict(stop=f"{_times(len(memory.skipped), 'step')} of the last {SPAN:,} skipped")
    return Verdict()


def _times(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def stopped(step: int, why: str, documents: list[str]) -> SpikeError:
    """The error that ends a run."""
    shown = ", ".join(documents[:8]) + (f" and {len(documents) - 8} more" if len(documents) > 8 else "")
    return SpikeError(
        f"step {step}: {why}; the weights are those before them. Documents of this step: {shown}. Lower optim.lr, lengthen the warm-up, "
        f"or look at these documents: python -m data_tools.show --step {step} --recipe RUN"
    )


class Ladder:
    """The rules and what they remember, in one hand; decisions of a record stand before them."""

    def __init__(self, rules: Rules, record: Record | None = None):
        self.rules, self.record, self.memory = rules, record, Memory()
        self._judged = Judged()

    def accepts(self, step: int, loss: float, norm: float) -> bool:
        """Whether the update of a step is made; asked between the gradient norm and the update."""
        self._judged = judged(self.rules, self.memory, loss, norm)
        if self.record and step <= self.record.last_step:
            self._judged = dataclasses.replace(self._judged, skip=self.record.skipped.get(step, ""))
        return not self._judged.skip

    def note(self, step: int, loss: float, norm: float, updated: bool) -> Judged:
        """The step is over; updated: whether weights changed, which a gradient that is not finite prevents by itself."""
        if not updated and not self._judged.skip:
            self._judged = Judged("not finite")
        self.memory = after(self.rules, self.memory, step, loss, norm, self._judged.skip)
        return self._judged

    def verdict(self, step: int) -> Verdict:
        """What follows after `step`."""
        if self.record and step <= self.record.last_step:
            return Verdict()
        return verdict(self.rules, self.memory)
