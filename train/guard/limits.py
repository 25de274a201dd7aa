"""How much time a run has: until its time limit, and from a SIGTERM until the SIGKILL that follows it. Plain numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

MARGIN = 1.5  # of a save's measured time: disks that others use, too
SPARE_SECONDS = 5.0  # to say so and to end
UNMEASURED_BYTES_PER_SECOND = 200e6  # a slow shared disk


@dataclass(frozen=True)
class Limits:
    """ends: what has a time, and when on the monotonic clock."""

    grace_seconds: float = 30.0
    ends: tuple[tuple[str, float], ...] = ()

    @property
    def end(self) -> float:
        return min((at for _, at in self.ends), default=math.inf)

    @property
    def first(self) -> str:
        """Which of them ends first."""
        return min(self.ends, key=lambda e: e[1])[0] if self.ends else ""


def of(grace_seconds: float, minutes: float | None, job_ends_at: float | None, now: float, clock: float, begun: float) -> Limits:
    """The limits of a process.

    Args:
        job_ends_at: when the scheduler ends the job, in seconds of the epoch; one that has passed is another job's.
        now, clock: this moment in seconds of the epoch and on the monotonic clock. begun: when the process began, on the latter.
    """
    ends = []
    if minutes is not None:
        ends.append((f"guard.minutes={minutes:g}", begun + 60 * minutes))
    if job_ends_at is not None and job_ends_at > now:
        ends.append(("the job's time limit", clock + job_ends_at - now))
    return Limits(grace_seconds, tuple(ends))


def save_seconds(measured: float | None, nbytes: float) -> float:
    """What a save is taken to need, in seconds: what one took, else what a slow disk needs for its bytes."""
    return measured if measured is not None else nbytes / UNMEASURED_BYTES_PER_SECOND


def needed_seconds(save: float, step: float) -> float:
    """What must be left for another step to be begun: that step may take twice the last one's time, then a save."""
    return MARGIN * save + 2 * step + SPARE_SECONDS


def fits(measured: float | None, left: float) -> bool:
    """Whether a save is begun. One of unknown length is: a folder half written counts for nothing."""
    return measured is None or MARGIN * measured <= left
