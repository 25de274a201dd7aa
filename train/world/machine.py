"""What this machine gives a process: memory (the system's, a container's limit, the device's), disk, and a device's peak rate."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# dense bf16 peak of a device, TFLOP/s, by a part of its name as torch gives it; the first that fits counts.
# Vendors' data sheets print sparse figures: these are halved once.
PEAK_TFLOPS = (
    ("H200", 989.0), ("GH200", 989.0), ("H100 NVL", 835.0), ("H100 PCIe", 756.0), ("H100", 989.0), ("GB200", 2500.0), ("B200", 2250.0), ("B300", 2250.0),
    ("A100", 312.0), ("A800", 312.0), ("H800", 989.0), ("A6000", 154.85), ("L40S", 362.0), ("V100", 125.0), ("MI300X", 1300.0), ("MI250X", 191.5),
)  # fmt: skip


# memory of a device, GiB, by a part of its name
DEVICE_GIB = {
    "H200": 141, "GH200": 96, "H100": 80, "B200": 180, "B300": 288, "A100-40": 40, "A100": 80, "A800": 80, "H800": 80, "A6000": 48, "L40S": 48, "L4": 24,
    "V100": 32, "MI300X": 192, "MI250X": 128, "4090": 24, "3090": 24, "5090": 32, "A10": 24, "T4": 16,
}  # fmt: skip


@dataclass(frozen=True)
class FreeBytes:
    """Of a node's main memory, of one device (None on a CPU: the host is the device), of the disk of the runs."""

    host: float
    device: float | None
    disk: float

    @classmethod
    def least(cls, all_ranks: list[FreeBytes]) -> FreeBytes:
        """The scarcest of each over the ranks: a plan must fit everywhere."""
        devices = [m.device for m in all_ranks if m.device is not None]
        return cls(min(m.host for m in all_ranks), min(devices) if devices else None, min(m.disk for m in all_ranks))


def what_there_is(device: torch.device, runs: Path) -> FreeBytes:
    there = runs.resolve()
    while not there.exists():
        there = there.parent
    free = None
    if device.type == "cuda":
        import torch

        free = torch.cuda.mem_get_info(device)[0]
    return FreeBytes(host_available(), free, shutil.disk_usage(there).free)


def host_available(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> float:
    """Bytes this process can still take before the system or its container (cgroup v1 or v2) runs out."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _text(proc / "meminfo"), re.MULTILINE)
    free = [int(found[1]) * 1024] if found else []
    for line in _text(proc / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, limit, usage = cgroups, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root, limit, usage = cgroups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        here = root / path.lstrip("/")
        for folder in [here, *here.parents]:  # a limit of any group above holds too
            allowed, used = _text(folder / limit).strip(), _text(folder / usage).strip()
            if allowed.isdigit() and used.isdigit():
                cache = re.search(r"^(?:total_)?inactive_file (\d+)", _text(folder / "memory.stat"), re.MULTILINE)
                free.append(max(0, int(allowed) - int(used) + (int(cache[1]) if cache else 0)))
            if folder == root:
                break
    return float(min(free)) if free else float("inf")


def peak_tflops(device_name: str) -> float | None:
    return next((peak for part, peak in PEAK_TFLOPS if part in device_name), None)


def peak_memory_bytes(device: torch.device) -> int:
    """The most this process has held: on the device, or in main memory on a CPU."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
