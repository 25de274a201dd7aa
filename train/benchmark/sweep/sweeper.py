"""A sweep in its folder: what was measured stays, so that one cut short goes on; table and picture after each measurement.

DIR/results/NAME.json      a measurement, with commit, machine, versions and date
DIR/logs/NAME.txt          what its processes printed
DIR/sweep.json, table.md, sweep.png
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from train.benchmark.circumstances import circumstances
from train.benchmark.ranks import BenchError
from train.benchmark.step.job import Job
from train.benchmark.sweep import page
from train.benchmark.sweep.attempts import Attempt, attempt
from train.world.voice import say

SETTLED = ("measured", "out of device memory", "refused")  # another try would end the same


@dataclass(frozen=True)
class Sweep:
    """Where a sweep lies, on how many ranks it measures, how long it waits for one, and the command it was asked by."""

    folder: Path
    ranks: int
    limit: float
    command: str

    def take(self, job: Job, words: Sequence[str]) -> Attempt:
        """One measurement, or what stands in the folder of the same one at the same commit and machine."""
        job, about = job.with_words(tuple(words)), circumstances()
        name = _name(words, job, self.ranks)
        path = self.folder / "results" / f"{name}.json"
        found = self._kept(path, job, about)
        if found:
            say(f"{', '.join(words) or 'as it is'}: {found.outcome}, from {path}")
            return found
        say(f"{', '.join(words) or 'as it is'}: measuring on {self.ranks} rank{'s' * (self.ranks > 1)}, at most {self.limit:g} s")
        found = attempt(job, self.ranks, self.limit, self.folder / "logs" / f"{name}.txt")
        said = f"{found.result['figure']}, {found.result['peak_memory_gib']:.2f} GiB" if found.result else found.said
        say(f"{', '.join(words) or 'as it is'}: {found.outcome}: {said}")
        report = {
            "job": job.to_dict(), "ranks": self.ranks, "words": list(words), **about,
            "date": datetime.now(UTC).isoformat(timespec="seconds"), **dataclasses.asdict(found),
        }  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".part")
        aside.write_text(json.dumps(report, indent=1) + "\n")
        aside.rename(path)
        return found

    def _kept(self, path: Path, job: Job, about: dict[str, Any]) -> Attempt | None:
        try:
            old = json.loads(path.read_text())
        except (OSError, ValueError):
            return None
        same = old.get("job") == json.loads(json.dumps(job.to_dict())) and old.get("ranks") == self.ranks
        here = all(old.get(key) == about[key] for key in ("commit", "machine", "versions"))
        if same and here and old["outcome"] in SETTLED:
            return Attempt(*(old[f.name] for f in dataclasses.fields(Attempt)))
        return None

    def write(self, title: str, rows: Sequence[dict[str, Any]], more: dict[str, Any]) -> str:
        """sweep.json, table.md and sweep.png as far as it has come; what is missing, in words."""
        self.folder.mkdir(parents=True, exist_ok=True)
        report = {
            "title": title,
            "command": self.command,
            **circumstances(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            **more,
        }
        (self.folder / "sweep.json").write_text(json.dumps(report | {"rows": list(rows)}, indent=1) + "\n")
        (self.folder / "table.md").write_text(page.markdown(report, rows))
        return page.picture(rows, title, self.folder / "sweep.png")


def over(sweep: Sweep, job: Job, grid: Sequence[tuple[str, ...]], title: str) -> dict[str, Any]:
    """Every combination in turn. Raises BenchError when none could be measured."""
    rows: list[dict[str, Any]] = []
    lacking, more = "", {}
    with ended_by_exception():
        for words in grid:
            found = sweep.take(job, words)
            rows.append(page.row(words, found.outcome, found.said, found.result))
            more = more or ({key: found.result[key] for key in ("model", "ranks", "device", "peak")} if found.result else {})
            lacking = sweep.write(title, rows, more)
    if not more:
        raise BenchError(f"none of {len(rows)} combinations could be measured; the first: {rows[0]['outcome']}: {rows[0].get('said', '')}")
    best = max((row for row in rows if row["outcome"] == "measured"), key=lambda row: row["useful tokens/s a rank"])
    chosen = ", ".join(f"{key}={best[key]}" for key in best if key in {w.partition("=")[0] for words in grid for w in words})
    said = f"fastest of {len(rows)}: {chosen}: {best['useful tokens/s a rank']:,.1f} useful tokens/s a rank"
    return more | {"figure": said, "folder": str(sweep.folder)} | ({"picture": lacking} if lacking else {}) | {"rows": rows}


@contextmanager
def ended_by_exception(numbers: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGHUP)) -> Iterator[None]:
    """Within: a signal ends what is being measured with this process, by an exception, and what stands in the folder stays."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    old = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _name(words: Sequence[str], job: Job, ranks: int) -> str:
    """Of a measurement's files: its words, as far as a file can be called so, and a mark of all it is."""
    mark = hashlib.sha256(json.dumps([job.to_dict(), ranks], sort_keys=True, default=str).encode()).hexdigest()[:8]
    plain = re.sub(
        r"[^A-Za-z0-9=._-]+", "-", "_".join(word.rpartition(".")[2] if "." in word.partition("=")[0] else word for word in words)
    )
    return f"{plain[:80]}_{mark}".lstrip("_.-")
