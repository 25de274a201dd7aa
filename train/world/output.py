"""What a process prints never ends it: a dead pipe, a closed terminal or a full disk behind stdout or stderr costs the words, not the run.

with lasting():                     at a door, around all that prints
    keep_log(run_dir / "log.txt")   once the run's folder is there: rank 0's lines, those printed before it too, each with its time
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

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


class _Lasting:
    """A stream whose writes cannot fail; all else is the stream's own."""

    def __init__(self, stream: TextIO, log: _Log) -> None:
        self._stream, self._log, self._begun = stream, log, ""

    def write(self, text: str) -> int:
        lines = (self._begun + text).split("\n")
        self._begun = lines.pop()
        for line in lines:
            self._log.line(line)
        try:
            self._stream.write(text)
        except (OSError, ValueError):
            self._forget()
        except RuntimeError:  # a signal's handler prints while its thread is within a print: the log has it
            pass
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

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
    before, log = (sys.stdout, sys.stderr), _Log()
    sys.stdout, sys.stderr = _Lasting(before[0], log), _Lasting(before[1], log)
    try:
        yield
    except Exception:
        for line in traceback.format_exc().splitlines():
            log.line(line)  # Python prints it where it may not be read
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before
        log.close()


def keep_log(path: Path) -> None:
    """From now on this process's lines go to a file too, after those it has printed within `lasting`."""
    if isinstance(sys.stderr, _Lasting):
        sys.stderr._log.open(path)
