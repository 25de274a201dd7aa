"""How much of a run's time was useful, since its first start and across restarts: every second has one cause.

runs/NAME/goodput.json   seconds by cause and the causes in words, when the run first started, when it was last seen; rank 0 writes it about once a second

A step's time is useful when its update stands. Steps that are made again after a restart, and those that a rewind takes back, were
not: their time goes from `useful` to `repeated` or `rewound`. The time in which no process ran is `down`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

FILE = "goodput.json"
CAUSES = {
    "useful": "steps that count", "start": "starting", "data": "waiting for data", "evaluation": "evaluating", "saving": "saving",
    "skipped": "skipped steps", "rewound": "rewinds", "repeated": "steps made again after a restart", "down": "no process running",
}  # fmt: skip
WRITE_EVERY_SECONDS = 1.0


class Goodput:
    """The account of a run; times are seconds since the epoch."""

    def __init__(self, folder: Path, started: float):
        self._path = folder / FILE
        self.seconds = dict.fromkeys(CAUSES, 0.0)
        self.first_start = self._mark = started
        self._written = 0.0
        try:
            known = json.loads(self._path.read_text(encoding="utf-8"))
            self.seconds |= {cause: float(known["seconds"][cause]) for cause in CAUSES}
            self.first_start = float(known["first_start"])
            # a clock that was set back, or a start while the old process still wrote, is no time down
            self.seconds["down"] += max(0.0, started - float(known["last_seen"]))
        except (OSError, ValueError, KeyError, TypeError):
            pass  # the first start, or a file that another hand has changed

    def spent(self, cause: str, now: float) -> float:
        """All time since the last call had this cause; returns it."""
        seconds, self._mark = max(0.0, now - self._mark), now
        self.seconds[cause] += seconds
        return seconds

    def step(self, now: float, data_wait: float, skipped: bool) -> None:
        """A step is over; data_wait: seconds of it that the ranks waited for data."""
        seconds = self.spent("skipped" if skipped else "useful", now)
        waited = min(data_wait, seconds)
        self.seconds["skipped" if skipped else "useful"] -= waited
        self.seconds["data"] += waited

    def taken_back(self, lines: Iterable[str], cause: str) -> None:
        """Lines of metrics.jsonl whose steps will be made again: `repeated` after a restart, `rewound` after a rewind."""
        for line in map(json.loads, lines):
            if "seconds" in line:
                was = "skipped" if line.get("skipped") else "useful"
                seconds = min(self.seconds[was], line["seconds"] * (1 - line.get("data_wait_share", 0.0)))
                self.seconds[was] -= seconds
                self.seconds[cause] += seconds

    @property
    def wall(self) -> float:
        """Seconds since the first start."""
        return sum(self.seconds.values())

    @property
    def share(self) -> float:
        """Useful time over wall time."""
        return self.seconds["useful"] / self.wall if self.wall > 0 else 0.0

    def write(self, now: float, at_once: bool = False) -> None:
        """Keep it for the next start."""
        if not at_once and now - self._written < WRITE_EVERY_SECONDS:
            return
        self._written = now
        content = {"first_start": self.first_start, "last_seen": now, "goodput": self.share, "seconds": self.seconds, "causes": CAUSES}
        tmp = self._path.with_name(f".{FILE}.tmp")
        tmp.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        tmp.replace(self._path)

    def words(self) -> str:
        """For a last line: goodput 93% (saving 3%, starting 2%)."""
        lost = {cause: s for cause, s in self.seconds.items() if cause != "useful" and s >= 0.005 * self.wall > 0}
        told = ", ".join(f"{CAUSES[cause]} {s / self.wall:.0%}" for cause, s in sorted(lost.items(), key=lambda item: -item[1])[:4])
        return f"goodput {self.share:.0%}" + (f" ({told})" if told else "")


def process_start() -> float:
    """When this process began, in seconds since the epoch; now, where the system does not say."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return time.time()
