"""Files → the page cache while something else, such as importing torch, keeps the processor busy. Imports nothing heavy itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BLOCK_BYTES = 16 << 20


@contextmanager
def reading(files: list[Path]) -> Iterator[None]:
    """Read files in order in a thread until the block ends. Faults are left to whoever reads them for good."""
    stop = threading.Event()
    thread = threading.Thread(target=_read, args=(files, stop), name="warm up", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _read(files: list[Path], stop: threading.Event) -> None:
    buffer = bytearray(BLOCK_BYTES)
    try:
        for path in files:
            with path.open("rb", buffering=0) as f:
                while not stop.is_set() and f.readinto(buffer):
                    pass
    except OSError:
        pass
