"""No start of ranks keeps memory of the machine after its end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.made.ranks import run_ranks
from train.world.ranks import World
from train.world.shared_memory import buffer_of


def _opened(world: World) -> tuple[bool, bool, float]:
    """Whether DeepSpeed's buffer is open here, whether its name is still there, and what the ranks add up to through it."""
    import faulthandler

    faulthandler.dump_traceback_later(50)
    import deepspeed.comm as comm
    import torch

    name = buffer_of(world.rank, os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"])
    world.barrier()
    total = torch.full((1000,), float(world.rank + 1))
    comm.inference_all_reduce(total)
    return str(name) in Path("/proc/self/maps").read_text(), name.exists(), float(total.sum())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="maps of a process are Linux's")
def test_the_ranks_use_deepspeeds_buffers_and_leave_none():
    assert run_ranks(_opened, 2) == [(True, False, 3000.0)] * 2
