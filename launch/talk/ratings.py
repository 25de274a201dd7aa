"""The file of ratings: whole lines of JSON, on the disk before anybody is thanked."""

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from data_tools.files.atomic import write_fault
from launch.talk.model import ModelError


def require_writable(ratings: Path) -> None:
    """Before a model is loaded, not when somebody has rated. Raises ModelError."""
    if fault := write_fault(ratings):
        raise ModelError(f"--ratings {ratings}: cannot be written ({fault}); give another file")


def unpreferred(ratings: Path) -> Path:
    """Where conversations go whose answers were all found bad: nobody should train on them."""
    return ratings.with_name(f"{ratings.stem}.unpreferred{ratings.suffix}")


def append_durably(path: Path, value: dict[str, Any]) -> None:
    """One whole line, on the disk when this returns; several servers may share the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _write(file, value)


def _write(file: BinaryIO, value: dict[str, Any]) -> None:
    data = json.dumps(value, ensure_ascii=True).encode() + b"\n"
    end = file.seek(0, os.SEEK_END)
    if end:
        file.seek(end - 1)
        data = data if file.read(1) == b"\n" else b"\n" + data  # half a line that a crash left stays by itself
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


class Ratings:
    """Both files together: a conversation is rated once in them, however often and by whichever server it is asked for.

    The lock is on the first file; what others have written since is read under it.
    """

    def __init__(self, path: Path):
        self.path, self._ratings = path, {}
        self._read = {path: 0, unpreferred(path): 0}  # bytes of whole lines known

    def add(self, line: dict[str, Any], liked: bool) -> str | None:
        """Write a rating; or the one that stands already, and nothing is written. Raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a+b") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            for file in self._read:
                self._look(file)
            if line["id"] in self._ratings:
                return self._ratings[line["id"]]
            if liked:
                _write(held, line)
            else:
                append_durably(unpreferred(self.path), line)
        return None

    def _look(self, file: Path) -> None:
        if not file.is_file():
            return
        if file.stat().st_size < self._read[file]:  # begun anew by hand
            self._read[file] = 0
        with open(file, "rb") as read:
            read.seek(self._read[file])
            new = read.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read[file] += len(whole)
        for line in lines(whole):
            self._ratings.setdefault(line["id"], line["meta"]["rating"])


def lines(data: bytes) -> Iterator[dict[str, Any]]:
    """The ratings in a file's bytes; what is none is left out."""
    for text in data.splitlines():
        try:
            line = json.loads(text)
            assert isinstance(line["id"], str) and isinstance(line["meta"]["rating"], str)
        except (ValueError, LookupError, TypeError, AssertionError, RecursionError):
            continue
        yield line
