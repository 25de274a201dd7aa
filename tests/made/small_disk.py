"""A file system of its own that may be filled up without harm (Linux, root)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tests.made import processes

BALLAST = "ballast"


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int = 64) -> Iterator[bool]:
    """The folder on a disk of that size; yields whether there is one."""
    folder.mkdir(exist_ok=True)
    mounted = os.geteuid() == 0 and not processes.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder]).returncode
    try:
        yield mounted
    finally:
        if mounted:
            processes.run(["umount", "-l", folder])


def fill(folder: Path, but: int = 0) -> None:
    """Use up the disk, but for so many bytes."""
    with contextlib.suppress(OSError), (folder / BALLAST).open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * size)
        if but:
            file.truncate(file.tell() - but)


def empty(folder: Path) -> None:
    (folder / BALLAST).unlink(missing_ok=True)
