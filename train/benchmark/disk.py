"""What the disk itself allows: plain reads and writes beside which the measured ones are put."""

from __future__ import annotations

import os
import time
from pathlib import Path

BLOCK = 16 << 20


def forget(files: list[Path]) -> None:
    """Ask the kernel to drop files from its page cache, as far as it does."""
    for path in files:
        with path.open("rb") as f:
            os.fsync(f.fileno())
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_rate(files: list[Path], cold: bool, most_bytes: float = float("inf")) -> float:
    """Bytes a second of one process that reads files front to back; cold: after they were dropped from the page cache."""
    if cold:
        forget(files)
    buffer, total, begun = bytearray(BLOCK), 0, time.perf_counter()
    for path in files:
        with path.open("rb", buffering=0) as f:
            while total < most_bytes and (got := f.readinto(buffer)):
                total += got
    return total / (time.perf_counter() - begun)


def write_plainly(path: Path, nbytes: int) -> None:
    """Write so many bytes of a file and sync it."""
    block = memoryview(os.urandom(1 << 20) * (BLOCK >> 20))
    with path.open("wb", buffering=0) as f:
        for at in range(0, nbytes, BLOCK):
            f.write(block[: min(BLOCK, nbytes - at)])
        os.fsync(f.fileno())


def write_rate(path: Path, nbytes: int) -> float:
    """Bytes a second of a plain write with a sync at the end; the file is removed again."""
    begun = time.perf_counter()
    write_plainly(path, nbytes)
    rate = nbytes / (time.perf_counter() - begun)
    path.unlink()
    return rate
