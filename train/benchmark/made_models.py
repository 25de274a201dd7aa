"""Llama folders and checkpoints of any size, of random weights, written a tensor at a time: to measure loading, saving and exporting with."""

from __future__ import annotations

import itertools
import json
import math
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from train.checkpoint import layout, manifest
from train.model_files.dtypes import known
from train.model_files.folder import INDEX, index_text, plan_files
from train.model_files.shapes import of_llama
from train.model_files.writer import Writer
from train.world.places import sha256

VOCABULARY, PIECE = 32000, 1 << 22


def shape_of(parameters: float, vocabulary: int = VOCABULARY) -> dict[str, Any]:
    """A Llama shape of about so many parameters: width near 96 times the depth, as the published ones."""
    best = None
    for heads in range(1, 129):
        width = 64 * heads
        mlp = 64 * round(width * 8 / 3 / 64)
        layer = 4 * width**2 + 3 * width * mlp + 2 * width
        layers = max(1, round((parameters - 2 * vocabulary * width - width) / layer))
        total = layers * layer + 2 * vocabulary * width + width
        score = abs(total - parameters) / parameters + 0.1 * abs(width / layers - 96) / 96
        if best is None or score < best[0]:
            best = score, {
                "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": heads,
                "intermediate_size": mlp, "vocab_size": vocabulary, "max_position_embeddings": 2048, "tie_word_embeddings": False,
            }  # fmt: skip
    return best[1]


def write(folder: Path, shape: dict[str, Any], dtype: torch.dtype, max_file_bytes: int = 1 << 30, seed: int = 0) -> Path:
    """A Hugging Face folder of that shape; no tokenizer. Memory does not grow with the model."""
    _write(folder, shape, dtype, 1, max_file_bytes, seed)
    return folder


def checkpoint(folder: Path, shape: dict[str, Any], ranks: int = 2) -> Path:
    """The bf16 weights of a checkpoint of ours, as several ranks write them, with its manifest and no trainer state."""
    files = _write(folder, shape, torch.bfloat16, ranks)
    files |= {path.name: (path.stat().st_size, sha256(path)) for path in folder.glob("*.json")}
    manifest.write(folder, int(layout.STEP.match(folder.name)[1]), files)
    return folder


def deepspeed_checkpoint(folder: Path, shape: dict[str, Any], ranks: int = 2) -> Path:
    """A checkpoint as DeepSpeed's stage 3 leaves it: masters as they are; the moments, which no converter reads, are views of one number."""
    shapes, tag = _described(folder, shape, torch.bfloat16), folder / "global_step1"
    tag.mkdir()
    (folder / "latest").write_text(tag.name)
    each = sum(-(-math.prod(shape) // ranks) for shape in shapes.values())
    block = torch.randn(PIECE // 2, generator=torch.Generator().manual_seed(0))
    names = OrderedDict((n, torch.Size(s)) for n, s in shapes.items())
    scratch = folder / "scratch"
    for rank in range(ranks):
        flat = torch.from_file(str(scratch), shared=True, size=each)  # on disk: a rank's share may be more than memory
        for at in range(0, each, len(block)):
            flat[at : at + len(block)] = block[: min(len(block), each - at)] * (1 + rank / 8)
        moment = torch.zeros(1).expand(each)
        inner = {
            "state": {0: {"step": torch.tensor(1.0), "exp_avg": moment, "exp_avg_sq": moment}},
            "param_groups": [{"lr": 1e-4, "params": [0]}],
        }
        zero = {"zero_stage": 3, "loss_scaler": None, "partition_count": ranks, "optimizer_state_dict": inner, "fp32_flat_groups": [flat]}
        torch.save({"optimizer_state_dict": zero}, tag / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
        state = {
            "module": OrderedDict((n, torch.empty(0, dtype=torch.bfloat16)) for n in shapes), "buffer_names": [], "optimizer": None,
            "param_shapes": [names], "frozen_param_shapes": None, "shared_params": {}, "frozen_param_fragments": None, "global_steps": 1,
            "dp_world_size": ranks, "mp_world_size": 1, "ds_version": "0.19.8",
        }  # fmt: skip
        torch.save(state, tag / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
        del flat, zero, inner
        scratch.unlink()
    return folder


def _described(folder: Path, shape: dict[str, Any], dtype: torch.dtype) -> dict[str, tuple[int, ...]]:
    """Write the folder's config; returns the tensors it describes."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **shape, "dtype": known(dtype).name}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return of_llama(config).shapes


def _write(
    folder: Path, shape: dict[str, Any], dtype: torch.dtype, ranks: int, max_file_bytes: int = 1 << 30, seed: int = 0
) -> dict[str, tuple[int, str]]:
    """Config, weights and their index; returns {weight file: (bytes, sha256)}."""
    shapes = _described(folder, shape, dtype)
    numels = {n: math.prod(s) for n, s in shapes.items()}
    block = torch.randn(PIECE, generator=torch.Generator().manual_seed(seed)) * 0.02
    files = plan_files(numels, dtype.itemsize, ranks, max_file_bytes)
    number, written = itertools.count(), {}
    for file in files:
        writer = Writer(folder / file.name, {n: (known(dtype), shapes[n]) for n in file.tensors})
        for name in file.tensors:
            writer.stream(name, _values(block, numels[name], len(shapes[name]), next(number), dtype))
        written[file.name] = writer.close()
    (folder / INDEX).write_text(index_text({f.name: f.tensors for f in files}, sum(numels.values()) * dtype.itemsize))
    return written


def _values(block: torch.Tensor, numel: int, dimensions: int, number: int, dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """A matrix repeats the block from a place of its own; a vector is near one, as a norm's."""
    values = block.roll(number * 7919)
    values = (values if dimensions > 1 else values + 1).to(dtype)
    for at in range(0, numel, PIECE):
        yield values[: min(PIECE, numel - at)]
