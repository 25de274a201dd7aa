"""What Linux tells of a process and its host, without being its parent: state, exit status, processor time, memory, how it was started.

Where there is no /proc every answer is the one that accuses nobody.
"""

from __future__ import annotations

import os
import re
import signal
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
STARTERS = ("python", "deepspeed", "torchrun", "srun", "mpirun")  # not shells, timeout, nohup: what they start is meant

_INFO, _INFO_EXIT, _GET_INFO = struct.Struct("<QQ11Ii"), 1 << 3, 0xC040FF0B  # linux/pidfd.h: PIDFD_GET_INFO
_FATAL = {
    "Segmentation fault": signal.SIGSEGV, "Aborted": signal.SIGABRT, "Bus error": signal.SIGBUS, "Illegal instruction": signal.SIGILL,
    "Floating": signal.SIGFPE,
}  # fmt: skip


@dataclass(frozen=True)
class Process:
    """As /proc/PID/stat has it. state: R runs, S sleeps, D waits for a disk, T stopped, Z dead and not yet asked about, X gone."""

    state: str
    parent: int = 0
    cpu_seconds: float = 0.0
    exit_status: int | None = None  # as wait() gives it; of a dead process only

    @property
    def dead(self) -> bool:
        return self.state in "ZX"


GONE = Process("X")


def look(pid: int) -> Process:
    try:
        # "pid (name) state ppid …"; the name may hold blanks and brackets
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return GONE if os.path.isdir("/proc/self") or not _exists(pid) else Process("R")
    status = int(words[49]) if words[0] in "ZX" and len(words) > 49 else None
    return Process(words[0], int(words[1]), (int(words[11]) + int(words[12])) / _TICKS, status)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def thread_states(pid: int) -> set[str]:
    """The states its threads are in."""
    found = set()
    for file in Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            found.add(file.read_text().rpartition(")")[2].split()[0])
        except (OSError, IndexError):
            continue  # ended meanwhile
    return found


def bytes_moved(pid: int) -> int:
    """Read from and written to files and pipes so far."""
    try:
        lines = [line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines()]
        return sum(int(count) for name, count in lines if name in ("rchar", "wchar"))
    except (OSError, ValueError):
        return 0


def cpu_seconds_of_children(pid: int) -> float:
    """Processor time of all that a process has started and that still runs, such as a compiler's."""
    total, waiting = 0.0, [pid]
    while waiting:
        for file in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            try:
                children = [int(word) for word in file.read_text().split()]
            except OSError:
                continue
            total += sum(look(child).cpu_seconds for child in children if child != os.getpid())
            waiting += [child for child in children if child != os.getpid()]
    return total


def exit_status(pidfd: int) -> int | None:
    """As wait() gives it, of a dead process whose launcher has asked already: Linux keeps it from 6.15 on; None where it does not."""
    import fcntl

    info = bytearray(_INFO.pack(_INFO_EXIT, *[0] * 13))
    try:
        fcntl.ioctl(pidfd, _GET_INFO, info)
    except OSError:
        return None
    mask, *_, status = _INFO.unpack(info)
    return status if mask & _INFO_EXIT else None


def status_of_fatal(text: str) -> int | None:
    """From what faulthandler wrote as a process died of a signal: its exit status; None where it wrote nothing."""
    found = re.search(r"^Fatal Python error: (.*)$", text, re.MULTILINE)
    return next((number for words, number in _FATAL.items() if found and words in found[1]), None)


def how_it_ended(status: int | None) -> str:
    """`killed by SIGKILL`, `exit code 3`: an exit status in words."""
    if status is None:  # what else ends a process leaves a word (heartbeat.py)
        return "killed by SIGKILL, as far as can be told: it left no word, and its launcher took the exit status"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return f"killed by {signal.Signals(number).name if number in set(signal.Signals) else f'signal {number}'}"
    return f"ended with exit code {os.WEXITSTATUS(status)} before the run did"


def deny_success(launcher: int) -> None:
    """A rank that left with exit code 0 in the middle of a run lets its launcher report success: end the launcher, if it is one."""
    try:
        words = Path(f"/proc/{launcher}/cmdline").read_bytes()
        if any(name in words for name in (b"deepspeed.launcher.launch", b"torchrun", b"torch.distributed.run")):
            os.kill(launcher, signal.SIGTERM)
    except OSError:
        return


def out_of_memory_kills() -> int:
    """How many processes the kernel has killed for memory: on this host, and in this container."""
    files = [Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events")]
    try:
        own = Path("/proc/self/cgroup").read_text().rpartition("::")[2].strip()
        files.append(Path("/sys/fs/cgroup") / own.lstrip("/") / "memory.events")
    except OSError:
        pass
    count = 0
    for file in dict.fromkeys(files):
        try:
            lines = [line.split() for line in file.read_text().splitlines()]
        except OSError:
            continue
        count += sum(int(line[1]) for line in lines if len(line) == 2 and line[0] == "oom_kill")
    return count


def memory_gib() -> tuple[float, float] | None:
    """Free for programs, and in all, of this host."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return tuple(int(lines[name].split()[0]) / 2**20 for name in ("MemAvailable", "MemTotal"))
    except (OSError, KeyError, ValueError):
        return None


def command_of(script: str, own: list[str], env: Mapping[str, str]) -> list[str]:
    """The command a person gave: the outermost forebear of this process that names the script among its words, else `own`.

    Over ssh and under srun that command is no forebear, maybe on another host: what starts the same ranks again, as far as is known here.
    """
    given, pid, over_ssh = own, os.getppid(), False
    while pid > 1:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
        except OSError:
            break
        if script in words and "deepspeed.launcher.launch" in words:
            over_ssh = True
        elif script in words and Path(words[0]).name.startswith(STARTERS):
            given = words
        pid = look(pid).parent
    if given is own and over_ssh:
        return ["deepspeed", "--hostfile", "HOSTFILE", *own[1:]]
    if given is own and (tasks := srun_tasks(env)):
        return ["srun", *tasks, *own]
    # "python /usr/bin/deepspeed …" was typed as "deepspeed …"
    if len(given) > 1 and Path(given[0]).name.startswith("python") and Path(given[1]).name in ("deepspeed", "torchrun"):
        given = given[1:]
    return [Path(given[0]).name, *given[1:]]


def srun_tasks(env: Mapping[str, str]) -> list[str]:
    """What srun was told of nodes and tasks, in the words of its options; empty where it did not start several."""
    if env.get("SLURM_STEP_NUM_TASKS", "1") == "1":
        return []
    return [
        f"--{option}={env[name]}" for option, name in (("nodes", "SLURM_STEP_NUM_NODES"), ("ntasks", "SLURM_STEP_NUM_TASKS")) if name in env
    ]
