"""Commands that tests start: each in a group of its own, never waited for without end, ended with all it started.

Signals reach them as they reach a command typed at a terminal, whatever is ignored around the tests (tests/conftest.py).
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.made.where import ROOT

QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}  # for a command whose words nobody reads
SECONDS = 100  # longest wait: it tells what was waited for, before the test's own end (120 s, pyproject.toml) can only say where


allowed = True  # whether the test at hand may start anything


def check_allowed() -> None:
    assert allowed, "this test starts a command or ranks: mark it `slow`, so that `make check` leaves it out"


def start(command: list, **options: Any) -> subprocess.Popen:
    """The command, running in the checkout; stdout and stderr are pipes of text unless told otherwise."""
    check_allowed()
    given = {"cwd": ROOT, "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([str(word) for word in command], start_new_session=True, **given | options)


def run(command: list, *, seconds: float = SECONDS, check: bool = False, **options: Any) -> subprocess.CompletedProcess:
    """What the command wrote and its exit code, when it has ended.

    Raises:
        AssertionError: it did not end in time, or, with `check`, it failed; with what it wrote.
    """
    process = start(command, **options)
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        end(process)
        raise AssertionError(f"not done within {seconds:g} s: {process.args}\n{process.communicate(timeout=10)}") from None
    except BaseException:  # the test itself was ended
        end(process)
        raise
    assert process.returncode == 0 or not check, f"exit code {process.returncode}: {process.args}\n{out}\n{err}"
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def end(process: subprocess.Popen, number: int = signal.SIGKILL) -> None:
    """A signal to the command and all it started, as a scheduler ends a job; then wait for the command."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    process.wait(SECONDS)


def end_children_since(began: float) -> None:
    """SIGKILL to this process's children, and theirs, that were started after `began` on CLOCK_BOOTTIME."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(OSError, psutil.NoSuchProcess):
            started = int(Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
            if started >= began - 0.01:  # psutil's own answer may be wrong by a second
                child.kill()


def wait_until(what: Callable[[], object], process: subprocess.Popen | None = None, seconds: float = SECONDS) -> None:
    """Return when `what()` is true; fail when the process ends before, or time is over."""
    deadline = time.monotonic() + seconds
    while True:
        asked = time.monotonic()
        if what():
            return
        if process is not None and process.poll() is not None:
            if what():
                return
            raise AssertionError(f"ended with {process.returncode} before: {process.communicate(timeout=SECONDS)}")
        assert time.monotonic() < deadline, f"not so after {seconds:g} s"
        time.sleep(min(1.0, max(0.01, 4 * (time.monotonic() - asked))))  # what is dear to ask must not keep busy what is waited for


def free_port() -> int:
    """A port nobody listens on, from below those the system gives to outgoing connections: none takes it meanwhile."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port
