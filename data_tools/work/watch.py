"""While tasks run: how far they are, which worker was killed, and a file for all that they print."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from data_tools.work.ledger import finished, first_error, write_error
from data_tools.work.progress import Progress
from data_tools.work.task_step import TaskStep

PATIENCE = 15  # seconds without a process at work before the wait is ended


class WorkerLost(Exception):
    """Raised in the main thread, which waits for a worker that is dead."""


@contextlib.contextmanager
def watched(step: TaskStep, label: str, sizes: Sequence[int], unit: str) -> Iterator[None]:
    """A thread that shows the progress and, on this machine, notices a killed worker: the pool itself would wait for ever."""
    folder, stop = Path(step.folder), threading.Event()

    def look(stderr: TextIO) -> None:
        quiet = _Quiet(folder, len(sizes))
        with Progress(label, sum(sizes), unit=unit, stream=stderr) as progress:
            while True:
                ended = stop.wait(1)
                done = finished(folder)
                progress.show(sum(sizes[k] for k in done))
                if ended:
                    return
                if step.executor == "local" and quiet.is_over(done):
                    break
        while not stop.wait(2):  # the pool's own end may wait for a dead worker, too
            end_the_wait()

    with _noise_to(folder / "console.log") as stderr, _wait_that_can_be_ended() as end_the_wait:
        thread = threading.Thread(target=look, args=(stderr,), daemon=True)
        thread.start()
        try:
            yield
        except WorkerLost:
            pass  # a second one, while the first was on its way
        finally:
            stop.set()
            thread.join()


class _Quiet:
    """Whether the pool waits for what will never come, because a worker was killed: in a task, or idle with the pool's lock in its hands."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count
        self.dead_before: set[int] = set()
        self.since = time.monotonic()

    def is_over(self, done: set[int]) -> bool:
        """True when there is nothing to wait for; then a task that is not finished has its error written."""
        begun, dead = _begun_and_dead(self.folder)
        lost, self.dead_before = (dead - done) & self.dead_before, dead - done
        if begun - dead - done or not dead and len(done) < self.count:
            self.since = time.monotonic()  # somebody is at work, or nobody has begun
        if not lost and time.monotonic() - self.since < PATIENCE:
            return False
        undone = lost or set(range(self.count)) - done
        if undone and first_error(self.folder) is None:
            message = f"task {min(undone)}: its worker was killed, as happens when memory runs out; try fewer --workers"
            write_error(self.folder, min(undone), message)
        return True


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


def _begun_and_dead(folder: Path) -> tuple[set[int], set[int]]:
    """Tasks that some process began, and those of them whose process is gone."""
    begun, dead = set(), set()
    for marker in (folder / "running").iterdir():
        if pid := marker.read_text():
            begun.add(int(marker.name))
            if not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
                dead.add(int(marker.name))
    return begun, dead
