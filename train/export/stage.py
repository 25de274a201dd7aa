"""The folder aside in which an export grows: locked, resumable, renamed into place when it is whole.

OUT is made as `.OUT.export` beside it. `plan.json` in there says what is being made of what, and which files are finished, with
size and hash. The same command finds it again and keeps the finished files that are still what they were.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from train.export.source import ExportError
from train.world.places import sha256, sync

PLAN, RECORD = "plan.json", "export.json"
PARTIAL = ".part"


class Stage:
    """Held by one process at a time; `with Stage(out, request) as stage`.

    Args:
        request: what is made of what; another one starts over.
    Raises:
        ExportError: OUT exists, or another process makes it now.
    """

    def __init__(self, out: Path, request: dict[str, object]):
        self.out, self.folder = out, out.parent / f".{out.name}.export"
        self.request = json.loads(json.dumps(request))
        self.done: dict[str, tuple[int, str]] = {}
        out.parent.mkdir(parents=True, exist_ok=True)
        self._lock = self._take()
        self.was_another = False
        try:
            self._go_on()
        except BaseException:
            os.close(self._lock)
            raise

    def _take(self) -> int:
        while True:
            if self.out.exists() or self.out.is_symlink():
                raise ExportError(f"{self.out}: exists already; give another folder, or remove it first")
            self.folder.mkdir(exist_ok=True)
            held = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(held), os.stat(self.folder)):
                    return held
            except BlockingIOError:
                os.close(held)
                raise ExportError(f"{self.out}: another process makes it now; wait for it, or give another folder") from None
            except FileNotFoundError:
                pass
            os.close(held)  # published or removed between opening and locking: look again

    def _go_on(self) -> None:
        left = self._read(PLAN) or self._read(RECORD) or {}
        same = left.get("request") == self.request
        self.was_another = bool(left) and not same
        recorded = {n: (int(v["bytes"]), str(v["sha256"])) for n, v in left.get("files", {}).items()} if same else {}
        recorded = {n: v for n, v in recorded.items() if n.endswith(".safetensors")}  # the small ones are made anew
        with ThreadPoolExecutor(2) as pool:
            kept = pool.map(lambda item: _is(self.folder / item[0], *item[1]), recorded.items())
            self.done = {n: v for (n, v), good in zip(recorded.items(), kept, strict=True) if good}
        for path in self.folder.iterdir():
            if path.name not in self.done:
                path.unlink() if path.is_symlink() or not path.is_dir() else shutil.rmtree(path)
        self._write_plan()

    def _read(self, name: str) -> dict | None:
        try:
            found = json.loads((self.folder / name).read_text())
            return found if isinstance(found, dict) and isinstance(found.get("files"), dict) else None
        except (OSError, ValueError):
            return None

    def partial(self, name: str) -> Path:
        """Where a file is written before it is recorded."""
        return self.folder / (name + PARTIAL)

    def record(self, name: str, nbytes: int, digest: str) -> None:
        """A synced file is finished: it will be kept.

        The record is not synced, since that can cost as much as the file: it outlives a kill, and what is found after the machine
        itself went down is believed only as far as the hashes go.
        """
        os.rename(self.partial(name), self.folder / name)
        self.done[name] = (nbytes, digest)
        self._write_plan()

    def _write_plan(self) -> None:
        self._replace(PLAN, {"request": self.request, "files": _rows(self.done)})

    def _replace(self, name: str, content: dict, synced: bool = False) -> None:
        fresh = self.folder / f"{name}{PARTIAL}"
        fresh.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        if synced:
            sync(fresh)
        os.replace(fresh, self.folder / name)

    def publish(self, small: Iterable[str], record: dict[str, object]) -> None:
        """Sync and hash the small files, write export.json, make OUT appear."""
        files = dict(self.done)
        for name in small:
            sync(self.folder / name)
            files[name] = ((self.folder / name).stat().st_size, sha256(self.folder / name))
        self._replace(RECORD, {**record, "request": self.request, "files": _rows(files)}, synced=True)
        (self.folder / PLAN).unlink()
        sync(self.folder)
        if self.out.exists():  # made by somebody else meanwhile; a rename would replace an empty folder silently
            raise ExportError(f"{self.out}: appeared while the export was made; remove it and run the same command again")
        os.rename(self.folder, self.out)
        sync(self.out.parent)

    def discard(self) -> None:
        """Remove everything: what is here must not be gone on with."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)


def _rows(files: dict[str, tuple[int, str]]) -> dict[str, dict[str, object]]:
    return {n: {"bytes": b, "sha256": h} for n, (b, h) in sorted(files.items())}


def _is(path: Path, nbytes: int, digest: str) -> bool:
    try:
        return not path.is_symlink() and path.stat().st_size == nbytes and sha256(path) == digest
    except OSError:
        return False
