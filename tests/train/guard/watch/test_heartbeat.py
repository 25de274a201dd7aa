"""What an error that has no message of its own is called to the user."""

import re

import pytest

from train.guard.watch.heartbeat import cause_of


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        ValueError("NCCL error in: ProcessGroupNCCL.cpp:1, unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'"),
    ],
)
def test_no_memory_on_the_device_has_one_remedy_whatever_library_asked_for_it(error):
    told = cause_of(error)
    assert re.search(r"out of memory|ALLOC_FAILED", told) and "Lower micro_batch or data.seq_len" in told and "\n" not in told
