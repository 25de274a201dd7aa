"""How far long work is: a bar on a terminal, else a line now and then. Always on stderr."""

import sys
import time
from typing import Any, TextIO

SECONDS_BETWEEN_LINES = 30


class Progress:
    """`with Progress("encode", total_bytes, unit="B") as progress: progress.show(done)`."""

    def __init__(self, label: str, total: int, *, unit: str = "", stream: TextIO | None = None) -> None:
        self.label, self.total, self.unit, self.stream = label, total, unit, stream or sys.stderr
        self._started = self._last_line = time.monotonic()
        self._at_start: int | None = None  # finished by an earlier run: no measure of this one's speed
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        if self.stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=self.total, desc=self.label, unit=self.unit or "it", unit_scale=True, file=self.stream, leave=False)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, done: int) -> None:
        if self._at_start is None:
            self._at_start = done
            if self._bar is not None:
                self._bar.initial = done
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            print(self.line(done, self._last_line - self._started), file=self.stream, flush=True)

    def line(self, done: int, seconds: float) -> str:
        fresh = done - (self._at_start or 0)
        left = f"about {_clock(seconds * (self.total - done) / fresh)} left" if fresh > 0 else "time left not known yet"
        return f"{self.label}: {_amount(done, self.unit)} of {_amount(self.total, self.unit)} after {_clock(seconds)}, {left}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"


def _amount(number: int, unit: str) -> str:
    return f"{number / 1e6:,.1f} MB" if unit == "B" else f"{number:,} {unit}".rstrip()
