"""A checkpoint → a Hugging Face folder in bf16 or fp32, one tensor at a time, nothing visible until it is whole.

`tensors_of` says where each tensor's values lie; `write_model` streams them through the cast into safetensors shards.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from train import checkpoint, shard_files, weights
from train.safetensors_io import Entry, read_header, read_range
from train.safetensors_writer import Writer
from train.tensor_stream import Tensor

MAX_SHARD_BYTES = 5 << 30
CHUNK_ELEMENTS = 1 << 22  # 16 MiB of fp32 at a time: memory does not grow with the tensor


class ExportError(ValueError):
    """The checkpoint cannot be exported; nothing was written."""


def tensors_of(folder: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of a checkpoint of ours or any Hugging Face folder; fp32 comes from the masters where there are some.

    Raises:
        ExportError, WeightsError, SafetensorsError: damaged, or not a model folder.
    """
    if not folder.is_dir():
        raise ExportError(f"{folder}: no such folder; a checkpoint is a folder like runs/NAME/checkpoints/step_000500")
    is_ours = (folder / checkpoint.STATE).is_file() or (folder / checkpoint.MANIFEST).is_file()
    if is_ours and (faults := checkpoint.faults_of(folder)):
        raise ExportError(f"{folder}: damaged, not exported:\n" + "\n".join(f"  - {f}" for f in faults[:10]))
    entries = weights.read_folder(folder)
    index = folder / "trainer" / "index.json"
    if dtype == torch.float32 and index.is_file():
        return _masters(folder, json.loads(index.read_text()), entries)
    return {name: Tensor(e.shape, _reader([e])) for name, e in entries.items() if not weights.HARMLESS.search(name)}


def _masters(folder: Path, index: dict, entries: dict[str, Entry]) -> dict[str, Tensor]:
    size = index["world_size"]
    ranks = [read_header(folder / "trainer" / f"rank_{r:05d}_of_{size:05d}.safetensors") for r in range(size)]
    return {name: Tensor(e.shape, _reader([r[f"master/{name}"] for r in ranks])) for name, e in entries.items()}


def _reader(entries: list[Entry]) -> Callable[[], Iterator[torch.Tensor]]:
    def parts() -> Iterator[torch.Tensor]:
        for entry in entries:
            for _, piece in read_range(entry, 0, entry.numel, CHUNK_ELEMENTS):
                yield piece

    return parts


def write_model(
    tensors: dict[str, Tensor], out: Path, dtype: torch.dtype, companions: Path, card: str, progress: Callable[[int], None] = lambda n: None
) -> None:
    """Publish a Hugging Face folder atomically.

    Args:
        companions: folder whose config, tokenizer and generation config go along. card: README.md. progress: called with bytes written.
    Raises:
        ExportError: the folder exists, or a value is not finite.
    """
    if out.exists():
        raise ExportError(f"{out}: exists already; give another folder, or remove it first")
    if not (companions / "config.json").is_file():
        raise ExportError(f"{companions}: has no config.json; give the model's with --config DIR")
    out.parent.mkdir(parents=True, exist_ok=True)
    tmp = out.parent / f".{out.name}.tmp-{secrets.token_hex(4)}"
    tmp.mkdir()
    try:
        _write_shards(tensors, tmp, dtype, progress)
        for name in checkpoint.COMPANIONS:
            if (companions / name).is_file():
                shutil.copyfile(companions / name, tmp / name)
        checkpoint.fix_config(tmp, dtype)
        (tmp / "README.md").write_text(card, encoding="utf-8")
        for path in tmp.iterdir():
            checkpoint.sync(path)
        checkpoint.sync(tmp)
        os.rename(tmp, out)
        checkpoint.sync(out.parent)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def _write_shards(tensors: dict[str, Tensor], tmp: Path, dtype: torch.dtype, progress: Callable[[int], None]) -> None:
    numels = {n: math.prod(t.shape) for n, t in tensors.items()}
    files = shard_files.plan_files(numels, dtype.itemsize, 1, MAX_SHARD_BYTES)
    for file in files:
        writer = Writer(tmp / file.name, {n: (dtype, tensors[n].shape) for n in file.tensors})
        for name in file.tensors:
            writer.stream(name, (_finite(p.to(dtype), name) for p in tensors[name].parts()))
            progress(numels[name] * dtype.itemsize)
        writer.close()
    index = {"metadata": {"total_size": sum(numels.values()) * dtype.itemsize}, "weight_map": {n: f.name for f in files for n in f.tensors}}
    (tmp / weights.INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _finite(part: torch.Tensor, name: str) -> torch.Tensor:
    if not bool(torch.isfinite(part).all()):
        raise ExportError(f"{name}: holds values that are not finite; this checkpoint must not be published, take an earlier one")
    return part


def model_card(folder: Path, dtype: torch.dtype) -> str:
    """README.md of an export: what it was made from, by which recipe, and how far."""
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [astronomy, llama]",
        "---",
        f"# {folder.resolve().parent.parent.name}",
        "",
    ]
    state_file = folder / checkpoint.STATE
    if not state_file.is_file():
        return "\n".join([*lines, f"Weights in {str(dtype).removeprefix('torch.')}.", ""])
    state = json.loads(state_file.read_text())
    recipe = state["recipe"]
    facts = {
        "base model": recipe["model"]["path"],
        "training": f"{state['step']:,} steps, {state['tokens']:,} tokens, {recipe['tokens_per_step']:,} tokens a step, rows of {recipe['data']['seq_len']}",
        "sources": ", ".join(
            f"{n}{'' if s['weight'] is None else ' ' + format(s['weight'], 'g')}" for n, s in recipe["data"]["sources"].items()
        ),
        "optimizer": f"AdamW, lr {recipe['optim']['lr']:g} {recipe['schedule']['kind']}, betas {recipe['optim']['betas']}, weight decay {recipe['optim']['weight_decay']:g}, clip {recipe['optim']['clip']:g}",
        "weights": str(dtype).removeprefix("torch."),
        "versions": ", ".join(f"{k} {v}" for k, v in state["versions"].items()),
    }
    if state.get("heldout_loss") is not None:
        facts["held-out perplexity"] = f"{math.exp(state['heldout_loss']):.3f} (mean over held-out sources of the loss)"
    lines += ["Full-parameter training with astrollama-trainer (DeepSpeed ZeRO-3, packed documents).", "", "| | |", "|---|---|"]
    return "\n".join([*lines, *(f"| {k} | {v} |" for k, v in facts.items()), ""])
