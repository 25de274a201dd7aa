"""Which variables of a process's environment change what a run computes or how its ranks talk, as they may be shown."""

from __future__ import annotations

import re
from collections.abc import Mapping

CHOSEN = (
    "NCCL_",
    "GLOO_",
    "UCX_",
    "FI_",
    "RCCL_",
    "CUDA_",
    "PYTORCH_",
    "TORCH_",
    "OMP_",
    "MKL_",
    "KMP_",
    "DS_",
    "HF_",
    "TRANSFORMERS_",
    "TOKENIZERS_",
)
NAMES = ("LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONPATH", "PYTHONHASHSEED", "CC", "CXX", "CUBLAS_WORKSPACE_CONFIG", "MALLOC_ARENA_MAX")
OWN = ("CUDA_VISIBLE_DEVICES", "TORCH_NCCL_ASYNC_ERROR_HANDLING")  # a launcher's, and each rank's own
_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSW|CREDENTIAL|AUTH|COOKIE", re.IGNORECASE)


def chosen(env: Mapping[str, str]) -> dict[str, str]:
    """Name → value; of a name that may hold a secret only that it is set."""
    kept = sorted(n for n in env if (n in NAMES or n.startswith(CHOSEN)) and n not in OWN)
    return {n: "set, not shown" if _SECRET.search(n) else env[n] for n in kept}
