"""Who asks for more than people do is told to wait: a bucket of requests an address, which fills again with time."""

from __future__ import annotations

from math import ceil

BURST, PER_SECOND = 600.0, 10.0  # fifty visitors behind one address may begin, ask and rate within the same second
COSTS = {"ask": 5.0, "restore": 2.0}  # of a call, in requests; others are one
MOST_ADDRESSES = 10_000


class Floods:
    """What each address has left."""

    def __init__(self, burst: float = BURST, per_second: float = PER_SECOND):
        self._burst, self._per_second = burst, per_second
        self._left: dict[str, tuple[float, float]] = {}  # address → requests left, and when that was; the longest silent first

    def refuse(self, address: str, cost: float, now: float) -> int:
        """Seconds to wait; 0: the request is taken. now: seconds of a clock that does not go back."""
        left, since = self._left.pop(address, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._per_second)
        taken = left >= cost
        self._left[address] = (left - cost * taken, now)
        while len(self._left) > MOST_ADDRESSES:
            del self._left[next(iter(self._left))]
        return 0 if taken else max(1, ceil((cost - left) / self._per_second))
