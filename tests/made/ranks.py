"""Real ranks on one machine: `run_ranks(function, 2, ...)` runs a module-level function in that many processes over gloo.

Processes are forked from a server that has imported torch, deepspeed and transformers once, so a launch costs a second, not twenty.
On CUDA that server may only ask NVML for devices: a process whose parent has asked the driver finds none.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import sys
import time
import traceback
from collections.abc import Callable
from importlib.util import find_spec
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from tests.made import processes

ON_CUDA = os.environ.get("DS_ACCELERATOR") == "cuda"


def _way() -> str:
    """Forked, unless it takes CUDA itself to tell the server that there are GPUs: what it then forks could not use them."""
    if ON_CUDA:
        import torch

        return "forkserver" if torch.cuda._device_count_nvml() > 0 else "spawn"
    return "forkserver"


_context: Any = multiprocessing.get_context(_way())
if _context.get_start_method() == "forkserver":
    _context.set_forkserver_preload(["tests.made.preload"])


class RankFailed(AssertionError):
    """A rank raised; holds its traceback."""


def start_server() -> None:
    """Begin its imports; the first ranks would start it too, and wait."""
    if _context.get_start_method() == "forkserver":
        forkserver.ensure_running()


def compile_ops() -> None:
    """What DeepSpeed compiles at its first start on a machine, which takes longer than one test has."""
    if not ON_CUDA and not _compiled():  # a GPU's Adam is torch's own
        print("compiling DeepSpeed's C++ ops, once on this machine: a minute or two", file=sys.__stderr__, flush=True)
        processes.run([sys.executable, "-c", COMPILE], seconds=1200, check=True)


OPS = ("deepspeed_shm_comm", "cpu_adam", "fused_adam")
COMPILE = """
from deepspeed.ops.op_builder.cpu import CPUAdamBuilder, FusedAdamBuilder, ShareMemCommBuilder
from train.world.jit_lock import clear_stale, use_extensions_folder
clear_stale(use_extensions_folder(), one_node=True)
for builder in (ShareMemCommBuilder, CPUAdamBuilder, FusedAdamBuilder):
    builder().load(verbose=False)
"""


def _compiled() -> bool:
    """Whether all OPS are there, compiled from the DeepSpeed that is installed here."""
    from train.world.jit_lock import extensions_folder

    package = Path(find_spec("deepspeed").origin).parent
    for op in OPS:
        made = [so for so in extensions_folder().glob(f"**/{op}/{op}.so") if so.stat().st_mtime > package.stat().st_mtime]
        if not any(str(package) in (so.parent / "build.ninja").read_text() for so in made):
            return False
    return True


def run_ranks(function: Callable[..., Any], size: int, *args: Any, seconds: float = processes.SECONDS) -> list[Any]:
    """What the function returned on each rank, in rank order; the function gets a connected World first.

    Raises:
        RankFailed: with the first failing rank's traceback; the other ranks are killed.
    """
    processes.check_allowed()
    port = processes.free_port()
    results: Any = _context.Queue()
    ranks = [_context.Process(target=_one_rank, args=(function, r, size, port, results, args), daemon=True) for r in range(size)]
    got: dict[int, Any] = {}
    deadline = time.monotonic() + seconds
    try:
        for p in ranks:
            p.start()
        while len(got) < size:
            try:
                rank, ok, value = results.get(timeout=0.5)
            except queue.Empty:
                dead = [r for r, p in enumerate(ranks) if p.exitcode not in (None, 0) and r not in got]
                if dead and results.empty():
                    raise RankFailed(f"rank {dead[0]} ended with exit code {ranks[dead[0]].exitcode}") from None
                if time.monotonic() > deadline:
                    raise RankFailed(f"ranks {sorted(set(range(size)) - set(got))} did not end within {seconds:g} s") from None
                continue
            if not ok:
                raise RankFailed(f"rank {rank} raised\n{value}")
            got[rank] = pickle.loads(value)
    finally:
        for p in ranks:
            if p.pid is None:
                continue
            if len(got) == size:
                p.join(timeout=20)
            p.kill()
            p.join(timeout=20)
    return [got[r] for r in range(size)]


def exit_codes(function: Callable[..., Any], size: int, *args: Any, seconds: float = processes.SECONDS) -> list[int]:
    """How each rank's process ended (negative: by that signal) when the function was called on it; what it returns or raises is not looked at.

    Raises:
        RankFailed: some are still there; they are killed.
    """
    processes.check_allowed()
    port = processes.free_port()
    ranks = [_context.Process(target=_one_rank_alone, args=(function, r, size, port, args), daemon=True) for r in range(size)]
    deadline = time.monotonic() + seconds
    try:
        for p in ranks:
            p.start()
        for p in ranks:
            p.join(max(0.0, deadline - time.monotonic()))
        if left := [r for r, p in enumerate(ranks) if p.exitcode is None]:
            raise RankFailed(f"ranks {left} did not end within {seconds:g} s")
        return [p.exitcode for p in ranks]
    finally:
        for p in (p for p in ranks if p.pid is not None):
            p.kill()
            p.join(timeout=20)


def _one_rank_alone(function: Callable[..., Any], rank: int, size: int, port: int, args: tuple) -> None:
    try:
        function(enter_world(rank, size, port), *args)
    except BaseException:
        os._exit(1)
    os._exit(0)


def enter_world(rank: int, size: int, port: int) -> Any:
    """A connected World in this process."""
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(size), LOCAL_SIZE=str(size), MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port), DS_ACCELERATOR=os.environ.get("DS_ACCELERATOR", "cpu"), OMP_NUM_THREADS="1",
    )  # fmt: skip
    import torch

    from train.world.ranks import World

    torch.set_num_threads(1)
    world = World.from_env()
    world.connect(120)
    return world


def _one_rank(function: Callable[..., Any], rank: int, size: int, port: int, results: Any, args: tuple) -> None:
    import torch.distributed as dist

    try:
        world = enter_world(rank, size, port)
        value = function(world, *args)
        results.put((rank, True, pickle.dumps(value)))  # bytes: a tensor would travel as a handle that dies with its process
        results.close()
        results.join_thread()
        if size > 1:
            dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        results.put((rank, False, traceback.format_exc()))
        results.close()
        results.join_thread()
        os._exit(1)
