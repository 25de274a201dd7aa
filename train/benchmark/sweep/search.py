"""The largest micro-batch that fits, and the fastest: doubled until one fails, then halved in between; each in fresh processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from train.benchmark.sweep.attempts import Attempt

MOST = 1024


@dataclass(frozen=True)
class Found:
    """tried: micro-batch → what came of it; largest: that fits, 0 where none does; fastest: by useful tokens/s, 0 where none fits."""

    tried: dict[int, Attempt]
    largest: int
    fastest: int

    @property
    def words(self) -> str:
        """`16`; where nothing larger was tried, that it is not the limit."""
        beyond = "" if max(self.tried, default=0) > self.largest else ", the largest that is tried"
        return f"largest micro-batch that fits: {self.largest}{beyond}; fastest: {self.fastest}"


def find(try_one: Callable[[int], Attempt], available: Callable[[], float] | None = None, most: int = MOST) -> Found:
    """Search.

    Args:
        available: GiB a rank can still take on a machine whose memory is not a device's own; a size that would need more is not tried, for the
            system would end others' processes, too. None: a device refuses by itself.
    """
    tried: dict[int, Attempt] = {}

    def fits(size: int) -> bool:
        if size not in tried:
            wanted = predicted(tried, size)
            if available and wanted and wanted > available():
                tried[size] = Attempt("would not fit", f"{wanted:.1f} GiB a rank by those before, {available():.1f} are there", None, 0.0)
            else:
                tried[size] = try_one(size)
        return tried[size].outcome == "measured"

    size, largest = 1, 0
    while size <= most and fits(size):
        largest, size = size, 2 * size
    above = min(size, most + 1)
    while above - largest > max(1, largest // 8):  # an eighth is as close as it is worth
        middle = (largest + above) // 2
        if fits(middle):
            largest = middle
        else:
            above = middle
    speeds = {size: one.result["tokens_per_second_per_gpu"] for size, one in tried.items() if one.result}
    return Found(dict(sorted(tried.items())), largest, max(speeds, key=speeds.get) if speeds else 0)


def predicted(tried: dict[int, Attempt], size: int) -> float | None:
    """GiB a rank of a size, from the two largest that were measured below it: memory grows with the micro-batch in a line."""
    known = [(n, one.result["peak_memory_gib"]) for n, one in sorted(tried.items()) if one.result and n < size]
    if len(known) < 2:
        return None
    (a, low), (b, high) = known[-2:]
    return high + max(0.0, high - low) * (size - b) / (b - a)
