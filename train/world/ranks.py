"""Who this process is among the run's processes; the only reader of the environment.

`World.from_env()` before torch.distributed, `World.connect()` to join; `log0` is the one voice for people.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import os
import socket
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

from train.world import voice
from train.world.beat import Beat
from train.world.board import Arrivals
from train.world.launchers import WorldError, job_ends_at, place_of
from train.world.output import hush

CPU_OP = "deepspeed_shm_comm"  # DeepSpeed builds it at its first start on a CPU


@dataclass(frozen=True)
class World:
    rank: int
    size: int
    local_rank: int
    device: torch.device
    group: dist.ProcessGroup | None = None  # None: the default one
    told_local_size: int | None = None  # ranks of this node, as the launcher says
    beat: Beat = field(default_factory=Beat, compare=False)  # what this rank is doing, for who watches it

    @classmethod
    def from_env(cls) -> World:
        """The launcher's variables, which deepspeed reads too; alone without them. Raises WorldError where they contradict each other."""
        place = place_of(os.environ)
        for name, value in (("RANK", place.rank), ("WORLD_SIZE", place.size), ("LOCAL_RANK", place.local_rank)):
            os.environ.setdefault(name, str(value))
        os.environ.setdefault("MASTER_ADDR", place.address or "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", str(place.port or 29500))
        _ninja_of_this_python()
        if not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys():
            os.environ["PYTORCH_CUDA_ALLOC_CONF"] = (
                "expandable_segments:True"  # layers gathered and let go leave no holes; read at first use
            )
        if torch.cuda.is_available():
            device = torch.device("cuda", place.local_rank)
            torch.cuda.set_device(device)
        else:
            os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read by deepspeed when it is first imported
            device = torch.device("cpu")
        return cls(place.rank, place.size, place.local_rank, device, told_local_size=place.local_size)

    @functools.cached_property
    def local_size(self) -> int:
        """Ranks of this node, by who really shares one, whatever launchers call it; `connect` has asked."""
        here = node_of_process()
        return sum(other == here for other in self.gather(here))

    @property
    def threads_set_by_user(self) -> bool:
        return "OMP_NUM_THREADS" in os.environ

    @property
    def job_ends_at(self) -> float | None:
        """When the scheduler ends this job, in seconds of the epoch, where it says so."""
        return job_ends_at(os.environ)

    def connect(self, timeout_seconds: int) -> None:
        """Join the process group: nccl on GPUs, gloo on CPUs."""
        if dist.is_initialized():
            return
        if self.size == 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
            os.environ["MASTER_PORT"] = str(free_port())  # two single-process runs on one machine must not meet

        with self.waiting("importing DeepSpeed and transformers"):
            import deepspeed
            from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401  # seconds that would pass in silence later

        from train.world import jit_lock, shared_memory

        hush()  # loggers of what was imported
        warnings.filterwarnings(
            "ignore", message=".*torch.distributed.* is deprecated", category=FutureWarning
        )  # DeepSpeed's calls, once a step
        for lock in jit_lock.clear_stale(jit_lock.use_extensions_folder(), one_node=self.told_local_size == self.size or self.size == 1):
            print(f"removed {lock}: a build lock whose holder is dead would have stopped this start for ever", file=sys.stderr, flush=True)
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        meeting = f"waiting for {self.size} ranks to meet at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        remark = ""
        if self.device.type == "cpu" and not jit_lock.is_built(CPU_OP):
            meeting, remark = jit_lock.building(CPU_OP), jit_lock.ONCE
        arrivals = None
        try:
            with self.waiting(meeting, remark):
                arrivals = Arrivals(self.rank, self.size, timeout_seconds) if self.size > 1 else None
                deepspeed.init_distributed(backend, timeout=datetime.timedelta(seconds=timeout_seconds), verbose=False)
                self._name_device()
        except (dist.DistNetworkError, dist.DistStoreError) as error:
            raise WorldError(_did_not_meet(error, arrivals and arrivals.missing(), timeout_seconds)) from None
        assert self.local_size >= 1  # a collective: asked here, where all ranks are
        shared_memory.unname(shared_memory.buffer_of(self.rank, os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]))

    def _name_device(self) -> None:
        """Tell nccl which GPU is this rank's, where DeepSpeed did not when it made the group: else the first barrier guesses, and warns.

        DeepSpeed leaves it out for a single rank, whose groups nccl could not split from a bound one; a barrier names it as well.
        """
        if self.device.type != "cuda" or getattr(dist.group.WORLD, "bound_device_id", None) is not None:
            return
        warnings.filterwarnings("ignore", message=r"barrier\(\): using the device under current context", category=UserWarning)
        dist.barrier(device_ids=[self.device.index])

    def meet(self, timeout_seconds: int) -> None:
        """Join the other ranks over gloo to exchange small values alone, without DeepSpeed. Raises WorldError."""
        if self.size == 1 or dist.is_initialized():
            return
        try:
            with self.waiting(f"waiting for {self.size} ranks to meet at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"):
                dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=timeout_seconds))
        except (dist.DistNetworkError, dist.DistStoreError) as error:
            raise WorldError(_did_not_meet(error, None, timeout_seconds)) from None

    def side(self, timeout_seconds: int) -> World:
        """The same ranks in a group of their own over gloo and host memory, so that another thread can talk meanwhile. Collective."""
        if self.size == 1:
            return dataclasses.replace(self, device=torch.device("cpu"), beat=Beat())
        group = dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=timeout_seconds))
        return dataclasses.replace(self, device=torch.device("cpu"), group=group, beat=Beat())  # the steps' signs of life are not its own

    def sum(self, values: list[float]) -> list[float]:
        """Add up a few numbers over all ranks, in float64."""
        if self.size == 1:
            return list(values)
        # float64 sums counts of tokens exactly up to 2^53
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        with self.beat.meeting():
            dist.all_reduce(total, group=self.group)
            return total.tolist()

    def max(self, values: list[float]) -> list[float]:
        """The largest of each number over all ranks."""
        if self.size == 1:
            return list(values)
        top = torch.tensor(values, dtype=torch.float64, device=self.device)
        with self.beat.meeting():
            dist.all_reduce(top, op=dist.ReduceOp.MAX, group=self.group)
            return top.tolist()

    def gather(self, value: object) -> list:
        """Every rank's small picklable value, in rank order, on every rank."""
        if self.size == 1:
            return [value]
        values: list = [None] * self.size
        with self.beat.meeting():
            dist.all_gather_object(values, value, group=self.group)
        return values

    def broadcast(self, value: object) -> object:
        """Rank 0's small picklable value on every rank."""
        box = [value]
        if self.size > 1:
            with self.beat.meeting():
                dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def barrier(self) -> None:
        if self.size > 1:
            with self.beat.meeting():
                dist.barrier(group=self.group)

    def log0(self, text: str, *shorter: str) -> None:
        """One line for people, from rank 0 only; shorter forms for narrow terminals."""
        if self.rank == 0:
            voice.say(text, *shorter)

    def waiting(self, what: str, remark: str = "") -> AbstractContextManager:
        """Rank 0 says that it begins, and that it lasts."""
        return voice.waiting(what, remark) if self.rank == 0 else nullcontext()

    def progress(self, what: str, total: float, unit: str) -> AbstractContextManager[Callable[[float], None]]:
        """Rank 0 shows how far it is: call what it gives with the amount done."""
        return voice.progress(what, total, unit) if self.rank == 0 else nullcontext(lambda by: None)


def _ninja_of_this_python() -> None:
    """Put this Python's programs on the path: ssh starts ranks with a bare one, where DeepSpeed's build finds no ninja, or another
    version, which then compiles all anew.
    """
    beside, path = os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)
    if beside not in path.split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join((beside, path))


def _did_not_meet(error: Exception, missing: list[int] | None, seconds: float) -> str:
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    if missing:
        shown = ", ".join(map(str, missing[:16])) + (f" and {len(missing) - 16} more" if len(missing) > 16 else "")
        return (
            f"rank{'s' if len(missing) > 1 else ''} {shown} did not come to {place} within {seconds:g} s (guard.timeout_seconds); see what "
            "their nodes say, and whether all nodes were started with the same number of ranks"
        )
    return (
        f"the ranks did not meet at {place} ({str(error).splitlines()[0]}); if another run has the port, start with "
        "deepspeed --master_port PORT; if not, check that every node reaches that address"
    )


def free_port() -> int:
    """A port of this machine that nobody listens on now: a launcher's default one may be another run's."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def node_of_process() -> tuple[str, str]:
    """What the ranks of one node have in common: host name and network (containers of one host are nodes of their own)."""
    try:
        network = os.readlink("/proc/self/ns/net")
    except OSError:
        network = ""
    return socket.gethostname(), network
