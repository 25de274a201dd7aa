"""Where DeepSpeed's C++ ops are built, and locks of builds whose holder is dead.

torch's own folder is one a Python version: two installations used in turn build everything anew each time, and wait for each other. DeepSpeed builds small C++ ops at their first use. A process killed while it builds or loads one leaves a lock file behind,
and every later start waits for it for ever, without a word (pytorch/pytorch#189245). A live holder keeps the file open.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

ONCE = " (once on this machine; a minute or two)"  # how long a build takes
ELSEWHERE_SECONDS = 600  # a holder on another node cannot be seen: its build takes a minute or two


def extensions_folder() -> Path:
    """Where this installation's extensions are built: as the environment says, or a folder of its own below torch's."""
    if named := os.environ.get("TORCH_EXTENSIONS_DIR"):
        return Path(named)
    import torch
    from torch.utils.cpp_extension import get_default_build_root

    own = f"{sys.prefix} {sys.version} {torch.__version__} {version('deepspeed')}"
    return Path(get_default_build_root()) / f"astrollama_{hashlib.sha256(own.encode()).hexdigest()[:12]}"


def use_extensions_folder() -> Path:
    """The folder, told to torch and to what this process starts; before the first op is loaded."""
    folder = extensions_folder()
    os.environ["TORCH_EXTENSIONS_DIR"] = str(folder)
    return folder


def is_built(op: str) -> bool:
    """Whether an op of DeepSpeed's has been built on this machine."""
    folder = extensions_folder()
    return any(there for where in (f"{op}/{op}.so", f"*/{op}/{op}.so") for there in folder.glob(where))


def building(op: str) -> str:
    """What to say while it is built."""
    return f"building DeepSpeed's C++ op {op}"


def clear_stale(folder: Path, one_node: bool) -> list[Path]:
    """Remove locks that nobody holds; returns them. Arguments as in `stale`."""
    removed = []
    for lock in stale(folder, one_node):
        try:
            lock.unlink()
            removed.append(lock)
        except FileNotFoundError:
            continue  # another rank was faster
    return removed


def stale(folder: Path, one_node: bool) -> Iterator[Path]:
    """Locks that nobody holds, each at the moment it was seen so.

    Args:
        one_node: whether all ranks are on this machine; if not, a lock nobody here holds may be held on another node,
            and is left alone until it is old.
    """
    locks = {lock: state for lock in folder.glob("**/lock") if (state := _state(lock))}
    if not locks:
        return
    held = _open_files()
    for lock, seen in locks.items():
        try:
            age = time.time() - lock.stat().st_mtime
            if _state(lock) != seen:
                continue  # given back and taken again while the files were looked at: its holder was not among them
            if os.path.realpath(lock) not in held and (one_node or age > ELSEWHERE_SECONDS):
                yield lock
        except FileNotFoundError:
            continue  # its holder is done


def _state(lock: Path) -> tuple[int, int] | None:
    """Which file of this name it is; None when there is none."""
    try:
        found = lock.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _open_files() -> set[str]:
    """Paths that processes of this machine have open, as far as this user may see."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            numbers = os.listdir(folder)
        except (PermissionError, FileNotFoundError, ProcessLookupError):
            continue
        for number in numbers:
            try:
                found.add(os.readlink(folder / number))
            except OSError:
                continue  # closed in the meantime
    return found
