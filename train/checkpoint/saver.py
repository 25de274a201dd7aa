"""Saves of a run: in the foreground, or behind the steps that follow.

In the background a second thread copies this rank's slices to host memory while the next forward and backward run; only
the update, which would change them, waits for the copy. Then the thread writes and publishes over a process group of its
own, so that nothing it says can meet what the steps say. At most one save is in flight; its error is raised, on every
rank alike, at the next step.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path

import torch

from train.checkpoint import folder as checkpoint
from train.checkpoint import trainer_state
from train.checkpoint.folder import Extras
from train.checkpoint.layout import MASTER
from train.checkpoint.retention import Keep, retain
from train.checkpoint.trainer_state import Slices
from train.engine.zero3 import Engine
from train.world.ranks import World

# how long a rank waits in the background for one whose disk is slower
PATIENCE_SECONDS = 3600
LAST_CHANCE_SECONDS = 20


class HostCopy:
    """This rank's slices in host memory, 12 bytes an element of its share; the memory is kept from save to save."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], torch.Tensor] = {}

    def take(self, of: Slices, with_trainer: bool) -> Slices:
        """Copy. Weights are not copied beside their masters: cast to the weights' dtype, a master is its weight, bit by bit."""
        for name in of.shapes:
            for key in of.keys if with_trainer else ():
                self._copy((key, name), of.state(key, name))
            if not with_trainer:
                self._copy(("weight", name), of.weight(name))
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()

        def weight(name: str) -> torch.Tensor:
            return self._held[MASTER, name].to(of.dtype) if with_trainer else self._held["weight", name]

        return dataclasses.replace(of, weight=weight, state=lambda key, name: self._held[key, name])

    def _copy(self, place: tuple[str, str], value: torch.Tensor) -> None:
        if place not in self._held:
            self._held[place] = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
        self._held[place].copy_(value, non_blocking=True)


class Saver:
    """Saves checkpoints of one run and deletes those its rules let go. Every rank makes every call."""

    def __init__(self, engine: Engine, root: Path, keep: Keep, world: World, background: bool):
        self.engine, self.root, self.keep, self.world, self.background = engine, root, keep, world, background
        self.newest: Path | None = None
        self.stalled_seconds = 0.0  # that the last save kept the steps waiting
        self.last_seconds = 0.0  # that it took in all
        self._side = world.side(PATIENCE_SECONDS) if background else world
        self._copy = HostCopy()
        self._copied = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, extras: Extras, newest_good: int | None = None) -> None:
        """Save; in the background this returns at once, after the save before it has ended.

        Args:
            newest_good: the newest step known to be good; its checkpoint stays, whatever the rules let go.
        Raises:
            CheckpointError, RetentionError: on every rank; in the background, of the save before this one.
        """
        self.finish()
        self.world.beat.phase("saving")
        begun = time.perf_counter()
        slices = trainer_state.live(self.engine)
        if not self.background:
            self._write(slices, extras, begun, newest_good)
            self.stalled_seconds = time.perf_counter() - begun
            return
        self.stalled_seconds = 0.0
        self._copied.clear()
        ready = torch.cuda.Event() if self.world.device.type == "cuda" else None
        if ready:
            ready.record()
        self._thread = threading.Thread(
            target=self._behind, args=(slices, extras, begun, newest_good, ready), name="checkpoint", daemon=True
        )
        self._thread.start()

    def before_update(self) -> None:
        """Wait until the slices are copied: what comes next changes them."""
        if self._thread and not self._copied.is_set():
            begun = time.perf_counter()
            self._copied.wait()
            self.stalled_seconds += time.perf_counter() - begun

    @property
    def busy(self) -> bool:
        """Whether a save is in flight, on this rank."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def failed(self) -> bool:
        """Whether a save in the background has ended in an error that nobody has heard of yet."""
        return self._error is not None

    def finish(self) -> None:
        """Wait for the save in flight.

        Raises:
            CheckpointError, RetentionError: its error, on every rank.
        """
        if self._thread:
            self.world.beat.phase("saving")
            self._thread.join()
            self._thread = None
        if self._error:
            error, self._error = self._error, None
            raise error

    def abandon(self) -> None:
        """A run that ends in an error gives the save in flight a little time; a folder half written counts for nothing."""
        if self._thread:
            self._thread.join(LAST_CHANCE_SECONDS)

    def _behind(self, slices: Slices, extras: Extras, begun: float, newest_good: int | None, ready: torch.cuda.Event | None) -> None:
        try:
            if ready:
                torch.cuda.set_device(self.world.device)
                with torch.cuda.stream(torch.cuda.Stream()):
                    ready.wait()
                    slices = self._copy.take(slices, extras.trainer_state)
            else:
                slices = self._copy.take(slices, extras.trainer_state)
            self._copied.set()
            self._write(slices, extras, begun, newest_good)
        except BaseException as error:  # kept for the step to raise: a thread has nobody to tell
            self._error = error
        finally:
            self._copied.set()

    def _write(self, slices: Slices, extras: Extras, begun: float, newest_good: int | None) -> None:
        step, behind = f"step {extras.state['step']}", " behind the steps" if self.background else ""
        self.world.log0(f"{step}  saving a checkpoint{behind}")
        path = checkpoint.save(slices, self.root, extras, self._side)
        self.newest = path
        self.world.beat.checkpoint(str(path))
        gone = retain(self.root, self.keep, path, self._side, newest_good)
        self.last_seconds = time.perf_counter() - begun
        deleted = f"; deleted {', '.join(map(str, gone))}" if gone else ""
        self.world.log0(f"{step}  checkpoint {path} in {self.last_seconds:.1f} s{behind}{deleted}")
