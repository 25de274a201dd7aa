"""While tasks run: how far they are, which worker was killed, and a file for all that they print."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from data_tools.work.ledger import finished, first_error, write_error
from data_tools.work.progress import Progress
from data_tools.work.task_step import TaskStep


class WorkerLost(Exception):
    """Raised in the main thread, which waits for a worker that is dead."""


@contextlib.contextmanager
def watched(step: TaskStep, label: str, sizes: Sequence[int], unit: str) -> Iterator[None]:
    """A thread that shows the progress and, on this machine, notices a killed worker: the pool itself would wait for ever."""
    folder, stop = Path(step.folder), threading.Event()

    def look(stderr: TextIO) -> None:
        dead_before: set[int] = set()
        with Progress(label, sum(sizes), unit=unit, stream=stderr) as progress:
            while True:
                ended = stop.wait(1)
                done = finished(folder)
                progress.show(sum(sizes[k] for k in done))
                if ended:
                    return
                dead = _dead(folder) - done if step.executor == "local" else set()
                if (lost := dead & dead_before) and first_error(folder) is None:
                    write_error(
                        folder, min(lost), f"task {min(lost)}: its worker was killed, as happens when memory runs out; try fewer --workers"
                    )
                    end_the_wait()
                    return
                dead_before = dead

    with _noise_to(folder / "console.log") as stderr, _wait_that_can_be_ended() as end_the_wait:
        thread = threading.Thread(target=look, args=(stderr,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@contextlib.contextmanager
def _wait_that_can_be_ended() -> Iterator[Callable[[], None]]:
    """What another thread calls to raise WorkerLost in this, the main one. Not by SIGINT, which a script's `command &` ignores."""

    def lost(number: int, frame: object) -> None:
        raise WorkerLost

    before = signal.signal(signal.SIGUSR2, lost)
    try:
        yield lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, before)


@contextlib.contextmanager
def _noise_to(path: Path) -> Iterator[TextIO]:
    """Everything this process and its workers print to stderr goes to a file; yields the true stderr for the progress."""
    from datatrove.utils.logging import setup_default_logger

    sys.stderr.flush()
    with open(path, "a") as log, os.fdopen(os.dup(2), "w") as stderr:
        os.dup2(log.fileno(), 2)
        try:
            with contextlib.redirect_stderr(log):
                setup_default_logger()
                yield stderr
        finally:
            os.dup2(stderr.fileno(), 2)
            setup_default_logger()


def _dead(folder: Path) -> set[int]:
    """Tasks whose process is gone."""
    dead = set()
    for marker in (folder / "running").iterdir():
        pid = marker.read_text()
        if pid and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
            dead.add(int(marker.name))
    return dead
