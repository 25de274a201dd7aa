"""What is tried on one card, and what each part needs: plain values, so that the list can be read, and tried in small without a card.

call 1  the tests marked `gpu`
call 2  a 1B model and layers of a 7B's shape: micro-batches, checkpointing, fused kernels, compile; the peer at the best of them
call 3  a 3B with its optimizer in host memory (20 bytes a parameter there), beside the peer; a 7B loaded, a 1B saved
"""

from __future__ import annotations

from dataclasses import dataclass

from train.benchmark.step.job import Job

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
    like_best: bool = False  # words of a peer, to which the best settings of its call are added


def tasks(small: bool) -> list[Task]:
    """In the order of their worth within each call: what time is left out of is at the end.

    Args:
        small: tiny shapes and one step, to try the whole on a CPU.
    """
    offloaded = _job(small, "3b", ("micro_batch=4", *FULL, OFFLOADED))
    return [
        Task("tests-gpu", 1, 540, words=("-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "-rsP"), needs=("pytest", "psutil")),
        *_speed(small),
        _peer("1b-peer", 2, small, ("--size", "1m" if small else "1b")),
        Task("3b-offload", 3, 300, job=offloaded, needs=("host memory 80 GiB", *_needs(offloaded))),
        _peer("3b-offload-peer", 3, small, ("--size", "1m" if small else "3b", "--offload", "--checkpointing"), needs=("host memory 80 GiB",)),
        Task("7b-load", 3, 180, words=_part("load", small, "6.7e9"), needs=("disk 20 GiB",)),
        Task("1b-save", 3, 240, words=_part("checkpoint", small, "1e9"), needs=("disk 40 GiB",)),
    ]  # fmt: skip


FULL = ("model.activation_checkpointing=full",)
OFFLOADED = "deepspeed=ds_configs/zero3_offload_optimizer.json"


def _speed(small: bool) -> list[Task]:
    """One change at a time from a middle, for which there is time, rather than a grid, for which there is none."""
    middle = ("micro_batch=8",)
    variants: dict[str, tuple[str, ...]] = {
        "mb8": middle, "mb8-compile": (*middle, "model.compile=true"), "mb4": ("micro_batch=4",), "mb16-full": ("micro_batch=16", *FULL),
        "mb16": ("micro_batch=16",), "mb16-selective": ("micro_batch=16", "model.activation_checkpointing=selective"),
        "mb8-plain": (*middle, "model.fused_kernels=none"), "mb16-full-compile": ("micro_batch=16", *FULL, "model.compile=true"),
    }  # fmt: skip
    jobs = {f"1b-{name}": _job(small, "1b", words, profile=name == "mb8") for name, words in variants.items()}
    layers: dict[str, tuple[str, ...]] = {
        "mb2": ("micro_batch=2",), "mb4": ("micro_batch=4",), "mb4-compile": ("micro_batch=4", "model.compile=true"), "mb4-full": ("micro_batch=4", *FULL),
    }  # fmt: skip
    jobs |= {f"7b-layers-{name}": _job(small, "7b", words, 4) for name, words in layers.items()}
    return [Task(name, 2, 180 if "compile" in name else 90, job=job, needs=_needs(job)) for name, job in jobs.items()]


def _job(small: bool, size: str, words: tuple[str, ...], layers: int | None = None, profile: bool = False) -> Job:
    if small:
        words = tuple(word for word in words if not word.startswith("micro_batch"))
        words = tuple("deepspeed=ds_configs/cpu.json" if word == OFFLOADED else word for word in words)
        return Job(
            size="1m", layers=layers and 1, overrides=("data.seq_len=64", "micro_batch=2", *words), steps=1, warmup=0, mean_tokens=30
        )
    words = (f"data.seq_len={SEQ_LEN}", *words)
    return Job(size=size, layers=layers, overrides=words, steps=STEPS, warmup=WARMUP, phases=profile, trace="profile" if profile else None)


def _needs(job: Job) -> tuple[str, ...]:
    compiler = ("gcc",) if "model.compile=true" in job.overrides else ()
    return compiler if job.size == "1m" or "model.fused_kernels=none" in job.overrides else (*compiler, "liger_kernel")


def _peer(name: str, call: int, small: bool, words: tuple[str, ...], needs: tuple[str, ...] = ()) -> Task:
    sizes = (
        ("--seq-len", "64", "--micro-batch", "2", "--steps", "1")
        if small
        else ("--seq-len", str(SEQ_LEN), "--micro-batch", "4" if call == 3 else "8")
    )
    return Task(
        name, call, 300 if call == 3 else 240, words=("-m", "train.benchmark.gpu.peer", *words, *sizes), needs=(*needs, "accelerate"),
        like_best=call == 2 and not small,
    )  # fmt: skip


def _part(part: str, small: bool, parameters: str) -> tuple[str, ...]:
    """Random weights loaded into a card's slices, or saved with their moments."""
    size = ("--parameters", "1e6") if small else ("--parameters", parameters, "--dtype", "bf16")
    return ("launch/benchmark.py", part, *size, "--ranks", "1", *(("--repeats", "1") if part == "checkpoint" else ()))
