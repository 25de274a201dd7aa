"""What of a process's environment changes what a run computes or how its ranks talk: the variables, as they may be shown, and its address.

Imports the standard library alone: a rank's watcher uses it.
"""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Mapping

from train.world.redact import redacted

CHOSEN = (
    "NCCL_", "GLOO_", "UCX_", "FI_", "RCCL_", "CUDA_", "PYTORCH_", "TORCH_", "OMP_", "MKL_", "KMP_", "DS_", "HF_", "TRANSFORMERS_", "TOKENIZERS_",
)  # fmt: skip
NAMES = ("LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONPATH", "PYTHONHASHSEED", "CC", "CXX", "CUBLAS_WORKSPACE_CONFIG", "MALLOC_ARENA_MAX")
OWN = ("CUDA_VISIBLE_DEVICES", "TORCH_NCCL_ASYNC_ERROR_HANDLING")  # a launcher's, and each rank's own
_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSW|CREDENTIAL|AUTH|COOKIE", re.IGNORECASE)


def chosen(env: Mapping[str, str]) -> dict[str, str]:
    """Name → value; of a name that may hold a secret only that it is set."""
    kept = sorted(n for n in env if (n in NAMES or n.startswith(CHOSEN)) and n not in OWN)
    return {n: "set, not shown" if _SECRET.search(n) else redacted(env[n]) for n in kept}


def own_address(env: Mapping[str, str]) -> str:
    """The address of ours that the others reach: of the network chosen for gloo or NCCL, else of the way to where the ranks meet."""
    for name in (env.get("GLOO_SOCKET_IFNAME") or env.get("NCCL_SOCKET_IFNAME") or "").split(","):
        if name and (found := address_of_interface(name.removeprefix("="))):
            return found
    try:
        family, _, _, _, to = socket.getaddrinfo(env["MASTER_ADDR"], 1, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            s.connect(to)  # sends nothing
            return s.getsockname()[0]
    except OSError:
        return "127.0.0.1"


def address_of_interface(name: str) -> str | None:
    """Its IPv4 address; None where there is no such interface, or it has none."""
    try:
        import fcntl

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            return socket.inet_ntoa(fcntl.ioctl(s, 0x8915, struct.pack("256s", name.encode()[:15]))[20:24])  # SIOCGIFADDR
    except OSError:
        return None
