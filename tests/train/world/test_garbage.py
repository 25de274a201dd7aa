import gc
import sys
import weakref

import pytest

from tests.made import processes
from train.world import garbage

CODE = """
import resource, sys
from train.world.garbage import keep_freed
kept = keep_freed()
import torch
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.empty(8 << 20).fill_(1.0)
before = faults()
for _ in range(20):
    torch.empty(8 << 20).fill_(1.0)
print(kept, faults() - before)
"""


class Knot:
    def __init__(self):
        self.me = self


def test_knots_are_collected_at_fixed_steps_and_never_between():
    with garbage.collected_by_hand():
        assert not gc.isenabled()
        knots = [weakref.ref(Knot()) for _ in range(5000)]
        for step in range(1, garbage.EVERY_STEPS):
            garbage.collect(step)
        assert all(k() is not None for k in knots)
        garbage.collect(garbage.EVERY_STEPS)
        assert all(k() is None for k in knots)
    assert gc.isenabled() and not gc.get_freeze_count()


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_a_buffer_taken_again_costs_no_page_faults():
    kept, faults = processes.run([sys.executable, "-c", CODE], check=True).stdout.split()
    if kept == "False":
        pytest.skip("this C library has no mallopt")
    assert int(faults) < 8192  # 20 buffers of 32 MiB have 163,840 pages
