"""Files that need no change → copies: the kernel copies, and behind it what now stands in each copy is read, hashed and looked at.

One thread copies a file, then syncs the one before it: a disk reads, then writes, instead of doing both badly at once. The caller's
thread follows it through the page cache, so that hashing costs no time of the disk's.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from train.model_files.stream import CHUNK_BYTES, ReadError
from train.world.places import as_os_errors, is_remote, open_for_reading

STEP_BYTES = 16 << 20
# the kernel cannot copy between these two files by itself
_CANNOT = (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM)


class Copier:
    """Copies files in order in a thread: `with Copier(pairs) as copier: copier.follow(begins, look)` for each of them.

    Args:
        pairs: (source, target); a target is written anew.
    """

    def __init__(self, pairs: list[tuple[Path, Path]]):
        self._pairs, self._turn = pairs, 0
        self._sizes = [source.stat().st_size for source, _ in pairs]
        self._copied, self._synced = [0] * len(pairs), [False] * len(pairs)
        self._fault: BaseException | None = None
        self._news, self._stop = threading.Condition(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="copy", daemon=True)
        self._thread.start()

    def follow(self, begins: list[int], look: Callable[[int, np.ndarray], None]) -> tuple[int, str]:
        """See the next copy through: (bytes, sha256) of it, synced.

        Args:
            begins: the bytes at which its parts begin, the first of them 0.
            look: called with a part's number and a piece of it, in order; raises to end it all.
        Raises:
            OSError, ReadError: the copy could not be made.
        """
        turn, self._turn = self._turn, self._turn + 1
        size, digest = self._sizes[turn], hashlib.sha256()
        for part, piece in self._pieces(turn, [*begins, size]):
            digest.update(piece)
            look(part, piece)
        self._wait(self._synced, turn, True)
        return size, digest.hexdigest()

    def _pieces(self, turn: int, bounds: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        buffer = np.empty(CHUNK_BYTES, np.uint8)
        self._wait(self._copied, turn, 1)  # there is a file
        with self._pairs[turn][1].open("rb", buffering=0) as file:
            for part, (begin, end) in enumerate(itertools.pairwise(bounds)):
                for at in range(begin, end, CHUNK_BYTES):
                    piece = buffer[: min(CHUNK_BYTES, end - at)]
                    self._wait(self._copied, turn, at + len(piece))
                    if file.readinto(piece) != len(piece):  # a disk returns less only at a file's end
                        raise OSError(errno.EIO, f"does not hold the {bounds[-1]} bytes that were written", str(self._pairs[turn][1]))
                    yield part, piece

    def _wait(self, where: list[int], turn: int, least: int) -> None:
        with self._news:
            self._news.wait_for(lambda: where[turn] >= least or self._fault is not None)
            if where[turn] < least and self._fault is not None:
                raise self._fault

    def _run(self) -> None:
        try:
            for turn in range(len(self._pairs)):
                self._copy(turn)
                if turn:
                    self._sync(turn - 1)
            if self._pairs:
                self._sync(len(self._pairs) - 1)
        except BaseException as error:  # raised where the copies are followed
            with self._news:
                self._fault = error
                self._news.notify_all()

    def _copy(self, turn: int) -> None:
        source, target = self._pairs[turn]
        with as_os_errors(source), open_for_reading(source) as file, target.open("wb", buffering=0) as out:
            move = _by_hand if is_remote(source) else _by_kernel
            while (left := self._sizes[turn] - self._copied[turn]) and not self._stop.is_set():
                try:
                    moved = move(file, out, min(left, STEP_BYTES))
                except OSError as error:
                    raise OSError(error.errno, f"{error.strerror} while {source} was copied", str(target)) from error
                if moved:
                    self._tell(self._copied, turn, self._copied[turn] + moved)
                elif move is _by_hand:
                    raise ReadError(f"{source}: ends at byte {self._copied[turn]}; it was cut short while it was read")
                else:
                    move = _by_hand

    def _sync(self, turn: int) -> None:
        if not self._stop.is_set():
            with self._pairs[turn][1].open("rb", buffering=0) as file:
                os.fsync(file.fileno())
            self._tell(self._synced, turn, True)

    def _tell(self, where: list[int], turn: int, value: int) -> None:
        with self._news:
            where[turn] = value
            self._news.notify_all()

    def __enter__(self) -> Copier:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def _by_kernel(file: BinaryIO, out: BinaryIO, nbytes: int) -> int:
    """Bytes moved; 0 where the kernel cannot do it by itself. On disks that can, the copy shares the original's blocks."""
    if not hasattr(os, "copy_file_range"):
        return 0
    try:
        return os.copy_file_range(file.fileno(), out.fileno(), nbytes)
    except OSError as error:
        if error.errno in _CANNOT:
            return 0
        raise


def _by_hand(file: BinaryIO, out: BinaryIO, nbytes: int) -> int:
    data = memoryview(file.read(nbytes))
    done = 0
    while done < len(data):
        done += out.write(data[done:])
    return done
