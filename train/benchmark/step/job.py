"""What is to be measured: a recipe, its own or one made for a size, with the words that replace its values.

`Job` travels to the ranks as JSON; `recipe_of(job, ranks, on_cuda)` is the recipe as it is then computed.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from train.benchmark.ranks import BenchError
from train.recipe.load import load
from train.recipe.reference import keys
from train.recipe.vocabulary import Data, Model, Recipe, Source

MADE = {"data.seq_len": "2048", "data.packing": "whole", "micro_batch": "4"}  # of a recipe made for a size


@dataclass(frozen=True, kw_only=True)
class Job:
    """One measurement.

    overrides: `key=value` words, keys in full. model: a folder, where there is no recipe. size: random weights of this shape and made documents instead of the recipe's own;
    layers: so many of it. accumulation: micro-batches a step; None: as the recipe's batch has it. shards: documents of this folder
    instead of made ones. steps and warmup: timed steps, and steps before them. trace: where a profile goes.
    """

    recipe: str | None = None
    overrides: tuple[str, ...] = ()
    model: str | None = None
    size: str | None = None
    layers: int | None = None
    shards: str | None = None
    accumulation: int | None = None
    steps: int = 10
    warmup: int = 2
    padded: bool = False
    mean_tokens: int = 654
    peak_tflops: float | None = None
    trace: str | None = None
    phases: bool = True
    collectives: bool = False

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Job:
        return cls(**values | {"overrides": tuple(values["overrides"])})

    def with_words(self, words: tuple[str, ...]) -> Job:
        """The job with further overrides, which win over those of the same key."""
        new = {word.partition("=")[0] for word in words}
        kept = tuple(word for word in self.overrides if word.partition("=")[0] not in new)
        return dataclasses.replace(self, overrides=(*kept, *words))


def add_row_arguments(parser: argparse.ArgumentParser, ranks: str = "") -> None:
    """Of a comparison on one row a rank and step: `--seq-len`, `--ranks` (of what, in words), `--pairs`, `--steps`, `--warmup`."""
    add = parser.add_argument
    add("--seq-len", type=int, default=1536, help="tokens of a row, one row a rank and step (default: %(default)s)")
    add("--ranks", type=int, default=2, help=f"{ranks}(default: %(default)s)")
    add("--pairs", type=int, default=5, help="default: %(default)s")
    add("--steps", type=int, default=3, help="steps measured in each start (default: %(default)s)")
    add("--warmup", type=int, default=1, help="steps before, not measured (default: %(default)s)")


def of_rows(args: argparse.Namespace, model: Path) -> Job:
    """The trainer's side of such a comparison: whole documents in one row a rank, all activations kept, a CPU's engine settings."""
    words = (
        f"data.seq_len={args.seq_len}", "micro_batch=1", "data.packing=whole", "data.long_documents=drop", "model.activation_checkpointing=none",
        "deepspeed=cpu",
    )  # fmt: skip
    return Job(
        model=str(model.absolute()), shards=str(args.shards.absolute()), overrides=words, accumulation=1, steps=args.steps, warmup=args.warmup, phases=False
    )  # fmt: skip


def full_key(key: str) -> str:
    """`activation_checkpointing` → `model.activation_checkpointing`; a key in full as it stands.

    Raises:
        BenchError: no key of a recipe ends so, or several do.
    """
    known = [f"{k.section}.{k.name}".strip(".") for k in keys()]
    if key in known or "." in key:
        return key
    found = [name for name in known if name.rpartition(".")[2] == key and "NAME" not in name]
    if len(found) != 1:
        near = difflib.get_close_matches(key, [name.rpartition(".")[2] for name in known] + known, n=1)
        remedy = (
            f"it is one of {', '.join(found)}: write it in full"
            if found
            else f"did you mean {near[0]}?"
            if near
            else "see pretrain.py --keys"
        )
        raise BenchError(f"{key}: not a key of a recipe; {remedy}")
    return found[0]


def full_word(word: str) -> str:
    key, sign, value = word.partition("=")
    return f"{full_key(key)}={value}" if sign else word


def recipe_of(job: Job, ranks: int, on_cuda: bool) -> Recipe:
    """The recipe as it is computed by so many ranks. Raises RecipeError with every fault of it."""
    words = [full_word(word) for word in job.overrides]
    read = (lambda words: load(job.recipe, words)) if job.recipe else (lambda words: _made(job, words, on_cuda))
    accumulation = job.accumulation or (None if job.recipe else 1)
    if accumulation:  # the batch follows from it, whatever the recipe's own
        given = [word for word in words if not word.startswith(("micro_batch=", "tokens_per_step="))]
        row = read(given).data.seq_len
        rows = next((word.partition("=")[2] for word in reversed(words) if word.startswith("micro_batch=")), str(read(given).micro_batch))
        words = [word for word in words if not word.startswith("tokens_per_step=")]
        if rows.isdecimal():
            words.append(f"tokens_per_step={max(1, int(rows)) * accumulation * ranks * row}")
    recipe = read(words)
    if job.size:
        recipe = dataclasses.replace(
            recipe, model=dataclasses.replace(recipe.model, path=f"random weights of {job.size}", fingerprint=None)
        )
    return dataclasses.replace(recipe, epochs=None, tokens=None, steps=job.warmup + job.steps)  # a length of the benchmark's own


def _made(job: Job, words: list[str], on_cuda: bool) -> Recipe:
    path = f"random weights of {job.size}" if job.size else job.model
    assert path, "neither a recipe, nor a model, nor a size"
    plain = Recipe(
        name="benchmark", steps=1, tokens_per_step=1 << 20, model=Model(path=path, dtype="bf16" if on_cuda else "fp32"),
        data=Data(sources={"documents": Source(path=Path(job.shards or "made"))}),
        deepspeed=Path("ds_configs/zero3.json" if on_cuda else "ds_configs/cpu.json"),
    )  # fmt: skip
    given = dict(word.partition("=")[::2] for word in words)
    defaults = [f"{key}={value}" for key, value in MADE.items() if key not in given]
    seq_len = given.get("data.seq_len", MADE["data.seq_len"])
    if seq_len.isdecimal() and "tokens_per_step" not in given:
        defaults.append(f"tokens_per_step={int(seq_len) << 20}")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(plain.to_dict(), file)
        file.flush()
        return load(file.name, [*defaults, *words])
