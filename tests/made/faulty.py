"""`launch/pretrain.py` in which one rank misbehaves: FAULT="rank step phase what" in the environment says which, when, where and how.

Nothing of ours is replaced: DeepSpeed's engine is, where the phases forward, backward and optimizer are, and a future's result for data.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])


def _segfault() -> None:
    import ctypes

    ctypes.string_at(0)


def _raise() -> None:
    raise TypeError("unsupported operand: a fault of the program, put in by a test")


def _out_of_memory() -> None:
    import torch

    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.15 GiB of which 11.31 MiB is free. Process 1 has 79 GiB."
    )


def _deadlock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def _spin() -> None:
    while True:
        pass


def not_a_number() -> None:
    """Every forward's loss from the step on."""


def _data_thread() -> None:
    """What a worker of the loader hands over where it has failed."""
    raise OSError(5, "Input/output error", "shards/000.bin")


WHAT = {
    "data thread": _data_thread,
    "nan": not_a_number,
    "raise": _raise,
    "out of memory": _out_of_memory,
    "exit": lambda: sys.exit(0),
    "exit at once": lambda: os._exit(0),
    "exit 3": lambda: os._exit(3),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "segfault": _segfault,
    "deadlock": _deadlock,
    "spin": _spin,
}


def misbehave(step: int, phase: str, what: Callable[[], None]) -> None:
    from concurrent.futures import Future

    from deepspeed.runtime.engine import DeepSpeedEngine

    at = [1]
    holders = {"forward": (DeepSpeedEngine, "forward"), "backward": (DeepSpeedEngine, "backward"), "optimizer": (DeepSpeedEngine, "step")}
    holder, name = holders.get(phase, (Future, "result"))
    right, ends = getattr(holder, name), DeepSpeedEngine.step

    def wrong(*args, **options):
        if at[0] >= step and what is not_a_number:
            loss, *rest = right(*args, **options)
            return loss * float("nan"), *rest
        if at[0] == step and threading.current_thread() is threading.main_thread():
            what()
        return right(*args, **options)

    def counted(*args, **options):
        result = (wrong if phase == "optimizer" else ends)(*args, **options)
        at[0] += 1
        return result

    setattr(holder, name, wrong)
    DeepSpeedEngine.step = counted


def door_that_obeys(file: str) -> int:
    """The door; what a file asks for while it runs (`rank phase what`) is done in that phase of the next step, and the file is gone."""
    from deepspeed.runtime.engine import DeepSpeedEngine

    from launch.pretrain import main

    def obeying(right: Callable, here: str) -> Callable:
        def call(*args: object, **options: object) -> object:
            if os.path.exists(file):
                rank, phase, what = Path(file).read_text().split(" ", 2)
                if (rank, phase) == (os.environ["RANK"], here):
                    os.unlink(file)
                    WHAT[what]()
            return right(*args, **options)

        return call

    for name, phase in (("forward", "forward"), ("backward", "backward"), ("step", "optimizer")):
        setattr(DeepSpeedEngine, name, obeying(getattr(DeepSpeedEngine, name), phase))
    return main()


if __name__ == "__main__":
    from launch.pretrain import main

    rank, step, phase, what = os.environ["FAULT"].split(" ", 3)
    if rank == os.environ.get("RANK", "0"):
        misbehave(int(step), phase, WHAT[what])
    sys.exit(main())
