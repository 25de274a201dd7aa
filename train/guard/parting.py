"""How a process ends with the code that it means to end with, soon, and with all that it has started."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Callable

SECONDS = 10.0  # for last words into a pipe that nobody empties, for libraries that wait for others that are gone


def leave(code: int) -> None:
    """End a process that has done its work: what is registered for its end is run, but no library's teardown, hanging or crashing, changes the code."""
    _bounded(code, atexit._run_exitfuncs)


def leave_now(code: int, last_words: Callable[[], None]) -> None:
    """End a process from a thread, whatever its main thread is in; what it has started ends, too."""

    def end() -> None:
        last_words()
        _end_children()

    _bounded(code, end)


def _bounded(code: int, action: Callable[[], None]) -> None:
    timer = threading.Timer(SECONDS, os._exit, (code,))
    timer.daemon = True
    timer.start()
    try:
        action()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    finally:
        os._exit(code)


def _end_children() -> None:
    """Compilers at work, above all: ninja takes away what is half built when it is asked to end."""
    import psutil

    children = [child for child in psutil.Process().children(recursive=True) if _is_of_our_session(child.pid)]
    for number in ("terminate", "kill"):
        for child in children:
            with contextlib.suppress(psutil.Error):
                getattr(child, number)()
        _, children = psutil.wait_procs(children, timeout=2)


def _is_of_our_session(pid: int) -> bool:
    """The process that watches this one is of another: it ends after it, by itself."""
    try:
        return os.getsid(pid) == os.getsid(0)
    except OSError:
        return False
