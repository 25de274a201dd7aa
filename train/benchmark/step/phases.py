"""Where a step's time goes: by phase, from a clock that waits for the device at each; and from the profiler, what communication costs.

Stopwatch: the beat of the ranks (train/world/beat.py), which the step tells its phases anyway; while it runs it takes the time of each.
`cost(events)`: busy, exposed and hidden seconds of what ran on the device, or on a CPU in the threads of gloo beside the operators.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from train.world.beat import Beat

TALK = ("nccl", "gloo:")  # beginnings of the names under which backends record what they send
NOT_COMPUTED = ("c10d::", "record_param_comms", "nccl:")
DEAREST = 10


class Stopwatch(Beat):
    """A beat that also takes the time between its phases, and names them to the profiler, while it runs."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self._since: float | None = None
        self._named: Any = None

    def phase(self, name: str) -> None:
        if self._since is not None:
            self._turn()
            self._named = torch.profiler.record_function(f"phase: {name}")
            self._named.__enter__()
        super().phase(name)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Within: phases are timed. One that began before is not."""
        settle(self.device)
        self._since = time.perf_counter()
        try:
            yield
        finally:
            self._turn()
            self._since = None

    def _turn(self) -> None:
        settle(self.device)
        now = time.perf_counter()
        self.seconds[self.now] += now - self._since
        self._since = now
        if self._named:
            self._named.__exit__(None, None, None)
            self._named = None


def settle(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Communication:
    """Seconds: of all that was sent; of it alone, while nothing was computed; and of it beside computing."""

    busy: float
    exposed: float
    hidden: float


@contextlib.contextmanager
def profiled(device: torch.device) -> Iterator[Any]:
    """torch's profiler of operators, and of kernels where there are any; without its words on standard error."""
    from torch.profiler import ProfilerActivity, profile

    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with profile(activities=kinds, acc_events=True) as seen:
        yield seen
        settle(device)


def communication(events: Any, on_cuda: bool) -> Communication:
    """From torch's FunctionEvents: what was sent, and how much of it lay beside computing."""
    cuda = torch.autograd.DeviceType.CUDA
    talk, computed = [], []
    threads = {e.thread for e in events if e.name.startswith("gloo:")}
    for e in events:
        span = (e.time_range.start, e.time_range.end)
        if on_cuda:
            if e.device_type == cuda and not e.name.startswith("phase:") and not getattr(e, "is_user_annotation", False):
                (talk if e.name.startswith(TALK) else computed).append(span)
        elif e.name.startswith("gloo:"):
            talk.append(span)
        elif e.thread not in threads and e.name.startswith("aten::") and not e.name.startswith(NOT_COMPUTED):
            computed.append(span)
    talk, computed = united(talk), united(computed)
    busy, hidden = length(talk), length(common(talk, computed))
    return Communication(busy / 1e6, (busy - hidden) / 1e6, hidden / 1e6)


def united(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same time as spans that are apart, in order."""
    found: list[tuple[float, float]] = []
    for begin, end in sorted(spans):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return found


def common(some: list[tuple[float, float]], others: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """What two lists of united spans have in common."""
    found, i, j = [], 0, 0
    while i < len(some) and j < len(others):
        begin, end = max(some[i][0], others[j][0]), min(some[i][1], others[j][1])
        if begin < end:
            found.append((begin, end))
        if some[i][1] < others[j][1]:
            i += 1
        else:
            j += 1
    return found


def length(spans: list[tuple[float, float]]) -> float:
    return sum(end - begin for begin, end in spans)


def dearest(seen: Any, on_cuda: bool) -> list[dict[str, Any]]:
    """The operations that took the most time of their own, of the device where there is one."""
    kind = "self_device_time_total" if on_cuda else "self_cpu_time_total"
    averages = [e for e in seen.key_averages() if not e.key.startswith(("phase:", "Optimizer.step", "ProfilerStep"))]
    if on_cuda:  # kernels: an operator is given the time of those that it started a second time
        averages = [e for e in averages if e.device_type == torch.autograd.DeviceType.CUDA and not e.is_user_annotation]
    total = sum(getattr(e, kind) for e in averages) or 1
    top = sorted(averages, key=lambda e: -getattr(e, kind))[:DEAREST]
    return [{"operation": e.key, "share %": 100 * getattr(e, kind) / total, "ms": getattr(e, kind) / 1e3, "calls": e.count} for e in top]


def write_trace(seen: Any, folder: Path, rank: int) -> Path:
    """A Chrome trace under the name that TensorBoard's profiler page looks for; https://ui.perfetto.dev opens it, too."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"rank_{rank:05d}.{time.time_ns() // 1_000_000}.pt.trace.json.gz"
    seen.export_chrome_trace(str(path))
    return path
