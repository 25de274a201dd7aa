"""Where checkpoints lie: folders on disk, or on an object store (`s3://…` and whatever else fsspec opens).

`place` makes a path of either kind with pathlib's interface. A disk renames a finished folder into place; an object store
cannot rename, so there a folder counts only when its manifest, written last, is there.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from train.world.ranks import World


class PlaceError(ValueError):
    """A place that cannot be reached, and what is missing for it."""


def place(word: str | Path) -> Path:
    """A local path, or a universal_pathlib one for a URL; listings are never cached, since other ranks write there too.

    Raises:
        PlaceError: the packages for a URL are not installed.
    """
    if "://" not in str(word):
        return Path(word)
    try:
        from upath import UPath

        found = UPath(str(word), use_listings_cache=False)
        found.fs  # noqa: B018 - imports the store's package
        return Path(found.path) if found.protocol in ("file", "local") else found
    except (ImportError, ValueError) as error:
        raise PlaceError(
            f"{word}: cannot be opened ({error}); object stores need pip install -e '.[s3]', or the fsspec package of that store"
        ) from None


def is_remote(path: Path) -> bool:
    return not isinstance(path, Path)


def resolved(path: Path) -> Path:
    """Without links, which a store does not have."""
    return path if is_remote(path) else path.resolve()


@contextmanager
def as_os_errors(path: Path) -> Iterator[None]:
    """Whatever a store's client raises comes out as OSError, so that ranks can agree on it."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if not is_remote(path) or type(error).__module__.startswith("train."):
            raise
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}", str(path)) from error


def write_small(path: Path, content: bytes) -> tuple[int, str]:
    """Write a small file whole and synced; returns (bytes, sha256)."""
    path.write_bytes(content)
    if not is_remote(path):
        sync(path)
    return len(content), hashlib.sha256(content).hexdigest()


def write_durably(path: Path, content: str | bytes) -> None:
    """Replace a small file atomically, synced. A put on an object store is atomic as it is."""
    content = content.encode() if isinstance(content, str) else content
    if is_remote(path):
        path.write_bytes(content)
        return
    tmp = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        tmp.write_bytes(content)
        sync(tmp)
        os.replace(tmp, path)
    finally:
        tmp.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def open_for_reading(path: Path) -> BinaryIO:
    """Unbuffered where that can be asked for."""
    return path.open("rb") if is_remote(path) else path.open("rb", buffering=0)


def free_bytes(path: Path) -> int | None:
    """None where there is no such limit."""
    return None if is_remote(path) else shutil.disk_usage(path).free


def local_copy(folder: Path, names: Iterable[str], into: Path, world: World) -> Path:
    """A folder below `into` with the named small files of another one, and no older copy; names that are not there are left out."""

    def fetch() -> None:
        copy.mkdir(parents=True, exist_ok=True)
        for older in into.iterdir():
            if older != copy:
                shutil.rmtree(older, ignore_errors=True)
        for name in names:
            if (folder / name).is_file():
                (copy / name).parent.mkdir(exist_ok=True)
                write_durably(copy / name, (folder / name).read_bytes())

    copy = into / folder.name
    if world.local_rank == 0:
        fetch()
    world.barrier()
    return copy


def remove(folder: Path, first: str) -> None:
    """Delete a folder so that it stops counting at once: on a disk it is renamed first, on a store the file `first` goes first."""
    if not is_remote(folder):
        gone = folder.with_name(f"{folder.name}.tmp-deleted")
        os.rename(folder, gone)
        shutil.rmtree(gone)
        return
    if (folder / first).is_file():
        (folder / first).unlink()
    folder.fs.rm(folder.path, recursive=True)
