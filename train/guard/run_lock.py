"""One run folder, one run: a second start of the same name is refused instead of writing into the first one's files."""

from __future__ import annotations

import fcntl
from pathlib import Path

from train.world.file_lock import FileLock, hold
from train.world.ranks import World


class RunInUseError(ValueError):
    """Another process trains under this name, or its folder cannot be written."""


def take(run_dir: Path, world: World) -> FileLock | None:
    """Hold `runs/.NAME.lock` until what is returned is closed, or the process ends. Rank 0 holds it; all ranks agree.

    Raises:
        RunInUseError: on every rank.
    """
    held, fault = None, ""
    if world.rank == 0:
        try:
            held = hold(_file(run_dir))
        except BlockingIOError as error:
            fault = f"{run_dir}: {error.strerror} trains under this name now; give this run another name=, or wait"
        except OSError as error:  # all ranks wait for this one's word
            fault = f"runs={run_dir.parent}: cannot be written ({error.strerror}); give another folder by runs="
    if fault := world.broadcast(fault):
        raise RunInUseError(fault)
    return held


def is_held(run_dir: Path) -> bool:
    """Whether a run of this name trains now; asked without taking or making anything."""
    try:
        with _file(run_dir).open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass  # no file, no run
    return False


def _file(run_dir: Path) -> Path:
    return run_dir.with_name(f".{run_dir.name}.lock")
