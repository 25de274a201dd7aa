"""One task in whatever process an executor gives it: look it up, run it, keep its result or what it said."""

import contextlib
import functools
import importlib
import json
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.files.atomic import write_atomically
from data_tools.work.ledger import describe_error, read_task, result_path, write_error


@dataclass(frozen=True)
class TaskStep:
    """The one step of each datatrove pipeline: the pipeline's rank is the task's number."""

    function: str  # "module:name"
    folder: str
    search_path: list[str]  # where the module lies, for processes that SLURM or Ray start
    executor: str
    front: int  # the command's process when it runs on the same machine, else 0

    def __call__(self, _: Any, rank: int, world_size: int) -> None:
        if self.front and os.getpid() != self.front:
            _end_with(self.front)
        sys.path += [path for path in self.search_path if path not in sys.path]
        folder = Path(self.folder)
        (folder / "running" / f"{rank:05d}").write_text(str(os.getpid()))
        try:
            task = read_task(folder, rank)
            module, name = self.function.split(":")
            result = getattr(importlib.import_module(module), name)(task)
            write_atomically(result_path(folder, rank), json.dumps(result).encode())
        except Exception as error:
            with contextlib.suppress(OSError):  # the disk may be what failed; datatrove still reports the error itself
                write_error(folder, rank, describe_error(error, folder, rank))
            raise


@functools.cache
def _end_with(front: int) -> None:
    """A worker ends at once when the command is gone, as after kill -9; a pool's worker by itself would finish its task first."""

    def watch() -> None:
        while True:
            time.sleep(0.3)
            try:
                os.kill(front, 0)
            except ProcessLookupError:
                os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
