"""Files that are whole or not there, also after a power cut, and their hashes."""

import errno
import hashlib
import os
import tempfile
from pathlib import Path


def sha256_file(path: Path) -> str:
    """sha256 (hex), by plain reads: a mapped file that shrinks meanwhile would end the process."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(2**20))
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(buffer):
            digest.update(buffer[:size])
    return digest.hexdigest()


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Write aside, sync, rename, sync the folder: `path` is whole or not there, also after a power cut."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    sync(path.parent)


def write_fault(path: Path) -> str:
    """Why a file could not be written at that place, or appended to, in the system's words; "" when it could. Leaves nothing there.

    To be asked before long work whose result goes there: permissions alone do not tell.
    """
    there = Path(os.path.abspath(path))
    try:
        if there.is_dir():
            return os.strerror(errno.EISDIR)
        if there.exists():
            open(there, "ab").close()
        while not there.is_dir():
            there = there.parent
            if there.exists() and not there.is_dir():
                return f"{there} is a file"
        with tempfile.TemporaryFile(dir=there, buffering=0) as trial:
            trial.write(bytes(4096))
    except OSError as error:
        return error.strerror or str(error)
    return ""


def sync(path: Path) -> None:
    """A file's bytes, or a rename in a folder, hold also after a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
