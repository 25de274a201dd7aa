"""What the folder of some tasks holds: which tasks they are, which are finished, and what a failed one said.

tasks.json           all tasks, a JSON list
running/00000        the process that began the task
results/00000.json   what it returned
completions/00000    datatrove's marker, made after the result: the task is finished
errors/00000.json    what it said when it failed; gone with the next start
"""

import errno
import functools
import json
import os
import shutil
from pathlib import Path
from typing import Any

from data_tools.files.atomic import write_atomically
from data_tools.work.errors import is_users_fault


class WorkError(ValueError):
    """Work that could not be done; says which task, why, and what to do."""


def open_ledger(folder: Path, tasks: list[Any]) -> None:
    """Begin, or go on with what is finished. Raises WorkError when the folder holds the work on other tasks."""
    for name in ("errors", "running"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("errors", "running", "results", "completions"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    plan = json.dumps(tasks).encode()
    if not (folder / "tasks.json").exists():
        write_atomically(folder / "tasks.json", plan)
    elif (folder / "tasks.json").read_bytes() != plan:
        raise WorkError(f"{folder}: holds the work on other tasks; delete this folder to start anew")
    for marker in (folder / "completions").iterdir():
        if not result_path(folder, int(marker.name)).exists():
            marker.unlink()


def read_task(folder: Path, rank: int) -> Any:
    path = folder / "tasks.json"
    return _read_tasks(path, path.stat().st_mtime_ns)[rank]


@functools.lru_cache(maxsize=4)
def _read_tasks(path: Path, _mtime_ns: int) -> list[Any]:
    return json.loads(path.read_bytes())


def result_path(folder: Path, rank: int) -> Path:
    return folder / "results" / f"{rank:05d}.json"


def finished(folder: Path) -> set[int]:
    return {int(marker) for marker in os.listdir(folder / "completions")}


def write_error(folder: Path, rank: int, message: str) -> None:
    write_atomically(folder / "errors" / f"{rank:05d}.json", json.dumps(message).encode())


def first_error(folder: Path) -> str | None:
    """What the first failing task said, if one failed."""
    paths = sorted((folder / "errors").glob("*.json"))
    return json.loads(paths[0].read_bytes()) if paths else None


def describe_error(error: BaseException, folder: Path, rank: int | None = None) -> str:
    """The message for the user; rank: of the task that failed, None when it was the work around the tasks."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        place = f" ({error.filename})" if error.filename else f" (below {folder})"
        return f"no space left on the disk{place}; make room and start the same command again: finished tasks are kept"
    if is_users_fault(error):
        return str(error)
    log = folder / ("console.log" if rank is None else f"logs/task_{rank:05d}.log")
    return f"{'the work' if rank is None else f'task {rank}'} failed with {type(error).__name__}: {error}; the whole story is in {log}"
