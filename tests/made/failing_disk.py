"""A disk that fails, or whose rank dies, at the n-th thing it does below a folder: mkdir, write, sync, rename."""

import os
import signal
import threading
from pathlib import Path

from train.model_files import writer as safetensors_writer


class FailingDisk:
    """Counts what this process does to files below `root`; at number `at` it calls `action`.

    Stands before the standard library's calls and the one place where weights go to a file, so the product has no hole for it.
    """

    def __init__(self, root: Path, at: int | None = None, action=None):
        self.root, self.at, self.action, self.count = str(root), at, action, 0
        self._lock = threading.Lock()

    def __enter__(self):
        self._kept = [(owner, name, getattr(owner, name)) for owner, name in (
            (safetensors_writer.Writer, "_put"), (Path, "write_bytes"), (Path, "mkdir"), (os, "fsync"), (os, "rename"), (os, "replace"),
        )]  # fmt: skip
        for owner, name, original in self._kept:
            setattr(owner, name, self._standing_before(original, name))
        return self

    def __exit__(self, *_):
        for owner, name, original in self._kept:
            setattr(owner, name, original)

    def _standing_before(self, original, name):
        disk = self

        def call(first, *rest, **named):
            path = {"_put": lambda: first.path, "fsync": lambda: os.readlink(f"/proc/self/fd/{first}")}.get(name, lambda: first)()
            if str(path).startswith(disk.root):
                disk._tick(str(path))
            return original(first, *rest, **named)

        return call

    def _tick(self, path: str):
        with self._lock:
            self.count += 1
            now = self.count
        if now == self.at:
            self.action(path)


def fails_with(number: int):
    def action(path: str):
        raise OSError(number, os.strerror(number), path)

    return action


def dies(delay: float = 0.0):
    """SIGKILL of this process, at once or a little later."""

    def action(_: str):
        if delay:
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    return action
