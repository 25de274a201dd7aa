"""What is left of a run that ended by a fault: heartbeats, stacks, one report for programs and at most twelve lines for people.

runs/NAME/heartbeats/rank_00003.json          a rank's step, phase, host and time, two seconds old at most; away when a run ends well
          faults/ATTEMPT.json                 the report: rank, host, step, phase, cause …
          faults/ATTEMPT/rank_00003.txt       stacks or traceback of a rank, and what its libraries printed
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from train.guard.watch.findings import Condition, Finding, ranks_in_words
from train.world.redact import redacted

LONGEST_CAUSE = 700  # characters on the screen; the report has all
PATIENCE_SECONDS = 5.0  # with a disk
_STACK = re.compile(r"(?:Current thread|Thread) 0x([0-9a-f]+)[^\n]*\n((?:  File [^\n]*\n)+)")
_FRAME = re.compile(r'  File "(.*)", line (\d+) in (.*)')
_WAITS = ("torch/distributed/", "deepspeed/comm/")


@dataclass(frozen=True)
class Watched:
    """What a rank tells its watcher at the start."""

    rank: int
    host: str
    hosts: list[str]
    pid: int
    main_thread: int
    attempt: str
    secret: str
    run_dir: str
    addresses: list[tuple[str, int]]
    block_fd: int
    listener_fd: int
    words_fd: int
    stack_signal: int
    hang_seconds: float
    timeout_seconds: float
    command: list[str]
    path: list[str]
    launcher: int = 0  # the process that started the rank

    @property
    def faults(self) -> Path:
        return Path(self.run_dir) / "faults"

    @property
    def notes(self) -> Path:
        """Stacks and traceback of this rank, and what its libraries printed."""
        return self.faults / self.attempt / f"rank_{self.rank:05d}.txt"

    @property
    def reserve(self) -> Path:
        """Room for a report, taken at the start: a full disk is a fault, too."""
        return self.notes.with_suffix(".reserve")

    @property
    def heartbeat(self) -> Path:
        return Path(self.run_dir) / "heartbeats" / f"rank_{self.rank:05d}.json"


def report(finding: Finding, watched: Watched, conditions: Mapping[int, Condition | None]) -> None:
    """Write the report and say it, once for all ranks."""
    if finding.kind == "interrupted" and len(finding.ranks) == len(watched.addresses):
        return  # a person has ended it, and knows
    if finding.kind == "refused":
        prefix = f"rank {finding.ranks[0]}: " if finding.ranks[0] else ""
        _say(f"{prefix}{finding.cause}")
        return
    content = contents(finding, watched, conditions)
    file = watched.faults / f"{watched.attempt}.json"
    trouble: list[str] = ["the disk does not answer"]
    told: list[bool] = []

    def write() -> None:
        try:
            _put(watched.reserve, redacted(json.dumps(content, indent=1)) + "\n")
            try:
                os.link(watched.reserve, file)
            except FileExistsError:  # of a run in two parts, one has written and said it all
                told.append(True)
            trouble[:] = []
        except OSError as error:
            trouble[:] = [error.strerror or str(error)]

    _in_time(write)
    where = f"not written ({trouble[0]})" if trouble else str(file)
    said = lines(content, where)
    said = [said[0], said[-1]] if told else said
    _say("\n".join(said))
    _in_time(lambda: _log(Path(watched.run_dir) / "log.txt", said))


def contents(finding: Finding, watched: Watched, conditions: Mapping[int, Condition | None]) -> dict[str, Any]:
    """The report. Of a rank that cannot be asked, what its last heartbeat said."""
    now = {r: c or _last_known(watched, r) for r, c in conditions.items()}
    first = now[finding.ranks[0]]
    details = first.details
    newest = max((c.details["checkpoint"] for c in now.values() if "checkpoint" in c.details), default=None, key=lambda p: (len(p), p))
    return {
        "rank": first.rank, "host": first.host, "step": first.step, "phase": first.phase, "cause": finding.cause, "kind": finding.kind,
        "ranks": list(finding.ranks), "hosts": sorted({watched.hosts[r] for r in finding.ranks}), "attempt": watched.attempt, "time": time.time(),
        "documents": details.get("documents", []), "document_count": details.get("document_count", 0), "checkpoint": newest,
        "command": watched.command, "notes": str(watched.notes.parent),
        "all_ranks": [
            {"rank": c.rank, "host": c.host, "state": c.state if conditions[r] else "unreachable", "step": c.step, "phase": c.phase, "place": c.place,
             "cause": c.cause, "seconds_in_silence": round(c.idle_seconds, 1)} for r, c in sorted(now.items())
        ],
    }  # fmt: skip


def lines(content: Mapping[str, Any], where: str) -> list[str]:
    """The report for people."""
    cause = " ".join(content["cause"].split())
    cause = cause if len(cause) <= LONGEST_CAUSE else cause[:LONGEST_CAUSE] + " …"
    hosts, documents = content["hosts"], content["documents"]
    on = ", ".join(hosts[:4]) + (f" and {len(hosts) - 4} more" if len(hosts) > 4 else "")
    others = [c for c in content["all_ranks"] if c["rank"] not in content["ranks"]]
    said = [f"fault: {ranks_in_words(content['ranks'])} on {on}, step {content['step']}, phase {content['phase']}: {cause}"]
    if documents:
        more = f" … ({content['document_count']} in all)" if content["document_count"] > 6 else ""
        said.append(f"  documents of its batch: {', '.join(documents[:6])}{more}")
    if others:
        at = sorted({(c["step"], c["phase"]) for c in others})
        places = "; ".join(f"step {s}, phase {p}" for s, p in at[:3])
        said.append(f"  others: {ranks_in_words([c['rank'] for c in others])} in {places}; all are ended")
    said.append(f"  newest good checkpoint: {content['checkpoint'] or 'none yet'}")
    said.append(f"  go on with: {' '.join(map(_quoted, content['command']))}")
    said.append(f"  report: {where}; stacks, tracebacks and what libraries printed: {content['notes']}")
    return [redacted(line) for line in said]


def _quoted(word: str) -> str:
    import shlex

    return shlex.quote(word)


def last_heartbeat(watched: Watched, rank: int) -> dict[str, Any]:
    """What a rank's watcher last wrote down in this attempt; empty where that cannot be read."""
    found: list[dict[str, Any]] = []

    def read() -> None:
        with contextlib.suppress(OSError, ValueError):
            found.append(json.loads(watched.heartbeat.with_name(f"rank_{rank:05d}.json").read_text()))

    _in_time(read)
    return found[0] if found and found[0].get("attempt") == watched.attempt else {}


def _last_known(watched: Watched, rank: int) -> Condition:
    beat = last_heartbeat(watched, rank)
    details = {k: beat[k] for k in ("documents", "document_count", "checkpoint") if k in beat}
    return Condition(rank, watched.hosts[rank], "unreachable", beat.get("step", 0), beat.get("phase", "unknown"), details=details)


def _in_time(action: Any) -> None:
    """A disk that hangs is not waited for."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def _log(path: Path, said: list[str]) -> None:
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    with contextlib.suppress(OSError), path.open("a", encoding="utf-8") as f:
        f.writelines(f"{now} {line}\n" for line in said)


# -- files


def write_heartbeat(path: Path, content: Mapping[str, Any]) -> None:
    """Overwrite in place: needs no room on a full disk, and other hosts see a file's new content sooner than its new name."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        _put(path, json.dumps(content) + "\n")


def take_reserve(watched: Watched) -> None:
    """Room for this rank's report; heartbeats of ranks that this attempt does not have go."""
    with contextlib.suppress(OSError):
        for left in watched.heartbeat.parent.glob("rank_*.json"):
            if int(left.stem.removeprefix("rank_")) >= len(watched.hosts):
                left.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        _put(watched.reserve, "\0" * (16384 + 500 * len(watched.hosts)))
        with watched.reserve.open("rb") as f:
            os.fsync(f.fileno())


def _put(path: Path, text: str) -> None:
    content = text.encode()
    file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(file, content, 0)
        os.ftruncate(file, len(content))
    finally:
        os.close(file)


def size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


def text_of(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""


def remove(path: Path, if_empty: bool = False) -> None:
    """The file, and the folders that are empty without it."""
    with contextlib.suppress(OSError):
        if if_empty and path.stat().st_size:
            return
        path.unlink()
    with contextlib.suppress(OSError):
        for folder in (path.parent, path.parent.parent):
            folder.rmdir()


def innermost(notes: Path, begin: int, main_thread: int, path: list[str]) -> tuple[str, bool] | None:
    """From a stack that faulthandler has written behind `begin`: where the main thread stands, and whether it waits for other ranks there.

    Args:
        path: folders whose files are called by their names below them, ours first.
    """
    try:
        with notes.open("rb") as f:
            f.seek(begin)
            text = f.read().decode(errors="replace")
    except OSError:
        return None
    stacks = {int(found[1], 16): _FRAME.findall(found[2]) for found in _STACK.finditer(text)}
    frames = stacks.get(main_thread)
    if not frames:
        return None
    short = [(_short(file, path), line, name) for file, line, name in frames]
    waits = any(part in file for file, _, _ in short[:4] for part in _WAITS)
    ours = next((f for f, (file, _, _) in zip(short, frames, strict=True) if file.startswith(path[0])), None)
    said = [f"{file}:{line} in {name}" for file, line, name in dict.fromkeys(f for f in (short[0], ours) if f)]
    return ", called from ".join(said), waits


def _short(file: str, path: list[str]) -> str:
    for folder in path:
        if file.startswith(folder + "/"):
            return file[len(folder) + 1 :]
    return file
