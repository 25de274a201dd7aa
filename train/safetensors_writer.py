"""Safetensors files written front to back, a tensor at a time, hashed while they are written."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path

import torch

from train.safetensors_io import NAMES


class Writer:
    """Writes one safetensors file front to back, a tensor at a time, hashing as it goes.

    The tensors must come in the order of `shapes`. `close()` syncs; nothing is complete before it.
    """

    def __init__(self, path: Path, shapes: dict[str, tuple[torch.dtype, tuple[int, ...]]], metadata: dict[str, str] | None = None):
        header: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
        at = 0
        for name, (dtype, shape) in shapes.items():
            nbytes = math.prod(shape) * dtype.itemsize
            header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [at, at + nbytes]}
            at += nbytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # data starts on an 8-byte boundary, so that it can be mapped
        self.path, self.bytes = path, 8 + len(text) + at
        self._left = list(shapes.items())
        self._hash = hashlib.sha256()
        self._file = path.open("wb", buffering=0)
        self._put(len(text).to_bytes(8, "little") + text)

    def stream(self, name: str, parts: Iterable[torch.Tensor]) -> None:
        """The next tensor, as consecutive 1-D parts; made one by one, only one of them is in memory."""
        expected, (dtype, shape) = self._left.pop(0)
        assert name == expected, (name, expected)
        count = 0
        for part in parts:
            assert part.dtype == dtype, (name, part.dtype, dtype)
            count += part.numel()
            if part.numel():
                self._put(memoryview(part.detach().cpu().contiguous().view(torch.uint8).numpy()))
        assert count == math.prod(shape), (name, count, shape)

    def _put(self, data: bytes | memoryview) -> None:
        self._hash.update(data)
        view, done = memoryview(data), 0
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
        os.fsync(self._file.fileno())
        self._file.close()
        return self.bytes, self._hash.hexdigest()
