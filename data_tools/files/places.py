"""Files here or wherever fsspec reaches (s3://, gs://, hf://, file:// …): whether they are there, in which state, with which hash."""

import glob
import hashlib
import os
from pathlib import Path
from typing import Any


class PlaceError(ValueError):
    """A file or folder that is not there or cannot be read to its end."""


def is_remote(path: str) -> bool:
    return "://" in path


def filesystem(path: str) -> tuple[Any, str]:
    """fsspec's filesystem and the path in it. Raises PlaceError when the package for such URLs is missing.

    A path without :// is one of this machine, whatever signs are in it; fsspec would take `::` for a chain of places.
    """
    from fsspec.core import url_to_fs

    if not is_remote(path):
        from fsspec.implementations.local import LocalFileSystem

        return LocalFileSystem(), os.path.abspath(path if os.path.exists(path) else os.path.expanduser(path)).replace(os.sep, "/")
    try:
        return url_to_fs(path)
    except (ImportError, ValueError) as error:
        raise PlaceError(f"{path}: {error}") from None


def is_local(fs: Any) -> bool:
    return "file" in (fs.protocol if isinstance(fs.protocol, (tuple, list)) else (fs.protocol,))


def matches(pattern: str) -> list[str]:
    """Local paths that a pattern means, by name; what exists is meant as it is written, and so are the folders that do: `data[1]/*.gz`."""
    if os.path.exists(pattern):
        return [pattern]
    parts = Path(pattern).parts
    for count in range(len(parts) - 1, 0, -1):
        folder = str(Path(*parts[:count]))
        if os.path.isdir(folder):
            return sorted(glob.glob(os.path.join(glob.escape(folder), *parts[count:]), recursive=True))
    return sorted(glob.glob(pattern, recursive=True))


def describe(path: str) -> dict[str, Any]:
    """What tells one state of a file from another without reading it."""
    fs, inner = filesystem(path)
    info = fs.info(inner)
    return {"path": path, "bytes": info["size"], "state": str(info.get("mtime") or info.get("ETag") or info.get("LastModified") or "")}


def state_of(path: str) -> dict[str, Any]:
    """What changes with a file, without reading it: time or tag. Nothing for what is no file, as the name of a Hub set."""
    if is_remote(path):
        return {"state": describe(path)["state"]}
    return {"mtime_ns": Path(path).stat().st_mtime_ns} if Path(path).exists() else {}


def content_hash(path: str) -> str | None:
    """sha256 (hex) of a file; None for what is no file, as the name of a Hub set."""
    return sha256_of(path) if is_remote(path) or Path(path).is_file() else None


def sha256_of(path: str) -> str:
    fs, inner = filesystem(path)
    digest = hashlib.sha256()
    with fs.open(inner, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
