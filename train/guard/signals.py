"""Signals that ask a run to save and stop, agreed on by all ranks once a step.

A signal only sets a flag; the flag travels in the step's one status all-reduce, so every rank stops at the same step.
"""

from __future__ import annotations

import ctypes
import signal
from types import FrameType

from train.world.ranks import World

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
PREEMPTED = 75  # EX_TEMPFAIL: saved and stopped before the end; run the same command again


class Guard:
    """A context in which SIGTERM, SIGINT and SIGUSR1 ask for a stop after the step at hand."""

    def __init__(self, world: World):
        self.world = world
        self.signal: str | None = None

    def __enter__(self) -> Guard:
        self._before = {s: signal.signal(s, self._on_signal) for s in SIGNALS}
        _die_with_parent()
        return self

    def __exit__(self, *_: object) -> None:
        for s, handler in self._before.items():
            signal.signal(s, handler)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self.signal == "SIGINT" and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl-C does not wait
        self.signal = signal.Signals(number).name
        self.world.log0(f"{self.signal}: saving and stopping after this step")


def _die_with_parent() -> None:
    """Ask Linux to end this rank when the launcher dies, however it dies: it orphans its ranks on SIGKILL."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        pass  # not Linux: the launcher's own care must do
