"""What is tried on one card, and what each part needs: plain values, so that the list can be read, and tried in small without a card.

call 1  the tests marked `gpu`
call 2  a 1B model and layers of a 7B's shape: micro-batches, checkpointing, fused kernels, compile; the peer at its own best settings
call 3  a whole 7B on a card that holds it, and a 3B with its optimizer in host memory (20 bytes a parameter there), each beside the peer;
        a 7B loaded, a 1B saved
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from train.benchmark.step.job import Job

PEER = "train.benchmark.gpu.peer"
SEQ_LEN = 4096
STEPS, WARMUP = 6, 2


@dataclass(frozen=True)
class Task:
    """One part. job: a step to measure; words: or a command of Python; needs: what is skipped without, by name; seconds: at most."""

    name: str
    call: int
    seconds: int
    job: Job | None = None
    words: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    beside: str = ""  # the comparison it belongs to

    @property
    def is_peer(self) -> bool:
        return PEER in self.words


def tasks(small: bool) -> list[Task]:
    """In the order of their worth within each call: what time is left out of is at the end.

    Args:
        small: tiny shapes and one step, to try the whole on a CPU.
    """
    offloaded, whole = _job(small, "3b", ("micro_batch=4", *FULL, OFFLOADED)), _job(small, "7b", ("micro_batch=4", *FULL))
    room = ("device memory 130 GiB",)
    return [
        Task("tests-gpu", 1, 540, words=("-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "-rsP"), needs=("pytest", "psutil")),
        *_speed(small),
        Task("7b", 3, 180, job=whole, needs=(*room, *_needs(whole)), beside="7b"),
        _peer("7b-peer", 3, small, "7b", ("--micro-batch", "4", "--checkpointing", "--liger"), room),
        Task("3b-offload", 3, 300, job=offloaded, needs=("host memory 80 GiB", *_needs(offloaded)), beside="3b-offload"),
        _peer("3b-offload-peer", 3, small, "3b", ("--micro-batch", "4", "--offload", "--checkpointing", "--liger"), ("host memory 80 GiB",)),
        Task("7b-load", 3, 180, words=_part("load", small, "6.7e9"), needs=("disk 20 GiB",)),
        Task("1b-save", 3, 240, words=_part("checkpoint", small, "1e9"), needs=("disk 40 GiB",)),
    ]  # fmt: skip


FULL = ("model.activation_checkpointing=full",)
COMPILED = ("model.compile=true",)
OFFLOADED = "deepspeed=ds_configs/zero3_offload_optimizer.json"
WHOLE_ROWS = 10**6  # mean tokens of documents that fill a row each, as the peer's do


def _speed(small: bool) -> list[Task]:
    """One change at a time from a middle, for which there is time, rather than a grid, for which there is none; the peer in between."""
    found = []

    def ours(name: str, size: str, words: tuple[str, ...], **changes: Any) -> None:
        job = _job(small, size, words, **changes)
        found.append(Task(name, 2, 180 if "compile" in name else 90, job=job, needs=_needs(job), beside="1b" if size == "1b" else ""))

    def peer(name: str, *words: str) -> None:
        found.append(_peer(f"1b-peer-{name}", 2, small, "1b", words))

    ours("1b-mb8", "1b", ("micro_batch=8",), profile=True)
    peer("mb8", "--micro-batch", "8", "--liger")
    ours("1b-mb16", "1b", ("micro_batch=16",))
    ours("1b-mb16-compile", "1b", ("micro_batch=16", *COMPILED))
    peer("mb16", "--micro-batch", "16", "--liger")
    ours("1b-mb8-compile", "1b", ("micro_batch=8", *COMPILED))
    peer("mb8-compile", "--micro-batch", "8", "--liger", "--compile")
    ours("1b-mb8-whole-rows", "1b", ("micro_batch=8",), mean_tokens=WHOLE_ROWS)
    ours("7b-layers-mb4", "7b", ("micro_batch=4",), layers=4)
    ours("7b-layers-mb4-compile", "7b", ("micro_batch=4", *COMPILED), layers=4)
    ours("1b-mb16-selective", "1b", ("micro_batch=16", "model.activation_checkpointing=selective"))
    ours("1b-mb16-full", "1b", ("micro_batch=16", *FULL))
    ours("7b-layers-mb4-full", "7b", ("micro_batch=4", *FULL), layers=4)
    ours("1b-mb8-plain", "1b", ("micro_batch=8", "model.fused_kernels=none"))
    ours("1b-mb4", "1b", ("micro_batch=4",))
    return found


def _job(
    small: bool, size: str, words: tuple[str, ...], layers: int | None = None, profile: bool = False, mean_tokens: int = Job.mean_tokens
) -> Job:
    if small:
        words = tuple(word for word in words if not word.startswith("micro_batch"))
        words = tuple("deepspeed=ds_configs/cpu.json" if word == OFFLOADED else word for word in words)
        return Job(
            size="1m", layers=layers and 1, overrides=("data.seq_len=64", "micro_batch=2", *words), steps=1, warmup=0, mean_tokens=30
        )
    words = (f"data.seq_len={SEQ_LEN}", *words)
    return Job(
        size=size, layers=layers, overrides=words, steps=STEPS, warmup=WARMUP, mean_tokens=mean_tokens, phases=profile,
        trace="profile" if profile else None,
    )  # fmt: skip


def _needs(job: Job) -> tuple[str, ...]:
    compiler = ("gcc",) if "model.compile=true" in job.overrides else ()
    return compiler if job.size == "1m" or "model.fused_kernels=none" in job.overrides else (*compiler, "liger_kernel")


def _peer(name: str, call: int, small: bool, size: str, words: tuple[str, ...], needs: tuple[str, ...] = ()) -> Task:
    if small:
        size, words = "1m", (*words, "--seq-len", "64", "--micro-batch", "2", "--steps", "1")
    given = ("-m", PEER, "--seq-len", str(SEQ_LEN), "--size", size, *words)
    liger = ("liger_kernel",) if "--liger" in words and not small else ()
    return Task(name, call, 240, words=given, needs=(*needs, "accelerate", *liger), beside=name.partition("-peer")[0])


def _part(part: str, small: bool, parameters: str) -> tuple[str, ...]:
    """Random weights loaded into a card's slices, or saved with their moments."""
    size = ("--parameters", "1e6") if small else ("--parameters", parameters, "--dtype", "bf16")
    return ("launch/benchmark.py", part, *size, "--ranks", "1", *(("--repeats", "1") if part == "checkpoint" else ()))
