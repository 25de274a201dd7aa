"""A lock file that is gone when its holder is: made, locked, and removed before it is given back."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from pathlib import Path
from typing import IO


class FileLock:
    """A held lock; it ends with `close`, or with the process, however that ends (the file then stays, and the next one takes it)."""

    def __init__(self, path: Path, file: IO[str]):
        self.path, self._file = path, file

    def close(self) -> None:
        """The file goes while the lock is still held: who waits at it sees that it is not the path's any more."""
        if self._file.closed:
            return
        with contextlib.suppress(OSError):  # a disk that fails meanwhile: the lock itself ends with the file
            if _is_at(self._file, self.path):
                self.path.unlink()
        self._file.close()

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def hold(path: Path) -> FileLock:
    """Lock the file, making it where it is not there.

    Raises:
        BlockingIOError: another process holds it; `strerror` says which.
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            who = file.read() or "another process"
            file.close()
            raise BlockingIOError(error.errno, who, str(path)) from None
        except OSError:
            file.close()
            raise
        if _is_at(file, path):
            break
        file.close()  # opened before its last holder removed it: whoever comes now makes another
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return FileLock(path, file)


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
