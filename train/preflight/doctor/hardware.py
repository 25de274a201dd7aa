"""What a node gives a run: memory, disks, limits, compiler, and its devices, each tried with a matrix product."""

from __future__ import annotations

import csv
import io
import os
import platform
import resource
import shutil
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

from train.world.jit_lock import extensions_folder, stale
from train.world.machine import what_there_is

PRODUCT = {"cuda": 8192, "cpu": 512}  # width of the square matrices
QUERY = (
    "index", "name", "uuid", "driver_version", "memory.total", "memory.used", "ecc.errors.uncorrected.volatile.total", "clocks.sm", "clocks.max.sm",
    "temperature.gpu", "pcie.link.gen.current", "pcie.link.width.current", "pcie.link.width.max",
)  # fmt: skip


def of_node(runs: Path, device: torch.device, one_node: bool) -> dict[str, Any]:
    """Facts all ranks of a node share; bytes are bytes."""
    there = _existing(runs)
    disk = os.statvfs(there)
    free = what_there_is(torch.device("cpu"), runs)
    shm = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else None
    locks = stale(extensions_folder(), one_node)
    return {
        "kernel": platform.release(), "processor": _processor(), "cores": len(os.sched_getaffinity(0)), "memory": free.host, "disk": free.disk,
        "inodes": disk.f_favail if disk.f_files else None, "shm": shm, "open files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "locked memory": resource.getrlimit(resource.RLIMIT_MEMLOCK)[0], "infiniband": sorted(_names(Path("/sys/class/infiniband"))),
        "g++": shutil.which(os.environ.get("CXX", "g++")) is not None, "ninja": _ninja(), "stale locks": [str(p) for p in locks],
        "extensions": _unwritable(extensions_folder()), "gpus": gpus() if device.type == "cuda" else [], "interfaces": _interfaces(),
    }  # fmt: skip


def gpus() -> list[dict[str, str]]:
    """nvidia-smi's answers, a GPU each; empty without it."""
    try:
        words = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
        return parsed(subprocess.run(words, capture_output=True, text=True, timeout=15, check=True).stdout)
    except (OSError, subprocess.SubprocessError):
        return []


def parsed(text: str) -> list[dict[str, str]]:
    """Lines of nvidia-smi's CSV → QUERY's fields; what a card does not tell is left out."""
    rows = csv.reader(io.StringIO(text), skipinitialspace=True)
    return [{k: v for k, v in zip(QUERY, row, strict=True) if not v.startswith("[")} for row in rows if len(row) == len(QUERY)]


def of_rank(device: torch.device, threads: int) -> dict[str, Any]:
    """This rank's device and how fast it multiplies, TFLOP/s, median of 5 after one for warming up: bf16 on CUDA, fp32 on a CPU."""
    if device.type == "cuda":
        found = {"device": torch.cuda.get_device_name(device), "uuid": str(torch.cuda.get_device_properties(device).uuid)}
        found["free"], found["total"] = torch.cuda.mem_get_info(device)
    else:
        found = {"device": "cpu", "uuid": None, "free": None, "total": None}
        torch.set_num_threads(threads)
    width = PRODUCT[device.type]
    a = torch.ones(width, width, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32, device=device)
    times = []
    for _ in range(6):
        begun = time.perf_counter()
        for _ in range(10 if device.type == "cuda" else 1):
            a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append((time.perf_counter() - begun) / (10 if device.type == "cuda" else 1))
    return found | {"tflops": 2 * width**3 / statistics.median(times[1:]) / 1e12}


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _names(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []


def _ninja() -> bool:
    try:
        import ninja  # noqa: F401
    except ImportError:
        return shutil.which("ninja") is not None
    return True


def _unwritable(folder: Path) -> str | None:
    """Why DeepSpeed's ops could not be built into the folder; None when they can."""
    there = _existing(folder)
    return None if os.access(there, os.W_OK | os.X_OK) else f"{there} cannot be written"


def _interfaces() -> dict[str, dict[str, Any]]:
    """Addresses and MTU of each network interface but the loopback."""
    import psutil

    states = psutil.net_if_stats()
    return {
        name: {"addresses": [a.address for a in addresses if a.family.name in ("AF_INET", "AF_INET6")], "mtu": states[name].mtu}
        for name, addresses in psutil.net_if_addrs().items()
        if name != "lo" and name in states and states[name].isup
    }
