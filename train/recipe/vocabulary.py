"""The recipe's whole vocabulary on one page: every key, its type, its default, what a value must be.

A key's comment, above it or behind it, is its line in the reference (reference.py). load.py reads keys from YAML and words;
checks.py sees what no single key can show. Nothing in this room imports torch: a recipe is checked in milliseconds.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from train.world.redact import redacted


class RecipeError(ValueError):
    """All faults of a recipe: one a line, each with place, value and remedy."""

    def __init__(self, where: str, faults: list[str]):
        self.faults = faults = [redacted(fault) for fault in faults]
        word = "fault" if len(faults) == 1 else "faults"
        super().__init__(f"{where}: {len(faults)} {word}\n" + "\n".join(f"  - {fault}" for fault in faults))


def _at_least(low: float) -> dict[str, Any]:
    return {"check": lambda v: v >= low, "rule": f"at least {low:g}"}


def _between(low: float, high: float) -> dict[str, Any]:
    return {"check": lambda v: low <= v <= high, "rule": f"from {low:g} to {high:g}"}


_POSITIVE = {"check": lambda v: v > 0, "rule": "above 0"}
_NAME = {"check": lambda v: re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", v) is not None, "rule": "letters, digits, '.', '_' and '-'"}


# what a number counts is part of its type
Tokens = Annotated[int, "tokens"]
Rows = Annotated[int, "rows"]
Steps = Annotated[int, "steps"]
Seconds = Annotated[int, "seconds"]
Minutes = Annotated[float, "minutes"]
Share = Annotated[float, "share"]
Norm = Annotated[float, "L2 norm"]
Loss = Annotated[float, "nats a token"]
Passes = Annotated[float, "passes"]
Gibibytes = Annotated[float, "GiB"]
Tflops = Annotated[float, "TFLOP/s"]


@dataclass(frozen=True, kw_only=True)
class Model:
    """The weights a run starts from, and how they are computed."""

    # a Hugging Face folder of safetensors, a GGUF file, or a Hub name
    path: str = field(metadata={"path": True})
    dtype: Literal["bf16", "fp32"] = "bf16"  # what is computed in; masters and Adam's moments are fp32 always
    # the kernel: flash-attn-4 (Hopper and newer), flash-attn, torch's varlen kernel (CUDA) or SDPA a document; auto: the first that is there
    attention: Literal["auto", "flash4", "flash", "torch_varlen", "sdpa"] = "auto"
    # what is computed again in the backward instead of kept: nothing, all of a layer (up to a third more work), that of every other layer, or
    # (selective) all but matrix products and attention
    activation_checkpointing: Literal["none", "full", "every_other", "selective"] = "none"
    # of a rank, for what selective layers keep: those that find no room keep their input alone; none: all layers are selective
    activation_budget: Gibibytes | None = field(default=None, metadata=_at_least(0))
    compile: bool = False  # torch.compile of each decoder layer: a minute more at the start, then faster
    # CUDA: liger's RMSNorm, RoPE, SwiGLU and cross-entropy, when installed; CPU: oneDNN's products where MKL leaves AVX-512 unused
    fused_kernels: Literal["auto", "none"] = "auto"
    loss_chunk: Tokens = field(default=1024, metadata=_at_least(1))  # tokens whose logits exist at once
    # the linear layers of a frozen base in 8.5 bits a weight (int8), or in 4.5 (nf4), as QLoRA has them; needs an adapter
    quantize: Literal["none", "int8", "nf4"] = "none"
    fingerprint: str | None = None  # what the loaded weights must add up to; a run prints it at its start
    # held-out loss above which the start is refused: wrong weights, or a wrong tokenizer
    max_start_loss: Loss | None = field(default=None, metadata=_POSITIVE)


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A low-rank adapter (LoRA) on a frozen base, where this section stands: W + scale * B A, of which A and B alone are trained."""

    rank: int | None = field(default=None, metadata=_at_least(1))  # of A and B; none: that of the adapter at `path`
    alpha: float | None = field(
        default=None, metadata=_POSITIVE
    )  # the scale is alpha / rank; none: 2 * rank, or that of the adapter at `path`
    # last names of linear layers, e.g. q_proj, or whole ones; none: all linear layers of the decoder, not its head
    targets: tuple[str, ...] = ()
    scaling: Literal["standard", "rslora"] = "standard"  # rslora: the scale is alpha / sqrt(rank), so that large ranks learn as fast
    # what is trained whole beside it: embeddings, head, norms, or last names of modules, each at 16 bytes a parameter
    train_also: tuple[str, ...] = ()
    path: Path | None = None  # an adapter's folder, of ours or of peft, to start from; none: A random, B zero


@dataclass(frozen=True, kw_only=True)
class Source:
    """Token shards to train on."""

    path: Path  # the folder of token shards
    weight: float | None = field(default=None, metadata=_POSITIVE)  # share of the tokens, in proportion; all sources have one, or none
    max_repeats: Passes | None = field(
        default=None, metadata=_POSITIVE
    )  # how often it may be read in all; then its weight goes to the others


@dataclass(frozen=True, kw_only=True)
class Data:
    """What is trained on, and how documents become rows."""

    sources: dict[str, Source]  # the shards, each under a name that metrics and messages use
    seq_len: Tokens = field(default=4096, metadata=_at_least(2))  # length of a row
    packing: Literal["split", "whole"] = (
        "split"  # split: documents are cut at row ends, no padding; whole: best fit, what fits a row is never cut
    )
    long_documents: Literal["cut", "drop"] = "cut"  # whole packing: what becomes of documents longer than a row
    seed: int = field(default=0, metadata=_at_least(0))  # of the order of the documents
    workers: int = field(default=1, metadata=_at_least(1))  # threads of a rank that pack rows


@dataclass(frozen=True, kw_only=True)
class HeldoutSource:
    """Token shards to evaluate on."""

    path: Path  # the folder of token shards


@dataclass(frozen=True, kw_only=True)
class Heldout:
    """What a run is judged by while it trains."""

    sources: dict[str, HeldoutSource] = field(default_factory=dict)  # shards that are never trained on, each under a name
    every_steps: Steps = field(default=0, metadata=_at_least(0))  # how often; 0: only before the first and after the last step
    max_rows: Rows | None = field(default=None, metadata=_at_least(1))  # rows of a source that are used; none: all
    # rules on the perplexity of a source, `general > 1.05x` (times what it was before step 1) or `papers > 12.5`: one that is broken at an
    # evaluation ends the run, saved; exit code 10
    stop_if: tuple[str, ...] = field(default=(), metadata={"alone": True})
    warn_if: tuple[str, ...] = field(default=(), metadata={"alone": True})  # the same, but the run goes on and says so
    prompts: tuple[str, ...] = ()  # answered greedily at every evaluation, into the log and TensorBoard
    prompt_tokens: Tokens = field(default=48, metadata=_at_least(1))  # longest answer to a prompt


@dataclass(frozen=True, kw_only=True)
class Optim:
    """AdamW."""

    lr: float = field(default=2e-5, metadata=_POSITIVE)  # peak learning rate
    # decay rates of the first and second moment
    betas: tuple[float, float] = field(
        default=(0.9, 0.95), metadata={"check": lambda v: all(0 <= b < 1 for b in v), "rule": "two numbers from 0 to below 1"}
    )
    eps: float = field(default=1e-8, metadata=_POSITIVE)  # added to the root of the second moment
    weight_decay: float = field(default=0.1, metadata=_at_least(0))  # decoupled, of matrices; norms and biases have none
    clip: Norm = field(default=1.0, metadata=_at_least(0))  # largest norm of the whole gradient; 0: no clipping
    # DeepSpeed's FusedAdam, which CUDA's compiler builds first, DeepSpeedCPUAdam, or torch's fused AdamW; auto: the last, offloaded the second
    kernel: Literal["auto", "fused", "cpu", "torch"] = "auto"
    # what gradients are sent in among the ranks: bf16 takes half the time on the wire and rounds each micro-batch's; they are summed up in fp32
    reduce_dtype: Literal["fp32", "bf16"] = "fp32"


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How the learning rate goes: linear warm-up, then the decay. Give the warm-up once; none of the three: 0.03 of the run."""

    # cosine to the floor, wsd flat and then linear to the floor, or constant
    kind: Literal["cosine", "wsd", "constant"] = "cosine"
    warmup_ratio: Share | None = field(default=None, metadata=_between(0, 1))  # warm-up as a share of the run
    warmup_steps: Steps | None = field(default=None, metadata=_at_least(0))  # warm-up in steps
    warmup_tokens: Tokens | None = field(default=None, metadata=_at_least(0))  # warm-up in tokens
    floor_ratio: Share = field(default=0.1, metadata=_between(0, 1))  # last learning rate as a share of the peak
    decay_ratio: Share = field(default=0.2, metadata=_between(0, 1))  # wsd: the last part of the run, which decays


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """When a run is saved, where, and which saves are kept."""

    every_steps: Steps = field(default=500, metadata=_at_least(0))  # how often; 0: only at the end
    keep_last: int = field(default=2, metadata=_at_least(1))  # newest checkpoints that are kept
    keep_every: Steps = field(default=0, metadata=_at_least(0))  # one in so many steps is kept for good; 0: none
    keep_best: int = field(default=1, metadata=_at_least(0))  # best ones by mean held-out loss that are kept
    to: str | None = None  # a URL like s3://bucket/folder: checkpoints go to TO/NAME there instead of runs/NAME/checkpoints
    background: bool = False  # write behind the steps, from a copy in host memory (12 bytes a parameter, shared by the ranks)
    trainer_state: bool = True  # masters and moments too: needed to resume
    allow: tuple[str, ...] = ()  # keys whose change a resume accepts although it changes the result


@dataclass(frozen=True, kw_only=True)
class Logging:
    """What is written of each step."""

    every_steps: Steps = field(default=1, metadata=_at_least(1))  # how often a step is printed; metrics.jsonl has every one
    to: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = (
        "tensorboard",
    )  # where curves go beside metrics.jsonl: tensorboard, wandb, mlflow, trackio
    project: str = field(default="astrollama", metadata=_NAME)  # under which wandb, mlflow and trackio keep the run
    tensorboard: bool = True  # false: no curves in runs/NAME/tensorboard, as if it were not in `to`
    peak_tflops: Tflops | None = field(default=None, metadata=_POSITIVE)  # dense bf16 peak of a device, for MFU; none: by its name


@dataclass(frozen=True, kw_only=True)
class Guard:
    """What becomes of steps that go wrong, and what ends a run."""

    max_nonfinite_in_a_row: Steps = field(default=10, metadata=_at_least(1))  # NaN or infinite, each skipped: so many end the run
    max_skipped_of_1000: Steps = field(
        default=20, metadata=_at_least(0)
    )  # of the last 1,000, skipped for whatever reason: more end the run
    # robust deviations above the median of recent steps from which a loss or gradient norm is a spike, and the step skipped; null: never
    spike_zscore: float | None = field(default=None, metadata=_POSITIVE)
    spike_window: Steps = field(default=128, metadata=_at_least(8))  # taken ones the median is of; nothing is judged before half are there
    rewind_after: Steps = field(default=5, metadata=_at_least(1))  # skipped in a row: the run goes back to a checkpoint, or ends
    # from the first skipped step back to the checkpoint, at least; the rows of these and of the skipped ones are left out from then on
    rewind_steps: Steps = field(default=20, metadata=_at_least(0))
    max_rewinds: int = field(default=0, metadata=_at_least(0))  # times a run goes back before it ends; 0: it never does
    replay: Path | None = None  # metrics.jsonl of another run, whose decisions are applied as they stand
    timeout_seconds: Seconds = field(default=600, metadata=_at_least(10))  # longest wait of a rank for the others
    # from a start to its end, its save included; none: as long as it takes, or as SLURM says
    minutes: Minutes | None = field(default=None, metadata=_POSITIVE)
    # from a SIGTERM to the SIGKILL that follows, as launcher and scheduler are set: a save that takes longer is not begun
    grace_seconds: Seconds = field(default=30, metadata=_at_least(0))
    hang_seconds: Seconds = field(default=45, metadata=_at_least(0))  # a run without a sign of progress for so long is ended; 0: it is not


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The run: its name, its length, its batch."""

    name: str = field(metadata=_NAME)  # of the run's folder, runs/NAME
    model: Model
    data: Data
    steps: Steps | None = field(default=None, metadata=_between(1, 1e9))  # the run's length; one of steps, tokens, epochs
    tokens: Tokens | None = field(default=None, metadata=_between(1, 1e15))  # the run's length over all ranks, rounded up to whole steps
    # the run's length as passes over the source with the largest weight; without weights over all documents
    epochs: Passes | None = field(default=None, metadata=_POSITIVE)
    tokens_per_step: Tokens = field(metadata=_at_least(1))  # the global batch; accumulation is derived from it, never set
    micro_batch: Rows = field(default=1, metadata=_at_least(1))  # rows a rank computes at once: memory and speed, never the result
    seed: int = field(
        default=0, metadata=_at_least(0)
    )  # of torch's random numbers, of which a Llama draws none; the order of the documents has data.seed
    deepspeed: Path = Path("ds_configs/zero3.json")  # the engine's settings, a file or one of ds_configs by its name
    runs: Path = Path("runs")  # the folder that runs lie in
    adapter: Adapter | None = None
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
    """Steps of the run; a length in tokens is rounded up to whole steps. One in epochs is settled first (preflight/epochs.py)."""
    assert run.epochs is None, f"epochs={run.epochs} of {run.name} are not settled"
    return run.steps if run.steps is not None else -(-run.tokens // run.tokens_per_step)


def warmup_steps(run: Recipe) -> float:
    """Warm-up in steps, fractional when it was given in tokens."""
    s = run.schedule
    if s.warmup_tokens is not None:
        return s.warmup_tokens / run.tokens_per_step
    if s.warmup_steps is not None:
        return s.warmup_steps
    return (s.warmup_ratio if s.warmup_ratio is not None else 0.03) * total_steps(run)
