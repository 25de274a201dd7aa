"""Real rank processes for a measurement, and what they can see of themselves: memory of their own, bytes read."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from train.recipe.load import ROOT
from train.recipe.vocabulary import Checkpoint, Data, Model, Optim, Recipe, Source


class BenchError(ValueError):
    """A measurement that could not be made, and why."""


def launch(module: str, job: dict[str, Any], ranks: int) -> dict[str, Any]:
    """`module.measure(job, world)` in `ranks` processes of this machine, by the deepspeed launcher; rank 0's result."""
    with tempfile.TemporaryDirectory() as folder:
        command, result, env = prepared(module, job, ranks, Path(folder))
        subprocess.run(command, env=env, stdout=sys.stderr, check=False)
        if not result.exists():
            raise BenchError(f"{ranks} ranks did not finish; the message of the first to fail stands above")
        found = json.loads(result.read_text())
        if "error" in found:
            raise BenchError(found["error"])
        return found


def prepared(module: str, job: dict[str, Any], ranks: int, folder: Path) -> tuple[list[str], Path, dict[str, str]]:
    """The command that measures in processes of their own, where it will leave rank 0's result or its error, and its environment.

    One rank is a plain process, several are started by the deepspeed launcher.
    """
    import torch

    from train.world.ranks import free_port

    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    if not torch.cuda.is_available():
        env = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // ranks))} | env
    path = folder / "job.json"
    path.write_text(json.dumps({"module": module, "job": job, "result": f"{folder}/result.json"}))
    own = ["-m", "train.benchmark.ranks", str(path)]
    words = ["--num_gpus", str(ranks), "--master_port", str(free_port()), "--module", "train.benchmark.ranks", str(path)]
    return [sys.executable, *(own if ranks == 1 else ["-m", "deepspeed.launcher.runner", *words])], folder / "result.json", env


def small_recipe(job: dict[str, Any], world: Any) -> Recipe:
    """A run of one step of a row of 128 tokens a rank, for a job with `folder`, `dtype` and `deepspeed`."""
    on_cuda = world.device.type == "cuda"
    return Recipe(
        name="benchmark", steps=1, tokens_per_step=128 * world.size, micro_batch=1, model=Model(path=job["folder"], dtype=job["dtype"]),
        data=Data(sources={"made": Source(path=Path("made"))}, seq_len=128), optim=Optim(kernel="auto"), checkpoint=Checkpoint(),
        deepspeed=Path(job["deepspeed"] or ("ds_configs/zero3.json" if on_cuda else "ds_configs/cpu.json")),
    )  # fmt: skip


class Watch:
    """Memory that is this process's alone, sampled by a thread; `peak` is the largest seen, in bytes.

    `characters`: what looking has read itself.
    """

    def __init__(self, every_seconds: float = 0.02) -> None:
        self.peak, self.characters = own_memory(), 0
        self._every, self._over = every_seconds, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while not self._over.wait(self._every):
            self._look()

    def _look(self) -> None:
        text = _rollup()
        self.peak, self.characters = max(self.peak, _own(text)), self.characters + len(text)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._look()


def own_memory() -> int:
    """Bytes of memory no other process shares (USS)."""
    return _own(_rollup())


def _rollup() -> str:
    return Path("/proc/self/smaps_rollup").read_text()


def _own(text: str) -> int:
    return 1024 * sum(int(n) for n in re.findall(r"^Private_\w+:\s+(\d+) kB", text, re.MULTILINE))


def bytes_read() -> int:
    """What this process has read by system calls so far; memory-mapped files do not count."""
    return int(re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())[1])


def timed(action: Callable[[], Any], world: Any) -> tuple[float, Any]:
    """Seconds until the last rank is through, and what the action gave."""
    world.barrier()
    begun = time.perf_counter()
    value = action()
    world.barrier()
    return time.perf_counter() - begun, value


def give_back() -> None:
    """Freed memory that the C library keeps for later goes back, so that what is held can be told from what was used."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def main(argv: list[str]) -> int:
    """One rank of `launch`: `--local_rank=N JOB`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--local_rank", type=int, default=0)
    parser.add_argument("job", type=Path)
    args = parser.parse_args(argv)
    from train.world.ranks import World

    given = json.loads(args.job.read_text())
    world = World.from_env()
    world.connect(1800)
    try:
        result = importlib.import_module(given["module"]).measure(given["job"], world)
    except ValueError as error:
        if not type(error).__module__.startswith(("train.", "data_tools.")):
            raise
        world.log0(str(error))
        if world.rank == 0:
            Path(given["result"]).write_text(json.dumps({"error": str(error)}))
        return 1
    if world.rank == 0:
        Path(given["result"]).write_text(json.dumps(result))
    import torch.distributed as dist

    world.barrier()
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
