"""Tensors that lie on disk, in whatever format: byte ranges → a ring of reused buffers → 1-D parts, read ahead by a thread.

A `Tensor` says its shape and yields its elements in order, a bounded part at a time. Those given as byte ranges are read by
`RangeReader`, which also hashes, on the way and in a thread of its own, the files whose sha256 is known. `Ahead` reads the next
tensors while the caller is busy with this one.
"""

from __future__ import annotations

import hashlib
import math
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from train.model_files.dtypes import DType
from train.world.places import as_os_errors, is_remote, open_for_reading

CHUNK_BYTES = 1 << 20  # in a core's cache, or near it: what is read is cast, summed, hashed and written while it is there
PIECE_BYTES = 16 << 20  # of what is read into torch tensors (reader.py): fewer, larger reads, since nothing is cast on the way
QUEUED = 2  # parts read ahead
# parts alive at once, where one thread reads ahead and another changes: those in two queues, one in hand at each end and between
RING = 2 * QUEUED + 3
OPEN_FILES = 128


class ReadError(ValueError):
    """A file that is not what it was when it was written, or when it was opened."""


@dataclass(frozen=True)
class Extent:
    """Consecutive elements in a file, from byte `start` on."""

    file: Path
    start: int
    numel: int
    dtype: DType

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize

    def cut(self, first: int, stop: int) -> Extent:
        """The elements [first, stop) of these."""
        return Extent(self.file, self.start + first * self.dtype.itemsize, stop - first, self.dtype)


def cut(extents: Iterable[Extent], first: int, stop: int) -> list[Extent]:
    """The elements [first, stop) of extents laid end to end."""
    found, begin = [], 0
    for extent in extents:
        a, b = max(first - begin, 0), min(stop - begin, extent.numel)
        if a < b:
            found.append(extent.cut(a, b))
        begin += extent.numel
    return found


@dataclass(frozen=True)
class Tensor:
    """`parts()` yields 1-D pieces in order, each small, as arrays that hold `dtype`; together they are the flattened tensor.

    A part stays as it is until RING - 1 more have been asked for, of this tensor or of another with the same reader.
    `extents`, where known, say the same as byte ranges.
    """

    shape: tuple[int, ...]
    dtype: DType
    parts: Callable[[], Iterator[np.ndarray]]
    extents: tuple[Extent, ...] | None = None

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


class RangeReader:
    """Byte ranges of files, read into a ring of reused buffers; for one thread at a time.

    Args:
        known: sha256 of files that must not be trusted unread; `verify` answers for them. Ranges are best asked for in the files' order:
            what lies between is read for the hash alone.
    """

    def __init__(self, known: dict[Path, str] | None = None):
        self.known = dict(known or {})
        self._ring: list[np.ndarray] = []
        self._turn = -1
        self._hashing: list[list[Future]] = [[] for _ in range(RING)]  # what still looks at each buffer
        self._open: dict[Path, BinaryIO] = {}
        self._hashes = {path: _Hash(path) for path in self.known}
        self._hasher = ThreadPoolExecutor(1, "hash") if self.known else None

    def tensor(self, shape: tuple[int, ...], extents: Iterable[Extent]) -> Tensor:
        extents = tuple(extents)
        assert sum(e.numel for e in extents) == math.prod(shape), (shape, extents)
        [dtype] = {e.dtype for e in extents}
        return Tensor(shape, dtype, lambda: self.parts(extents), extents)

    def parts(self, extents: Sequence[Extent]) -> Iterator[np.ndarray]:
        """1-D arrays over extents of one dtype laid end to end, each but the last CHUNK_BYTES; valid until RING - 1 more were asked for.

        Raises:
            ReadError: a file is shorter than it was.
        """
        if not extents:
            return
        [dtype] = {e.dtype for e in extents}
        for group in _filling(extents, CHUNK_BYTES // dtype.itemsize):
            turn = self._take()
            part = self._ring[turn][: sum(e.nbytes for e in group)].view(dtype.array)
            self._hashing[turn] = self._read(group, part)
            yield part

    def read_into(self, extents: Sequence[Extent], values: np.ndarray) -> None:
        """Fill the caller's own array, in its dtype and whole, from extents laid end to end."""
        for hashing in self._read(extents, values):
            hashing.result()

    def _take(self) -> int:
        """Which buffer is next, free to be written."""
        self._turn = (self._turn + 1) % RING
        if self._turn == len(self._ring):
            self._ring.append(np.empty(CHUNK_BYTES, np.uint8))
        for hashing in self._hashing[self._turn]:
            hashing.result()
        return self._turn

    def _read(self, extents: Sequence[Extent], values: np.ndarray) -> list[Future]:
        """Fill an array; returns what still looks at it, to be waited for before it is changed."""
        view, at, hashing = memoryview(values).cast("B"), 0, []
        for extent in extents:
            part = view[at : at + extent.nbytes]
            _fill(self._file(extent.file), extent.file, extent.start, part)
            if self._hasher and extent.file in self._hashes:
                hashing.append(self._hasher.submit(self._hashes[extent.file].saw, extent.start, part))
            at += len(part)
        assert at == len(view), (extents, values.shape)
        return hashing

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


def _filling(extents: Iterable[Extent], room: int) -> Iterator[list[Extent]]:
    """The extents in order, joined and cut into groups of `room` elements; the last may have fewer."""
    group, left = [], room
    for extent in extents:
        done = 0
        while done < extent.numel:
            count = min(extent.numel - done, left)
            group.append(extent if count == extent.numel else extent.cut(done, done + count))
            done, left = done + count, left - count
            if not left:
                yield group
                group, left = [], room
    if group:
        yield group


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
    while done < len(view):
        got = _read_some(file, path, at + done, view[done:])
        if not got:
            raise ReadError(f"{path}: ends at byte {at + done}; it was cut short while it was read, or its copy is incomplete")
        done += got


def _read_some(file: BinaryIO, path: Path, at: int, view: memoryview) -> int:
    if not is_remote(path):
        return os.preadv(file.fileno(), [view], at)
    with as_os_errors(path):
        file.seek(at)
        return file.readinto(view)


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
