"""`launch/pretrain.py` in which a rank misbehaves when a file asks for it: `rank phase what`, done in that phase of its next step.

Nothing of ours is replaced: DeepSpeed's engine is, where the phases forward, backward and optimizer are, and a future's result for data.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from tests.made.where import ROOT

DOOR = 'import sys\nsys.path.insert(0, "{root}")\nfrom tests.made import faulty\nsys.exit(faulty.main("{file}"))\n'


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


HELD: list[object] = []


def _fill_device() -> None:
    """All memory of the device that this process may have is taken: what it asks for next is not there."""
    import torch

    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(torch.cuda.memory_reserved() / torch.cuda.get_device_properties(0).total_memory)
    size = 1 << 30
    while size >= 512:
        try:
            HELD.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
        except torch.OutOfMemoryError:
            size //= 2


def _deadlock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def _spin() -> None:
    while True:
        pass


def _data_thread() -> None:
    """What a worker of the loader hands over where it has failed."""
    raise OSError(5, "Input/output error", "shards/000.bin")


WHAT = {
    "data thread": _data_thread,
    "raise": _raise,
    "out of memory": _out_of_memory,
    "fill device": _fill_device,
    "exit": lambda: sys.exit(0),
    "exit at once": lambda: os._exit(0),
    "exit 3": lambda: os._exit(3),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "segfault": _segfault,
    "deadlock": _deadlock,
    "spin": _spin,
}
NAN = "nan"  # every forward's loss from then on


def order(file: Path, rank: int, phase: str, what: str) -> None:
    """Have it done; the file is gone when it is."""
    new = file.with_suffix(".new")
    new.write_text(f"{rank} {phase} {what}")
    new.rename(file)


def door(folder: Path, file: Path) -> Path:
    """`launch/pretrain.py` as users have it, but that it does what the file asks for."""
    made = folder / "launch" / "pretrain.py"
    made.parent.mkdir(exist_ok=True)
    made.write_text(DOOR.format(root=ROOT, file=file))
    return made


def main(file: str) -> int:
    from concurrent.futures import Future

    from deepspeed.runtime.engine import DeepSpeedEngine

    from launch.pretrain import main

    own = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
    not_a_number = False

    def obeying(right: Callable, here: str) -> Callable:
        def call(*args: object, **options: object) -> object:
            nonlocal not_a_number
            if os.path.exists(file) and threading.current_thread() is threading.main_thread():
                rank, phase, what = Path(file).read_text().split(" ", 2)
                if (rank, phase) == (own, here):
                    os.unlink(file)
                    if what == NAN:
                        not_a_number = True
                    else:
                        WHAT[what]()
            if not_a_number and here == "forward":
                loss, *rest = right(*args, **options)
                return loss * float("nan"), *rest
            return right(*args, **options)

        return call

    for holder, name, phase in (
        (DeepSpeedEngine, "forward", "forward"), (DeepSpeedEngine, "backward", "backward"), (DeepSpeedEngine, "step", "optimizer"), (Future, "result", "data"),
    ):  # fmt: skip
        setattr(holder, name, obeying(getattr(holder, name), phase))
    return main()
