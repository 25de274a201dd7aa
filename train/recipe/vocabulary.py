"""The recipe's whole vocabulary on one page: every key, its type, its default, what a value must be.

load.py reads it from YAML and words; checks.py sees what no single key can show. Nothing in this room imports torch: a recipe
is checked in milliseconds.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


class RecipeError(ValueError):
    """All faults of a recipe: one a line, each with place, value and remedy."""

    def __init__(self, where: str, faults: list[str]):
        self.faults = faults
        word = "fault" if len(faults) == 1 else "faults"
        super().__init__(f"{where}: {len(faults)} {word}\n" + "\n".join(f"  - {fault}" for fault in faults))


def _at_least(low: float) -> dict[str, Any]:
    return {"check": lambda v: v >= low, "rule": f"at least {low:g}"}


def _between(low: float, high: float) -> dict[str, Any]:
    return {"check": lambda v: low <= v <= high, "rule": f"from {low:g} to {high:g}"}


_POSITIVE = {"check": lambda v: v > 0, "rule": "above 0"}
_NAME = {"check": lambda v: re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", v) is not None, "rule": "letters, digits, '.', '_' and '-'"}


@dataclass(frozen=True, kw_only=True)
class Model:
    path: str = field(metadata={"path": True})  # folder of safetensors, GGUF file, or Hub name
    dtype: Literal["bf16", "fp32"] = "bf16"  # compute dtype; masters and Adam's moments are fp32 always
    attention: Literal["auto", "flash", "torch_varlen", "sdpa"] = "auto"
    activation_checkpointing: Literal["none", "full", "every_other"] = "none"
    compile: bool = False  # torch.compile of each decoder layer
    fused_kernels: Literal["auto", "none"] = "auto"  # liger's on CUDA when installed
    loss_chunk: int = field(default=1024, metadata=_at_least(1))  # tokens whose logits exist at once
    fingerprint: str | None = None  # what the loaded weights must add up to; a run prints it
    max_start_loss: float | None = field(default=None, metadata=_POSITIVE)  # refuse weights worse than this at step 0


@dataclass(frozen=True, kw_only=True)
class Source:
    path: Path  # folder of token shards
    weight: float | None = field(default=None, metadata=_POSITIVE)  # share of tokens; all sources or none have one
    max_repeats: float | None = field(default=None, metadata=_POSITIVE)  # times a source may be seen in all


@dataclass(frozen=True, kw_only=True)
class Data:
    sources: dict[str, Source]
    seq_len: int = field(default=4096, metadata=_at_least(2))
    packing: Literal["split", "whole"] = "split"
    long_documents: Literal["cut", "drop"] = "cut"  # whole packing: documents longer than a row
    seed: int = field(default=0, metadata=_at_least(0))
    workers: int = field(default=1, metadata=_at_least(1))


@dataclass(frozen=True, kw_only=True)
class HeldoutSource:
    path: Path


@dataclass(frozen=True, kw_only=True)
class Heldout:
    sources: dict[str, HeldoutSource] = field(default_factory=dict)
    every_steps: int = field(default=0, metadata=_at_least(0))  # 0: only before the first and after the last step
    max_rows: int | None = field(default=None, metadata=_at_least(1))  # rows a source; none: all
    prompts: tuple[str, ...] = ()  # answered greedily at every evaluation, into the log and TensorBoard
    prompt_tokens: int = field(default=48, metadata=_at_least(1))


@dataclass(frozen=True, kw_only=True)
class Optim:
    lr: float = field(default=2e-5, metadata=_POSITIVE)
    betas: tuple[float, float] = field(
        default=(0.9, 0.95), metadata={"check": lambda v: all(0 <= b < 1 for b in v), "rule": "two numbers from 0 to below 1"}
    )
    eps: float = field(default=1e-8, metadata=_POSITIVE)
    weight_decay: float = field(default=0.1, metadata=_at_least(0))
    clip: float = field(default=1.0, metadata=_at_least(0))  # global gradient norm; 0: no clipping
    kernel: Literal["auto", "fused", "cpu", "torch"] = "auto"  # DeepSpeed's FusedAdam, DeepSpeedCPUAdam, or torch.optim.AdamW


@dataclass(frozen=True, kw_only=True)
class Schedule:
    kind: Literal["cosine", "wsd", "constant"] = "cosine"
    warmup_ratio: float | None = field(default=None, metadata=_between(0, 1))  # of the run's length
    warmup_steps: int | None = field(default=None, metadata=_at_least(0))
    warmup_tokens: int | None = field(default=None, metadata=_at_least(0))
    floor_ratio: float = field(default=0.1, metadata=_between(0, 1))  # final lr / peak lr
    decay_ratio: float = field(default=0.2, metadata=_between(0, 1))  # wsd: the last part of the run that decays


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    every_steps: int = field(default=500, metadata=_at_least(0))  # 0: only at the end
    keep_last: int = field(default=2, metadata=_at_least(1))
    keep_every: int = field(default=0, metadata=_at_least(0))  # keep for good every so many steps; 0: none
    keep_best: int = field(default=1, metadata=_at_least(0))  # by mean held-out loss
    to: str | None = None  # a URL like s3://bucket/folder: checkpoints go to TO/NAME there instead of runs/NAME/checkpoints
    background: bool = False  # write behind the steps, from a copy in host memory (12 bytes a parameter, shared by the ranks)
    trainer_state: bool = True  # masters and moments too: needed to resume
    allow: tuple[str, ...] = ()  # keys whose change a resume accepts although it changes the result


@dataclass(frozen=True, kw_only=True)
class Logging:
    every_steps: int = field(default=1, metadata=_at_least(1))
    tensorboard: bool = True
    peak_tflops: float | None = field(default=None, metadata=_POSITIVE)  # dense bf16 peak of a device, for MFU; none: by its name


@dataclass(frozen=True, kw_only=True)
class Guard:
    max_nonfinite_in_a_row: int = field(default=10, metadata=_at_least(1))
    timeout_seconds: int = field(default=600, metadata=_at_least(10))  # of a collective


@dataclass(frozen=True, kw_only=True)
class Recipe:
    name: str = field(metadata=_NAME)
    model: Model
    data: Data
    steps: int | None = field(default=None, metadata=_at_least(1))
    tokens: int | None = field(default=None, metadata=_at_least(1))  # the run's length, global; steps or tokens, not both
    tokens_per_step: int = field(metadata=_at_least(1))  # global; accumulation is derived from it, never set
    micro_batch: int = field(default=1, metadata=_at_least(1))  # rows a rank computes at once
    seed: int = field(default=0, metadata=_at_least(0))
    deepspeed: Path = Path("ds_configs/zero3.json")
    runs: Path = Path("runs")
    optim: Optim = field(default_factory=Optim)
    schedule: Schedule = field(default_factory=Schedule)
    heldout: Heldout = field(default_factory=Heldout)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    logging: Logging = field(default_factory=Logging)
    guard: Guard = field(default_factory=Guard)

    @property
    def rows_per_step(self) -> int:
        return self.tokens_per_step // self.data.seq_len

    @property
    def total_steps(self) -> int:
        return total_steps(self)

    @property
    def warmup_steps(self) -> float:
        return warmup_steps(self)

    @property
    def run_dir(self) -> Path:
        return self.runs / self.name

    @property
    def checkpoints(self) -> str:
        """Where this run's checkpoints lie: a folder or a URL."""
        to = self.checkpoint.to
        return f"{to.rstrip('/')}/{self.name}" if to else str(self.run_dir / "checkpoints")

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, as they go into recipe.yaml and state.json."""
        return json.loads(json.dumps(dataclasses.asdict(self), default=str))


def total_steps(run: Recipe) -> int:
    """Steps of the run; a length in tokens is rounded up to whole steps."""
    return run.steps if run.steps is not None else -(-run.tokens // run.tokens_per_step)


def warmup_steps(run: Recipe) -> float:
    """Warm-up in steps, fractional when it was given in tokens."""
    s = run.schedule
    if s.warmup_tokens is not None:
        return s.warmup_tokens / run.tokens_per_step
    if s.warmup_steps is not None:
        return s.warmup_steps
    return (s.warmup_ratio if s.warmup_ratio is not None else 0.03) * total_steps(run)
