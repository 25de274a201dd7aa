"""What tests on a CUDA device share: when they are left out, and how a rank is made to compute the same twice."""

import os

import pytest
import torch

WHY = "needs a CUDA device: run `make gpu` where there is one"
NEEDED = pytest.mark.skipif(not torch.cuda.is_available(), reason=WHY)


def compute_the_same_twice() -> None:
    """In this process, before its first product: kernels that add up in one order alone, and fp32 that is not rounded to TF32."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # what is computed from is as in a user's run
    torch.backends.cuda.matmul.allow_tf32 = False
