"""One run folder, one run: a second start of the same name is refused instead of writing into the first one's files."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from typing import IO

from train.world.ranks import World


class RunInUseError(ValueError):
    """Another process trains under this name, or its folder cannot be written."""


def take(run_dir: Path, world: World) -> IO[str] | None:
    """Hold `runs/.NAME.lock` until the returned file is closed or the process ends, however it ends. Rank 0 holds it; all ranks agree.

    Raises:
        RunInUseError: on every rank.
    """
    held, fault = None, ""
    if world.rank == 0:
        path = run_dir.with_name(f".{run_dir.name}.lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            held = path.open("a+", encoding="utf-8")
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held.truncate(0)
            held.write(f"process {os.getpid()} on {socket.gethostname()}")
            held.flush()
        except BlockingIOError:
            held.seek(0)
            fault = f"{run_dir}: {held.read() or 'another process'} trains under this name now; give this run another name=, or wait"
            held.close()
        except OSError as error:  # all ranks wait for this one's word
            fault = f"runs={run_dir.parent}: cannot be written ({error.strerror}); give another folder by runs="
    if fault := world.broadcast(fault):
        raise RunInUseError(fault)
    return held
