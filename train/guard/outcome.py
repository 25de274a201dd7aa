"""How a run ended, in `runs/NAME/outcome.json`: a launcher may lose a rank's exit code, this file does not.

    {"ended": "running | finished | stopped | preempted | failed", "exit_code": null | 0 | 10 | 75 | 1 | 130, "step": 500, "checkpoint": "runs/NAME/checkpoints/step_000500",
     "cause": "SIGTERM", "attempt": 3, "started": 1764176400.1, "time": "2026-11-26T17:05:09+00:00", "save_seconds": 4.2}

Rank 0 writes it durably, as "running" once the run's folder is its own and for good when the run ends; a process that dies
without a word leaves "running" behind. Nothing here imports torch: scripts around a launcher read it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from train.world.places import write_durably
from train.world.redact import redacted

if TYPE_CHECKING:
    from train.world.ranks import World

FILE = "outcome.json"
FINISHED = 0
PREEMPTED = 75  # EX_TEMPFAIL: stopped before the end, what was complete stands; run the same command again
RULED = 10  # a rule of the recipe ended it, saved: the same command would end at once
FAILED = 1
AT_ONCE = 130  # a second Ctrl-C: ended without saving
CLOCKS_SECONDS = 5.0  # by which the clocks of two nodes may differ
Ended = Literal["running", "finished", "stopped", "preempted", "failed"]


@dataclass(frozen=True)
class Outcome:
    """One attempt at a run. started: seconds of the epoch; checkpoint: the newest complete one; save_seconds: what a save took."""

    ended: Ended
    exit_code: int | None
    step: int
    checkpoint: str | None
    cause: str
    attempt: int
    started: float
    time: str
    save_seconds: float | None = None


def read(run_dir: Path) -> Outcome | None:
    """What the file says; None where there is none, or nothing that can be read."""
    try:
        content = json.loads((run_dir / FILE).read_text(encoding="utf-8"))
        known = {field.name for field in dataclasses.fields(Outcome)}
        return Outcome(**{key: value for key, value in content.items() if key in known})
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def true_code(found: Outcome | None, launcher_code: int, since: float = 0.0) -> int:
    """The exit code to give for a run that a launcher has ended with `launcher_code` (negative: by a signal).

    Args:
        since: when the launcher was started, in seconds of the epoch: an older attempt's outcome says nothing about this one.
    """
    of_this = found if found and found.started >= since - CLOCKS_SECONDS else None
    if of_this and of_this.exit_code is not None:
        return of_this.exit_code
    if launcher_code == FINISHED:  # refused before it began, or still "running", and gone: it died without a word
        return FAILED
    return launcher_code if launcher_code >= 0 else 128 - launcher_code


class Record:
    """Rank 0's hand on the file; on other ranks it writes nothing. The first end that is told stands."""

    def __init__(self, run_dir: Path, world: World):
        self.step, self.checkpoint = 0, None
        self._file = run_dir / FILE if world.rank == 0 else None
        self._told = threading.Lock()
        before, self._new = read(run_dir), not run_dir.exists()
        self._attempt = before.attempt + 1 if before else 1
        self._started = time.time()
        self.save_seconds = before.save_seconds if before else None  # what the last save took, of this attempt or the one before
        self._write("running", None, "")

    def end(self, ended: Ended, exit_code: int, cause: str) -> None:
        """How the run ended; later words about it are not heard."""
        if self._told.acquire(blocking=False):
            self._write(ended, exit_code, cause)
            if self._new and ended == "failed":
                self._forget()

    def _write(self, ended: Ended, exit_code: int | None, cause: str) -> None:
        if self._file is None:
            return
        at = datetime.now().astimezone().isoformat(timespec="seconds")
        checkpoint = str(self.checkpoint) if self.checkpoint else None
        outcome = Outcome(ended, exit_code, self.step, checkpoint, redacted(cause), self._attempt, self._started, at, self.save_seconds)
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_durably(self._file, json.dumps(dataclasses.asdict(outcome)) + "\n")
        except OSError as error:  # a full disk must not hide what happened, nor stop what goes well
            if self._overwritten(json.dumps(dataclasses.asdict(outcome)) + "\n"):
                return
            print(f"{self._file}: cannot be written ({error.strerror}); it does not say how this run goes", file=sys.stderr, flush=True)

    def _overwritten(self, text: str) -> bool:
        """Whether it could be written over what stands there, which needs no room."""
        try:
            file = os.open(self._file, os.O_WRONLY)
        except OSError:
            return False
        try:
            os.pwrite(file, text.encode(), 0)
            os.ftruncate(file, len(text.encode()))
        except OSError:
            return False
        finally:
            os.close(file)
        return True

    def _forget(self) -> None:
        """Nothing stays of a run that was refused before it began: its folder holds this file alone."""
        if self._file and [p.name for p in self._file.parent.iterdir()] == [FILE]:
            self._file.unlink()
            self._file.parent.rmdir()


@contextlib.contextmanager
def recorded(run_dir: Path, world: World) -> Iterator[Record]:
    """The record of a run that begins; what is raised within becomes its "failed"."""
    record = Record(run_dir, world)
    try:
        yield record
    except BaseException as error:
        record.end("failed", AT_ONCE if isinstance(error, KeyboardInterrupt) else FAILED, _first_line(error))
        raise
    record.end("failed", FAILED, "ended without saying how")


def _first_line(error: BaseException) -> str:
    said = str(error).strip().splitlines()
    return said[0][:500] if said else type(error).__name__
