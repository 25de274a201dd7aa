"""Signals that ask a run to save and stop, agreed on by all ranks once a step.

A signal only sets a flag; the flag travels in the step's one status all-reduce, so every rank stops at the same step.
"""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path
from types import FrameType

from train.world.ranks import World

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


class Guard:
    """A context in which a signal, or the end of deepspeed's runner, asks for a stop after the step at hand."""

    def __init__(self, world: World):
        self.world = world
        self.signal: str | None = None
        self._runner = _runner()

    def __enter__(self) -> Guard:
        # under nohup the terminal's end is to be ignored, and is
        heeded = [s for s in SIGNALS if s != signal.SIGHUP or signal.getsignal(s) != signal.SIG_IGN]
        self._before = {s: signal.signal(s, self._on_signal) for s in heeded}
        _die_with_parent()
        return self

    def __exit__(self, *_: object) -> None:
        for s, handler in self._before.items():
            signal.signal(s, handler)

    def stop_wanted(self) -> bool:
        """Asked once a step."""
        if self.signal is None and self._runner and _parent_of(os.getppid()) != self._runner:
            self._ask("the end of the launcher")
        return self.signal is not None

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self.signal == "SIGINT" and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl-C does not wait
        self._ask(signal.Signals(number).name)

    def _ask(self, by: str) -> None:
        self.signal = by
        self.world.log0(f"{by}: saving and stopping after this step")


def _runner() -> int | None:
    """The process of the `deepspeed` command, where this rank's launcher is its child: it dies without a word to the launcher."""
    try:
        parent = os.getppid()
        if b"deepspeed.launcher.launch" not in Path(f"/proc/{parent}/cmdline").read_bytes():
            return None
        runner = _parent_of(parent)
        return runner if runner and b"deepspeed" in Path(f"/proc/{runner}/cmdline").read_bytes() else None
    except OSError:
        return None  # not Linux: the launcher's own care must do


def _parent_of(pid: int) -> int | None:
    try:
        # "pid (name) state ppid …"; the name may hold blanks and brackets
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def _die_with_parent() -> None:
    """Ask Linux to end this rank when the launcher dies, however it dies: it orphans its ranks on SIGKILL."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        pass  # not Linux: the launcher's own care must do
