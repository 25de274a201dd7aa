"""The journal of asked papers: one fsynced line an answer, so a kill at any moment costs only the requests then in flight.

Line 1: the settings that shape a request (a run with other settings is refused). Then one line a finished paper, as the answers came.
"""

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from data_tools.files.atomic import sync


class QuestionsError(ValueError):
    """Papers, settings or an endpoint that cannot work; says where, what was found, and what to do."""


class Journal:
    """`finished` maps a paper's id to its line; `add` returns when the line is on the disk."""

    def __init__(self, path: Path, settings: dict[str, Any], *, read_only: bool = False):
        self.path = path
        self.finished: dict[str, dict[str, Any]] = {}
        self._file = None
        if read_only and not path.exists():
            return
        if not read_only:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "a+b")
            _lock(self._file, path)
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]  # a kill can leave half a line at the end: it was never finished
        lines = [self._parse(number, line) for number, line in enumerate(whole.splitlines(), start=1)]
        if self._file and len(whole) < len(data):
            self._file.truncate(len(whole))
        if lines:
            self._check(lines[0], settings)
            self.finished = {line["paper"]: line for line in lines[1:]}
        elif self._file:
            self._append({"settings": settings})
            sync(path.parent)

    def add(self, line: dict[str, Any]) -> None:
        self._append(line)
        self.finished[line["paper"]] = line

    def close(self) -> None:
        if self._file:
            self._file.close()

    def _append(self, line: dict[str, Any]) -> None:
        assert self._file, "a read-only journal is not written"
        self._file.write(json.dumps(line, ensure_ascii=True, separators=(",", ":")).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            value = json.loads(line)
        except ValueError as error:
            raise QuestionsError(f"{self.path}: line {number} is not JSON ({error}); delete that line to ask its paper again") from None
        if not isinstance(value, dict) or ("settings" if number == 1 else "paper") not in value:
            raise QuestionsError(f"{self.path}: line {number} is not of this journal; give an --out folder of its own")
        return value

    def _check(self, first: dict[str, Any], settings: dict[str, Any]) -> None:
        old = first["settings"]
        changed = [key for key in sorted({*old, *settings}) if old.get(key) != settings.get(key)]
        if changed:
            what = "; ".join(f"{key} was {str(old.get(key))[:60]!r}, is {str(settings.get(key))[:60]!r}" for key in changed)
            raise QuestionsError(f"{self.path}: begun with other settings: {what}; give them again, or another --out")


def _lock(file, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel drops it with the process, also on kill -9
    except BlockingIOError:
        raise QuestionsError(f"{path}: another run is writing it; wait for that one, or give another --out") from None
