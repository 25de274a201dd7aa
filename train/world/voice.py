"""The one voice for people: lines with their time on stdout, a bar below them where stderr is a terminal that can show one.

say("step 3/10  loss 4.2")                      17:04:31 step 3/10 … on a terminal, 2026-11-26 17:04:31 step 3/10 … in a file
with waiting("importing PyTorch"):              said again every half minute while it lasts
with progress("loading weights", 5e9, "B") as advance: advance(piece.nbytes)      a bar, or a line every half minute
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from train.world.output import Lasting

AGAIN_SECONDS = 30.0  # what lasts is told of again
NARROWEST = 30  # columns of a terminal that has room for a bar


def say(text: str, *shorter: str) -> None:
    """One line with its time; on a terminal the first of `text` and `shorter` that fits its width, or the last of them."""
    out = sys.stdout
    shown = _fitting(out, [f"{_time(out)} {words}" for words in (text, *shorter)])
    if isinstance(out, Lasting):
        out.say(shown, text)
    else:
        print(shown, flush=True)


def note(text: str) -> None:
    """One line for the log alone."""
    if isinstance(sys.stdout, Lasting):
        sys.stdout.screen.log.line(text)


def readable_time(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    return f"{days}d{h:02d}h" if days else f"{h}h{m:02d}m" if h else f"{m}m{s:02d}s"


class Bar:
    """A progress bar below the lines, in place of the one before it; nothing where no terminal can show one."""

    def __init__(self, what: str, total: float, unit: str, done: float = 0):
        err = sys.stderr
        self._bar: Any = None
        if not isinstance(err, Lasting) or not err.isatty() or os.environ.get("TERM") == "dumb" or _columns(err) < NARROWEST:
            return
        from tqdm import tqdm

        tqdm.monitor_interval = 0  # no thread that draws on its own
        self._screen = err.screen
        with self._screen.without_bar():
            self._bar = tqdm(
                desc=what or None, total=total, initial=done, unit=unit, unit_scale=unit == "B", file=_Bare(err), leave=False, position=0,
                dynamic_ncols=True, miniters=1, mininterval=0.2,
            )  # fmt: skip
            self._screen.bars.append(self._bar)

    @property
    def shown(self) -> bool:
        return self._bar is not None

    def advance(self, by: float) -> None:
        if self._bar is not None:
            with self._screen.lock:
                if self._screen.bars[-1] is self._bar:
                    self._bar.update(by)
                else:
                    self._bar.n += by  # another stands in its place

    def close(self) -> None:
        """Gone from the screen; the bar before it is back."""
        if self._bar is None:
            return
        with self._screen.lock:
            self._bar.close()
            if self._bar in self._screen.bars:
                self._screen.bars.remove(self._bar)
            if self._screen.bars:
                self._screen.bars[-1].refresh(nolock=True)
        self._bar = None


@contextlib.contextmanager
def progress(what: str, total: float, unit: str) -> Iterator[Callable[[float], None]]:
    """How far a long work is: call what it gives with the amount just done."""
    bar, begun = Bar(what, total, unit), time.monotonic()
    done, told = 0.0, begun

    def advance(by: float) -> None:
        nonlocal done, told
        done += by
        bar.advance(by)
        now = time.monotonic()
        if not bar.shown and now - told >= AGAIN_SECONDS and 0 < done < total:
            told = now
            say(f"{what}: {100 * done / total:.0f}%, {readable_time((now - begun) * (total - done) / done)} left")

    try:
        yield advance
    finally:
        bar.close()


@contextlib.contextmanager
def waiting(what: str, remark: str = "") -> Iterator[None]:
    """A work of unknown length: said when it begins, and that it still lasts."""
    say(what + remark)
    over, begun = threading.Event(), time.monotonic()

    def again() -> None:
        while not over.wait(AGAIN_SECONDS):
            say(f"still {what} ({readable_time(time.monotonic() - begun)})")

    thread = threading.Thread(target=again, name="waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class _Bare:
    """A stream for what is drawn over and over: not for the log, and no line."""

    def __init__(self, stream: Lasting):
        self._stream, self.write, self.flush = stream, stream.put, stream.flush

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _time(stream: Any) -> str:
    return datetime.now().strftime("%H:%M:%S" if _is_terminal(stream) else "%Y-%m-%d %H:%M:%S")


def _is_terminal(stream: Any) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def _fitting(stream: Any, lines: list[str]) -> str:
    if len(lines) == 1 or not _is_terminal(stream):
        return lines[0]
    width = _columns(stream)
    return next((line for line in lines if len(line) <= width), lines[-1])


def _columns(stream: Any) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80  # a terminal that does not know says 0
    except (OSError, ValueError):
        return 80
