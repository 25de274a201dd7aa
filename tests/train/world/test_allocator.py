"""Freed memory stays with the process."""

import subprocess
import sys

import pytest

CODE = """
import resource, sys
from train.world.allocator import keep_freed
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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_a_buffer_taken_again_costs_no_page_faults():
    kept, faults = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout.split()
    if kept == "False":
        pytest.skip("this C library has no mallopt")
    assert int(faults) < 8192  # 20 buffers of 32 MiB have 163,840 pages
