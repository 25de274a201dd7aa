"""What asks a run to stop: a signal, the end of its launcher, the end of its time. Heard from a door's first line to its last.

starting   nothing is lost: all ranks end at once, by a thread that is heard while the main one is in C++ or waits for other ranks
training   a flag, which the step's one all-reduce carries, so that every rank stops at the same step; evaluations are cut, saves are not
failing    an error is on its way to the door: signals end this rank as they would have without us
over       how the run ended is written: nothing more to stop

A second Ctrl-C, later than launchers repeat the first, ends a rank at once.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from train.guard import limits
from train.guard.launcher import Launcher
from train.guard.limits import Limits
from train.guard.outcome import AT_ONCE, FAILED, PREEMPTED, Record
from train.guard.parting import leave_now
from train.world.board import Board
from train.world.launchers import has_launcher

if TYPE_CHECKING:
    from train.world.ranks import World

# of schedulers, launchers, terminals; SIGUSR2 and SIGXCPU are other schedulers' warnings
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGXCPU)
LOOK_SECONDS = 1.0
REPEATED_SECONDS = 3.0  # within which torchrun and deepspeed pass on a Ctrl-C that the ranks have from the terminal as well
TOGETHER_SECONDS = 12.0  # for all ranks to say that they end, too
STOP = "stop"
STARTING, TRAINING, LEAVING, FAILING, OVER = "starting", "training", "leaving", "failing", "over"
THEN = {"evaluation": "cutting the evaluation, saving and stopping", "saving": "stopping when this save is complete"}


@dataclass(frozen=True)
class Stop:
    """What all ranks know of an agreed stop."""

    cause: str
    save: bool  # whether a save is to be begun
    why_not: str = ""


class Stops:
    """Whoever wants this process to stop, heard by a thread of its own."""

    def __init__(self, rank: int = 0):
        self.cause: str | None = None
        self.limits = Limits()
        self.needed: Callable[[], float] = lambda: 0.0  # seconds that must be left for another step to be begun
        self.phase: Callable[[], str] = lambda: ""  # what the main thread does
        self.meant: Callable[[], None] = lambda: None  # tells that the end is the run's own
        self.clear: Callable[[], None] = lambda: None  # what a start that is ended takes away, on rank 0
        self._rank, self._size = rank, 1
        self._state, self._turn = STARTING, threading.Lock()
        self._asked_at, self._kill_at = -math.inf, math.inf
        self.record: Record | None = None
        self._board: Board | None = None

    # -- the main thread

    def __enter__(self) -> Stops:
        self.listen()
        return self

    def listen(self) -> None:
        """From now on."""
        self.begun = time.monotonic()
        self._launcher = Launcher(expected=has_launcher(os.environ))
        self._heard, self._told = os.pipe()
        os.set_blocking(self._told, False)
        # under nohup the terminal's end is to be ignored, and is
        heeded = [s for s in SIGNALS if s != signal.SIGHUP or signal.getsignal(s) != signal.SIG_IGN]
        self._fd_before = signal.set_wakeup_fd(self._told, warn_on_full_buffer=False)
        self._before = {s: signal.signal(s, self._pass_on) for s in heeded}
        self._thread = threading.Thread(target=self._listen, name="stops", daemon=True)
        self._thread.start()

    def _pass_on(self, number: int, _: object) -> None:
        """In the main thread, when it is back in Python: C has told the listener long before, unless a library took that place."""
        if signal.set_wakeup_fd(self._told, warn_on_full_buffer=False) != self._told:
            with contextlib.suppress(BlockingIOError):
                os.write(self._told, bytes([number]))

    def __exit__(self, *_: object) -> None:
        """Signals mean again what they meant before."""
        self._state = OVER
        signal.set_wakeup_fd(self._fd_before)
        for s, handler in self._before.items():
            signal.signal(s, handler)
        os.close(self._told)
        self._thread.join()

    def join(self, world: World) -> None:
        """The ranks have met: from now on they end together."""
        self._rank, self._size = world.rank, world.size
        self.phase, self.meant = lambda: world.beat.now, world.beat.means_to_end
        if world.size > 1 and not self._board:
            self._board = Board.open()

    def train(self, world: World) -> None:
        """All is ready to train: from now on a stop is agreed on. One that has been asked for ends the start, on all ranks."""
        if self.agreed(world):
            self._ask("another rank's stop")
        with self._turn:
            if self._state == STARTING and self.cause is None:
                self._state = TRAINING
                return
        self._await_end()

    def over(self) -> None:
        """How the run ended is written down."""
        with self._turn:
            if self._state != LEAVING:
                self._state = OVER
                return
        self._await_end()

    def wanted(self) -> bool:
        """Whether this rank is to stop; asked once a step."""
        if self.cause is None and self.limits.end - time.monotonic() < self.needed():
            self._ask(self.limits.first)
        return self.cause is not None

    def agreed(self, world: World) -> bool:
        """Whether any rank is to stop. Collective."""
        return world.max([float(self.wanted())])[0] > 0

    def agree(self, world: World, save_seconds: float | None, stands: str | None) -> Stop:
        """Why all stop, and whether a save fits into the time there is. Collective.

        Args:
            save_seconds: what a save takes, as measured; None: not known. stands: the newest complete checkpoint.
        """
        left = min(self._kill_at, self.limits.end) - time.monotonic()
        cause, told = self.why(world), world.gather((left, save_seconds))
        left, known = min(t[0] for t in told), [t[1] for t in told if t[1] is not None]
        if stands is None or limits.fits(max(known, default=None), left):
            return Stop(cause, True)
        of = f"guard.grace_seconds={self.limits.grace_seconds:g}" if self._kill_at < self.limits.end else self.limits.first
        return Stop(cause, False, f"a checkpoint takes about {max(known):.0f} s, and {max(left, 0):.0f} s of {of} were left")

    def why(self, world: World) -> str:
        """The cause of an agreed stop, and whose it was. Collective."""
        rank, cause = next((r, c) for r, c in enumerate(world.gather(self.cause)) if c)
        return cause if rank == 0 else f"{cause} (rank {rank})"

    @contextlib.contextmanager
    def not_hidden(self) -> Iterator[None]:
        """Ranks that end break what the others are at: such an error is no error, the end goes on."""
        try:
            yield
        except BaseException:
            if self._state == STARTING and self._board and (said := self._board.told(STOP)):
                self._ask(said)
            if self._state == LEAVING or self._state == STARTING and self.cause is not None:
                self._await_end()
            self._state = FAILING
            raise

    # -- the thread

    def _listen(self) -> None:
        while self._state != OVER:
            for number in self._signals():
                self._on_signal(signal.Signals(number))
            if self.cause is None and self._launcher.gone:
                self._ask("the end of the launcher")
            if self._state in (STARTING, TRAINING) and self._board and (said := self._board.told(STOP)):
                self._ask(said)
                self._end_start()
            if self._state == STARTING and self.cause is None and self.limits.end < time.monotonic():
                self._ask(self.limits.first)
            if self._state == STARTING and self.cause is not None:
                self._end_start()
        os.close(self._heard)

    def _signals(self) -> bytes:
        readable, _, _ = select.select([self._heard], [], [], LOOK_SECONDS)
        # all that Python handles come this way: libraries have handlers of their own
        return bytes(n for n in os.read(self._heard, 64) if n in self._before) if readable else b""

    def _on_signal(self, number: signal.Signals) -> None:
        now = time.monotonic()
        if self._state == FAILING:
            leave_now(FAILED, lambda: None)
        if number == signal.SIGTERM and not self._launcher.parent_gone or number != signal.SIGUSR1 and self._launcher.repeats:
            self._kill_at = min(self._kill_at, now + self.limits.grace_seconds)
        if number == signal.SIGINT and now - self._asked_at > REPEATED_SECONDS and self.cause == "SIGINT":
            self._end_at_once()
        elif self.cause is None:
            self._ask(number.name)
        elif self._state == TRAINING and now - self._asked_at > REPEATED_SECONDS:
            self._say(f"{number.name}: stopping already, because of {self.cause}")

    def _ask(self, by: str) -> None:
        if self.cause is not None:
            return
        self.cause, self._asked_at = by, time.monotonic()
        if self._state == TRAINING:
            again = f"; Ctrl-C again, after {REPEATED_SECONDS:.0f} s, ends at once" if by == "SIGINT" else ""
            self._say(f"{by}: {THEN.get(self.phase(), 'saving and stopping after this step')}{again}")

    def _end_start(self) -> None:
        with self._turn:
            if self._state not in (STARTING, TRAINING):
                return
            self._state = LEAVING
        whole = self._together()
        stands = f"{self.record.checkpoint} stands" if self.record and self.record.checkpoint else "there was nothing to save"
        if self.cause == self.limits.first:
            self.meant()
            self._leave("failed", FAILED, f"{self.cause} was over before the first step: give it more time; {stands}")
        if not whole:
            self._leave(
                "failed", FAILED, f"{self.cause} before the first step, and not all ranks were there to end: one has failed; {stands}"
            )
        self._leave("preempted", PREEMPTED, f"{self.cause}: stopped before the first step; {stands}, give the same command again")

    def _together(self) -> bool:
        """Tell all ranks, and wait until all are about to end: who went first would break what the others are at. Whether all came."""
        if not self._board or self._size == 1:
            return True
        self._board.tell(STOP, self.cause)
        come, until = self._board.meet(LEAVING, come=True), time.monotonic() + TOGETHER_SECONDS
        while come is not None and come < self._size and time.monotonic() < until:
            time.sleep(0.05)
            come = self._board.meet(LEAVING, come=False)
        if self._rank == 0:  # it may be the server
            time.sleep(0.3)
        return come is None or come >= self._size

    def _end_at_once(self) -> None:
        with self._turn:
            if self._state == OVER:
                return
            self._state = LEAVING
        stands = f"{self.record.checkpoint} stands" if self.record and self.record.checkpoint else "nothing was saved"
        self._leave("failed", AT_ONCE, f"the second Ctrl-C: ended at once, without saving; {stands}")

    def _leave(self, ended: str, code: int, said: str) -> None:
        def last_words() -> None:
            if self._rank == 0:
                self.clear()
                if self.record:
                    self.record.end(ended, code, said if ended == "failed" else str(self.cause))
                self._say(said)

        leave_now(code, last_words)

    def _say(self, text: str) -> None:
        if self._rank == 0:
            print(text, file=sys.stderr, flush=True)

    def _await_end(self) -> None:
        self._wake()
        self._thread.join()  # it ends the process

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._told, b"\0")
