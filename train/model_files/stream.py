"""Tensors that lie on disk, in whatever format: byte ranges → a ring of reused buffers → 1-D parts, read ahead by a thread.

A `Tensor` says its shape and yields its elements in order, a bounded part at a time. Those given as byte ranges are read by
`Files`, which also hashes, on the way and in a thread of its own, the files whose sha256 is known. `Ahead` reads the next
tensors while the caller is busy with this one.
"""

from __future__ import annotations

import hashlib
import math
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from train.model_files.dtypes import DType
from train.world.places import as_os_errors, is_remote, open_for_reading

CHUNK_BYTES = 1 << 20  # in a core's cache, or near it: what is read is cast, summed, hashed and written while it is there
QUEUED = 2  # parts read ahead
# parts alive at once, where one thread reads ahead and another changes: those in two queues, one in hand at each end and between
RING = 2 * QUEUED + 3
OPEN_FILES = 64


class ReadError(ValueError):
    """A file that is not what it was when it was written, or when it was opened."""


@dataclass(frozen=True)
class Extent:
    """Consecutive elements in a file, from byte `start` on."""

    file: Path
    start: int
    numel: int
    dtype: DType


@dataclass(frozen=True)
class Tensor:
    """`parts()` yields 1-D pieces in order, each small, as arrays that hold `dtype`; together they are the flattened tensor.

    A part stays as it is until RING - 1 more have been asked for. `extents`, where known, say the same as byte ranges.
    """

    shape: tuple[int, ...]
    dtype: DType
    parts: Callable[[], Iterator[np.ndarray]]
    extents: tuple[Extent, ...] | None = None

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


class Files:
    """Byte ranges of files, read into a ring of reused buffers.

    Args:
        known: sha256 of files that must not be trusted unread; `verify` answers for them. Ranges are best asked for in the files' order:
            what lies between is read for the hash alone.
    """

    def __init__(self, known: dict[Path, str] | None = None):
        self.known = dict(known or {})
        self._ring: list[np.ndarray] = []
        self._turn = 0
        self._busy: list[Future | None] = [None] * RING
        self._open: dict[Path, BinaryIO] = {}
        self._hashes = {path: _Hash(path) for path in self.known}
        self._hasher = ThreadPoolExecutor(1, "hash") if self.known else None

    def tensor(self, shape: tuple[int, ...], extents: Iterable[Extent]) -> Tensor:
        extents = tuple(extents)
        assert sum(e.numel for e in extents) == math.prod(shape), (shape, extents)
        [dtype] = {e.dtype for e in extents}
        return Tensor(shape, dtype, lambda: self._parts(extents), extents)

    def _parts(self, extents: tuple[Extent, ...]) -> Iterator[np.ndarray]:
        for extent in extents:
            each = CHUNK_BYTES // extent.dtype.itemsize
            for at in range(0, extent.numel, each):
                count = min(each, extent.numel - at)
                itemsize = extent.dtype.itemsize
                yield self._read(extent.file, extent.start + at * itemsize, count * itemsize).view(extent.dtype.array)

    def _read(self, path: Path, at: int, nbytes: int) -> np.ndarray:
        turn = self._turn
        self._turn = (turn + 1) % RING
        if turn == len(self._ring):
            self._ring.append(np.empty(CHUNK_BYTES, np.uint8))
        if (busy := self._busy[turn]) is not None:
            busy.result()
            self._busy[turn] = None
        part = self._ring[turn][:nbytes]
        _fill(self._file(path), path, at, memoryview(part))
        if path in self._hashes and self._hasher:
            self._busy[turn] = self._hasher.submit(self._hashes[path].saw, at, memoryview(part))
        return part

    def _file(self, path: Path) -> BinaryIO:
        found = self._open.pop(path, None)
        if found is None:
            if len(self._open) >= OPEN_FILES:
                self._open.pop(next(iter(self._open))).close()
            found = open_for_reading(path)
            if hasattr(os, "posix_fadvise") and not is_remote(path):
                os.posix_fadvise(found.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        self._open[path] = found  # the latest used stands last
        return found

    def verify(self) -> None:
        """Hash to their ends the files whose sha256 is known.

        Raises:
            ReadError: naming those that have changed.
        """
        if self._hasher is None:
            return
        for future in [self._hasher.submit(h.finish) for h in self._hashes.values()]:
            future.result()
        wrong = [p for p, digest in self.known.items() if self._hashes[p].digest() != digest]
        if wrong:
            names = ", ".join(f"{p.parent.name}/{p.name}" for p in wrong)
            raise ReadError(f"{names}: content has changed since it was written; restore the file from a copy, or take another checkpoint")

    def close(self) -> None:
        if self._hasher:
            self._hasher.shutdown(cancel_futures=True)
        while self._open:
            self._open.popitem()[1].close()


class _Hash:
    """sha256 of a file from the ranges that are read of it anyway, and the gaps between them. Used by one thread."""

    def __init__(self, path: Path):
        self.path, self.at, self._hash = path, 0, hashlib.sha256()

    def saw(self, start: int, data: memoryview) -> None:
        if start > self.at:
            self._gap(start)
        if start + len(data) > self.at:
            self._hash.update(data[self.at - start :])
            self.at = start + len(data)

    def finish(self) -> None:
        self._gap(self.path.stat().st_size)

    def _gap(self, stop: int) -> None:
        if stop > self.at:
            buffer = memoryview(bytearray(min(CHUNK_BYTES, stop - self.at)))
            with open_for_reading(self.path) as file:
                while self.at < stop:
                    part = buffer[: stop - self.at]
                    _fill(file, self.path, self.at, part)
                    self._hash.update(part)
                    self.at += len(part)

    def digest(self) -> str:
        return self._hash.hexdigest()


def _fill(file: BinaryIO, path: Path, at: int, view: memoryview) -> None:
    done = 0
    with as_os_errors(path):
        file.seek(at)
        while done < len(view):
            got = file.readinto(view[done:])
            if not got:
                raise ReadError(f"{path}: ends at byte {at + done}; it was cut short while it was read, or its copy is incomplete")
            done += got


class Ahead:
    """Reads tensors in order in a thread, and hands them out one by one: `with Ahead(tensors) as ahead: ahead.take()`."""

    def __init__(self, tensors: Iterable[Tensor]):
        self._queue: queue.Queue = queue.Queue(QUEUED)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(tensors,), name="read ahead", daemon=True)
        self._thread.start()

    def _run(self, tensors: Iterable[Tensor]) -> None:
        try:
            for tensor in tensors:
                for part in tensor.parts():
                    if not self._put(part):
                        return
                if not self._put(None):
                    return
        except BaseException as error:  # raised where the parts are taken
            self._put(error)

    def _put(self, item: np.ndarray | BaseException | None) -> bool:
        """False when nobody takes any more."""
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def take(self) -> Iterator[np.ndarray]:
        """The parts of the next tensor."""
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
