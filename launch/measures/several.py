"""`--processes N`: this command in N processes of this machine, that meet as a launcher's ranks do; when one fails, all end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHILD = "ASTROLLAMA_EVALUATE_CHILD"
GRACE_SECONDS = 10.0  # for rank 0 to say itself what all have found


def is_child() -> bool:
    """Whether this process is one of several that `children` has started."""
    return CHILD in os.environ


def children(words: list[str], count: int) -> int:
    """Exit status: 0 when all have ended well, else that of the first that did not."""
    from train.world.ranks import free_port

    threads = str(max(1, (os.cpu_count() or count) // count))
    shared = os.environ | {
        CHILD: "1", "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads), "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
    }  # fmt: skip
    command = [sys.executable, "-m", "launch.evaluate", *words]
    before = signal.signal(signal.SIGTERM, _raise)
    ranks: list[subprocess.Popen] = []
    with tempfile.TemporaryDirectory() as folder:
        said = [Path(folder) / f"{rank}" for rank in range(count)]
        try:
            for rank in range(count):
                errors = None if rank == 0 else said[rank].open("wb")  # rank 0 speaks for all
                environment = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                ranks.append(subprocess.Popen(command, env=environment, stderr=errors, preexec_fn=_end_with_parent))
            return _status(ranks, said)
        finally:
            for process in ranks:
                process.kill()
            for process in ranks:
                process.wait()
            signal.signal(signal.SIGTERM, before)


def _status(ranks: list[subprocess.Popen], said: list[Path]) -> int:
    while any(one.poll() is None for one in ranks) and not any(one.poll() for one in ranks):
        time.sleep(0.05)
    failed = [rank for rank, one in enumerate(ranks) if one.poll()]
    if not failed:
        return 0
    code = ranks[failed[0]].returncode
    told = False
    if code > 0:  # a mistake that all may have found
        with contextlib.suppress(subprocess.TimeoutExpired):
            told = ranks[0].wait(GRACE_SECONDS) > 0
    if not told:
        how = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
        print(f"error: process {failed[0]} of {len(ranks)} {how}; the same command goes on where it was", file=sys.stderr)
    if not told and failed[0]:
        print(said[failed[0]].read_text(errors="replace").strip()[-4000:], file=sys.stderr, flush=True)
    return code if code > 0 else 1


def _raise(number: int, _: object) -> None:
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    """However this process's parent ends."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        pass
