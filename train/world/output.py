"""What a process prints never ends it, and reads as one text: whole lines, a progress bar below them, libraries' words in the log alone.

with lasting():                     at a door, around all that prints: a dead pipe, a closed terminal or a full disk costs the words, not the run
    hush()                          what libraries print, warn of and log goes to the log alone, their errors to the screen, too
    keep_log(run_dir / "log.txt")   once the run's folder is there: rank 0's lines, those printed before it too, each with its time
The words themselves are said by voice.py.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Any, TextIO

from train.world.redact import redacted

EARLIER_LINES = 2000  # kept until there is a log to write them to


class _Log:
    """Whole lines of both streams, appended to one file; where they cannot be written they are let go."""

    def __init__(self) -> None:
        self._file: TextIO | None = None
        self._earlier: list[str] = []
        self._lock = threading.RLock()  # a signal's handler may print while its thread does

    def open(self, path: Path) -> None:
        with self._lock, contextlib.suppress(OSError):
            self._file = path.open("a", encoding="utf-8", errors="backslashreplace")
            for line in self._earlier:
                self._write(line)
            self._earlier.clear()

    def line(self, text: str) -> None:
        said = text.rpartition("\r")[2].rstrip()  # what a progress bar wrote over is not said
        if not said:
            return
        line = f"{datetime.now().astimezone().isoformat(timespec='seconds')} {said}\n"
        with self._lock:
            if self._file:
                self._write(line)
            elif len(self._earlier) < EARLIER_LINES:
                self._earlier.append(line)

    def _write(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            self._file.write(line)
            self._file.flush()

    def close(self) -> None:
        with self._lock, contextlib.suppress(OSError):
            if self._file:
                self._file.close()
            self._file = None


class Screen:
    """What stdout and stderr of a process show together."""

    def __init__(self) -> None:
        self.log = _Log()
        self.lock = threading.RLock()  # threads print, too; a signal's handler prints while its thread does
        self.bars: list[Any] = []  # tqdm's; the last one stands below the lines
        self.hushed = False
        self.warnings = warnings.showwarning

    @contextlib.contextmanager
    def without_bar(self) -> Iterator[None]:
        """The bar is taken away and put back below what was printed meanwhile."""
        with self.lock:
            bar = self.bars[-1] if self.bars else None
            if bar is not None:
                bar.clear(nolock=True)
            try:
                yield
            finally:
                if bar is not None and bar in self.bars[-1:]:
                    bar.refresh(nolock=True)


class Lasting:
    """A stream whose writes cannot fail; all else is the stream's own."""

    def __init__(self, stream: TextIO, screen: Screen, is_voice: bool) -> None:
        self._stream, self.screen, self._is_voice = stream, screen, is_voice
        self._begun = ""  # a line for the log
        self._held = ""  # a line that waits for its end because a bar is shown

    def write(self, text: str) -> int:
        text = redacted(text)
        with self.screen.lock:
            lines = (self._begun + text).split("\n")
            self._begun = lines.pop()
            for line in lines:
                self.screen.log.line(line)
            if not (self.screen.hushed and self._is_voice):
                self._show(text)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def say(self, shown: str, logged: str) -> None:
        """A line of the program's own: shown in one way, logged in another."""
        shown, logged = redacted(shown), redacted(logged)
        self.screen.log.line(logged)
        self._show(f"{shown}\n")
        self.flush()

    def _show(self, text: str) -> None:
        if not self.screen.bars:
            self.put(self._held + text)
            self._held = ""
            return
        whole, end, self._held = (self._held + text).rpartition("\n")
        if end:
            with self.screen.without_bar():
                self.put(whole + end)
                self.flush()

    def put(self, text: str) -> None:
        """Onto the stream and nowhere else."""
        try:
            self._stream.write(text)
        except (OSError, ValueError):
            self._forget()
        except RuntimeError:  # a signal's handler prints while its thread is within a print: the log has it
            pass

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._forget()
        except RuntimeError:
            pass

    def _forget(self) -> None:
        """Nobody reads: from now on, for libraries and for Python's own last flush too, the words go nowhere."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """stdout and stderr cannot fail within the context."""
    before, screen = (sys.stdout, sys.stderr), Screen()
    sys.stdout, sys.stderr = Lasting(before[0], screen, is_voice=True), Lasting(before[1], screen, is_voice=False)
    try:
        yield
    except Exception:
        for line in traceback.format_exc().splitlines():
            screen.log.line(line)  # Python prints it where it may not be read
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before
        screen.hushed, warnings.showwarning = False, screen.warnings
        screen.log.close()


@contextlib.contextmanager
def native_stderr_to(file: IO[bytes]) -> Iterator[None]:
    """What libraries written in C print to stderr goes to a file; Python's own words go where they went, within `lasting`."""
    stream = sys.stderr
    if not isinstance(stream, Lasting):
        yield
        return
    before = stream._stream
    try:
        number = before.fileno()
        screen = os.dup(number)
    except (OSError, ValueError):
        yield
        return
    before.flush()
    stream._stream = open(screen, "w", buffering=1, encoding=before.encoding, errors="backslashreplace")
    os.dup2(file.fileno(), number)
    try:
        yield
    finally:
        stream._stream.flush()
        os.dup2(screen, number)
        stream._stream.close()
        stream._stream = before


def keep_log(path: Path) -> None:
    """From now on this process's lines go to a file too, after those it has printed within `lasting`."""
    if isinstance(sys.stderr, Lasting):
        sys.stderr.screen.log.open(path)


def hush() -> None:
    """Within `lasting`: what is not said by the voice is kept from stdout, libraries' warnings from stderr; their errors are shown.

    Called again when more libraries have been imported, it finds their loggers.
    """
    if not isinstance(sys.stderr, Lasting):
        return
    screen, errors = sys.stderr.screen, sys.stderr
    screen.hushed = True

    def keep_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
        screen.log.line(f"{filename}:{lineno}: {category.__name__}: {message}")

    def only_errors(record: logging.LogRecord) -> bool:
        if not screen.hushed:
            return True
        text = f"{record.name}: {logging.Formatter().format(record)}"
        if record.levelno >= logging.ERROR:
            errors.write(f"{text}\n")
            errors.flush()
        else:
            screen.log.line(text)
        return False

    only_errors.screen = screen
    warnings.showwarning = keep_warning
    for handler in _handlers():
        if not any(getattr(f, "screen", None) is screen for f in handler.filters):
            handler.addFilter(only_errors)


def _handlers() -> list[logging.Handler]:
    """All that write to stdout or stderr."""
    loggers = [logging.root, *(one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger))]
    found = [h for one in loggers for h in one.handlers if type(h) is logging.StreamHandler]
    return [*found, *([logging.lastResort] if logging.lastResort else [])]
