"""One measurement in fresh processes that may run out of memory, crash or hang: what came of it, whatever happened, and nothing left behind.

a job → its processes, marked and first in line for the system's out-of-memory killer → `Attempt`, from their result, or from their
exit code and last words.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from train.benchmark.ranks import prepared
from train.benchmark.step.job import Job
from train.guard.watch import heartbeat

MARK = "ASTROLLAMA_BENCHMARK"  # in the environment of all processes of an attempt, by which they are found again
DEVICE_MEMORY = re.compile(rf"OutOfMemoryError|{heartbeat.DEVICE_MEMORY.pattern}", re.IGNORECASE)
HOST_MEMORY = re.compile(r"\bMemoryError|[Cc]annot allocate memory|can't allocate memory|std::bad_alloc|not enough memory")
KILLED = re.compile(r"return code = -9\b|exitcode\s*: -9\b|Signal 9\b")
Outcome = Literal["measured", "out of device memory", "out of host memory", "crashed", "hung", "refused", "would not fit", "skipped"]


@dataclass(frozen=True)
class Attempt:
    """What came of a job: its result where it was measured, else what it said last."""

    outcome: Outcome
    said: str
    result: dict[str, Any] | None
    seconds: float


def attempt(job: Job, ranks: int, limit: float, log: Path) -> Attempt:
    """Measure in processes of their own; all they print goes to `log`.

    Args:
        limit: seconds after which they are ended as hung.
    """
    with tempfile.TemporaryDirectory() as folder:
        command, result, env = prepared("train.benchmark.step.measure", job.to_dict(), ranks, Path(folder))
        return watched(command, env, result, limit, log)


def watched(command: list[str], env: dict[str, str], result: Path, limit: float, log: Path, cwd: Path | None = None) -> Attempt:
    """The command with all it starts, until it has left its result, failed, or `limit` seconds are over."""
    begun, mark = time.monotonic(), uuid.uuid4().hex
    log.parent.mkdir(parents=True, exist_ok=True)
    result.unlink(missing_ok=True)  # of a call before
    with open(log, "wb") as out:
        process = subprocess.Popen(
            command,
            env=env | {MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            preexec_fn=_first_to_go,
        )
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process, mark)
    found = _read(result)
    seconds = time.monotonic() - begun
    if found and "error" not in found:
        return Attempt("measured", "", found, seconds)
    if found:
        return Attempt("refused", found["error"], None, seconds)
    outcome, said = judged(code, log.read_text(errors="replace"))
    return Attempt(outcome, f"no end within {limit:g} s" if outcome == "hung" else said, None, seconds)


def judged(code: int | None, text: str) -> tuple[Outcome, str]:
    """How processes ended that left no result: by exit code (None: they did not end) and words; the line that says it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]

    def line_with(pattern: re.Pattern) -> str:
        return next((line for line in lines if pattern.search(line)), lines[-1] if lines else "")

    if code is None:
        return "hung", ""
    if DEVICE_MEMORY.search(text):
        return "out of device memory", _short(line_with(DEVICE_MEMORY))
    if HOST_MEMORY.search(text):
        return "out of host memory", _short(line_with(HOST_MEMORY))
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL, 247) or KILLED.search(text):
        return "out of host memory", "killed, as the system does when memory runs out"
    errors = [line for line in lines if re.match(r"(\[rank\d+\]:\s*)?[\w.]*(Error|Exception)\b", line)]
    return "crashed", _short(errors[-1] if errors else lines[-1] if lines else "") or f"exit code {code}"


def _short(line: str) -> str:
    return line if len(line) <= 160 else f"{line[:157]}..."


def _first_to_go() -> None:
    """When memory runs out the system ends these, not whoever started them, nor others."""
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError:  # not on Linux, or not allowed: then it chooses
        pass


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):  # never written, or cut
        return None


def _end(process: subprocess.Popen, mark: str) -> None:
    """All processes of an attempt, those whose parents have gone, too."""
    wanted = f"{MARK}={mark}".encode()
    while left := [pid for pid in _processes() if wanted in _environment(pid)]:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.poll()
        time.sleep(0.05)
    process.wait()


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # gone, or another's
        return []
