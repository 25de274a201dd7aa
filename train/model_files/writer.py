"""Safetensors files written front to back, a tensor at a time, hashed while they are written."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from train.model_files.dtypes import DType

if TYPE_CHECKING:
    import torch

WRITE_BACK_BYTES = 32 << 20  # how much is written before the disk is told to begin: fsync at the end then finds little left
HASH_BESIDE_BYTES = 256 << 10  # below this a hand-over to the hashing thread costs more than it saves

Shapes = dict[str, tuple[DType, tuple[int, ...]]]


def header_of(shapes: Shapes, metadata: dict[str, str] | None = None) -> bytes:
    """The first bytes of a safetensors file that holds these tensors in this order."""
    header: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    at = 0
    for name, (dtype, shape) in shapes.items():
        nbytes = math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": dtype.code, "shape": list(shape), "data_offsets": [at, at + nbytes]}
        at += nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # data starts on an 8-byte boundary, so that it can be mapped
    return len(text).to_bytes(8, "little") + text


class Writer:
    """Writes one safetensors file front to back, a tensor at a time, hashing beside the writing.

    The tensors must come in the order of `shapes`. `close()` syncs; nothing is complete before it.

    Args:
        path: local, or anything with `open("wb")`, such as fsspec's paths.
    """

    def __init__(self, path: Path, shapes: Shapes, metadata: dict[str, str] | None = None):
        header = header_of(shapes, metadata)
        self.path, self.bytes = path, len(header) + sum(math.prod(s) * d.itemsize for d, s in shapes.values())
        self._left = list(shapes.items())
        self._hash, self._beside = hashlib.sha256(), ThreadPoolExecutor(1, "hash")
        # unbuffered where it is a disk: what does not fit there fails in _put, not when the object is let go
        self._file = path.open("wb", buffering=0) if isinstance(path, Path) else path.open("wb")
        self._descriptor = _descriptor(self._file)
        self._written = self._begun = 0
        self._put(header)

    def stream(self, name: str, parts: Iterable[np.ndarray | torch.Tensor]) -> None:
        """The next tensor, as consecutive 1-D parts; made one by one, only one of them is in memory.

        A part may be reused as soon as the next one is asked for. Arrays are as `dtypes` has them, bf16 as uint16.
        """
        expected, (dtype, shape) = self._left.pop(0)
        assert name == expected, (name, expected)
        count = 0
        for part in parts:
            values = part if isinstance(part, np.ndarray) else _array(part, dtype)
            assert values.dtype == dtype.array and values.ndim == 1, (name, values.dtype, values.shape, dtype)
            count += len(values)
            if len(values):
                self._put(memoryview(values.view(np.uint8)))
        assert count == math.prod(shape), (name, count, shape)

    def _put(self, data: bytes | memoryview) -> None:
        if len(data) < HASH_BESIDE_BYTES:
            self._hash.update(data)
            self._write(memoryview(data))
        else:
            hashed = self._beside.submit(self._hash.update, data)
            try:
                self._write(memoryview(data))
            finally:
                hashed.result()  # the caller may change `data` from here on
        self._written += len(data)
        if self._descriptor is not None and self._written - self._begun >= WRITE_BACK_BYTES:
            begin_write_back(self._descriptor, self._begun, self._written - self._begun)
            self._begun = self._written

    def _write(self, view: memoryview) -> None:
        done = 0
        while done < len(view):
            done += self._file.write(view[done:])

    def leave_empty(self) -> None:
        """Give the file its full size without data: no memory, and no disk where files can be sparse."""
        self._file.truncate(self.bytes)
        self._left.clear()
        self.close()

    def close(self) -> tuple[int, str]:
        """Sync; returns (bytes, sha256)."""
        assert not self._left, f"{self.path}: not written: {[n for n, _ in self._left]}"
        self._beside.shutdown()
        self._file.flush()
        if self._descriptor is not None:
            os.fsync(self._descriptor)
        self._file.close()
        return self.bytes, self._hash.hexdigest()


def _array(part: torch.Tensor, dtype: DType) -> np.ndarray:
    import torch

    assert str(part.dtype) == f"torch.{dtype}", (part.dtype, dtype)
    return part.detach().cpu().contiguous().view(torch.uint8).numpy().view(dtype.array)


def _descriptor(file: io.IOBase) -> int | None:
    """None where there is no file to sync: an object store, memory."""
    try:
        return file.fileno()
    except (AttributeError, OSError, NotImplementedError):  # io.UnsupportedOperation is an OSError
        return None


def begin_write_back(descriptor: int, start: int, nbytes: int) -> None:
    """Tell the kernel to start writing a range to disk, without waiting for it; a hint, silent where there is no such call."""
    if call := _sync_file_range():
        call(descriptor, start, nbytes, 2)  # SYNC_FILE_RANGE_WRITE


@functools.cache
def _sync_file_range() -> Callable[..., int] | None:
    call = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if call is not None:
        call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return call
