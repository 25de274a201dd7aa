"""The file of ratings: whole lines of JSON, on the disk before anybody is thanked."""

import fcntl
import json
import os
from pathlib import Path
from typing import Any

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
    data = json.dumps(value, ensure_ascii=True).encode() + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            data = data if file.read(1) == b"\n" else b"\n" + data  # half a line that a crash left stays by itself
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
