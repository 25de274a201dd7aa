"""The processes a rank must not outlive: its launcher's, up to the command that a user typed or the ssh connection that began it.

rank → deepspeed.launcher.launch → deepspeed                 `deepspeed` dies without a word to launch.py, launch.py without one to its ranks
rank → deepspeed.launcher.launch → bash -c … → sshd …@notty  started from another node, over ssh
rank → torchrun;  rank → slurmstepd
"""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

COMMANDS = {"deepspeed", "ds", "torchrun", "astrollama", "slurmstepd", "mpirun", "mpiexec", "orted"}
TORCHRUN = {"torch.distributed.run", "torch.distributed.launch"}
MODULES = {"deepspeed.launcher.runner", "deepspeed.launcher.launch", *TORCHRUN}
NODE_LAUNCHER = "deepspeed.launcher.launch"
LOOKED_AT = 12  # wrappers between a rank and its launcher, at most


class Launcher:
    """The chain of parents as it was at the start; none where no launcher started this process (its shell may go, under nohup)."""

    def __init__(self, expected: bool = False) -> None:
        """expected: whether this process was started by deepspeed's launch.py or torchrun, as its environment says."""
        above = _ancestors(os.getpid(), LOOKED_AT)
        ours = max((i for i, pid in enumerate(above) if _is_launcher(_words(pid))), default=-1) + 1
        if ours and NODE_LAUNCHER in _words(above[ours - 1]):  # its runner is on another node: the connection stands for it
            ours = next((i + 1 for i, pid in enumerate(above) if i >= ours and _is_remote_session(_words(pid))), ours)
        self._chain = [os.getpid(), *above[:ours]]
        self._lost = expected and not ours  # it had gone before this process could ask to end with it
        # torchrun's agent passes on whatever ends it, and kills a while later
        self.repeats = any({"torchrun", *TORCHRUN} & {Path(w).name for w in _words(pid)[:8]} for pid in above[:ours])
        if ours:
            _die_with_parent()

    @property
    def parent_gone(self) -> bool:
        """Whether this process has been orphaned: nobody will kill it a while after a SIGTERM."""
        return len(self._chain) > 1 and os.getppid() != self._chain[1]

    @property
    def gone(self) -> bool:
        """Whether one of them has ended: its child has another parent then."""
        return (
            self._lost
            or any(_parent_of(child) not in (parent, None) for child, parent in zip(self._chain, self._chain[1:], strict=False))
            or any(_parent_of(pid) is None for pid in self._chain[1:])
        )


def _ancestors(pid: int, count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count and (parent := _parent_of(pid)):
        found.append(pid := parent)
    return found


def _is_launcher(words: list[str]) -> bool:
    # python -u -m deepspeed.launcher.launch …; python3 /…/bin/deepspeed …; not a script whose name has the word in it
    named = any(Path(word.rstrip(":")).name in COMMANDS for word in words[:2])
    return named or any(word in MODULES and words[i] == "-m" for i, word in enumerate(words[1:8]))


def _is_remote_session(words: list[str]) -> bool:
    return " ".join(words).startswith("sshd") and "@notty" in " ".join(words)


def _words(pid: int) -> list[str]:
    try:
        return [w for w in Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0") if w]
    except OSError:
        return []  # not Linux: the launcher's own care must do


def _parent_of(pid: int) -> int | None:
    try:
        # "pid (name) state ppid …"; the name may hold blanks and brackets
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
        return None if state in "ZX" else int(parent)
    except OSError:
        return None


def _die_with_parent() -> None:
    """Ask Linux for a SIGTERM when the parent dies, however it dies: launch.py orphans its ranks on SIGKILL."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        pass
