"""Files → the page cache while something else, such as importing torch, keeps the processor busy. Imports nothing heavy itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BLOCK_BYTES = 16 << 20


def likely(folder: Path) -> list[tuple[Path, int]]:
    """What an export of a folder will probably read, as (file, first byte): a guess that costs nothing when it is wrong."""
    found = [(path, 0) for path in sorted(folder.glob("model*.safetensors"))]
    if found or not folder.is_dir():
        return found
    # DeepSpeed's optimizer files: moments first, then, in the last third, the masters
    return [
        (path, path.stat().st_size * 2 // 3) for path in sorted([*folder.glob("*_optim_states.pt"), *folder.glob("*/*_optim_states.pt")])
    ]


@contextmanager
def reading(ranges: list[tuple[Path, int]]) -> Iterator[None]:
    """Read files from a byte on, in order, in a thread until the block ends. Faults are left to whoever reads them for good."""
    stop = threading.Event()
    thread = threading.Thread(target=_read, args=(ranges, stop), name="warm up", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _read(ranges: list[tuple[Path, int]], stop: threading.Event) -> None:
    buffer = bytearray(BLOCK_BYTES)
    try:
        for path, first in ranges:
            with path.open("rb", buffering=0) as f:
                f.seek(first)
                while not stop.is_set() and f.readinto(buffer):
                    pass
    except OSError:
        pass
