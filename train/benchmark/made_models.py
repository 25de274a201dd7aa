"""Llama folders of any size, of random weights, written a tensor at a time: to measure loading and saving with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from train.model_files.dtypes import known
from train.model_files.folder import INDEX, plan_files
from train.model_files.writer import Writer

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


def write(folder: Path, shape: dict[str, Any], dtype: torch.dtype, max_shard_bytes: int = 1 << 30, seed: int = 0) -> Path:
    """A Hugging Face folder of that shape; no tokenizer. Memory does not grow with the model."""
    from accelerate import init_empty_weights
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**shape)
    config.architectures, config.dtype = ["LlamaForCausalLM"], str(dtype).removeprefix("torch.")
    with init_empty_weights():
        shapes = {n: tuple(p.shape) for n, p in LlamaForCausalLM(config).named_parameters()}
    folder.mkdir(parents=True, exist_ok=True)
    numels = {n: torch.Size(s).numel() for n, s in shapes.items()}
    block = torch.randn(PIECE, generator=torch.Generator().manual_seed(seed)) * 0.02
    weight_map = {}
    for file in plan_files(numels, dtype.itemsize, 1, max_shard_bytes):
        writer = Writer(folder / file.name, {n: (known(dtype), shapes[n]) for n in file.tensors})
        for number, name in enumerate(file.tensors):
            writer.stream(name, _values(block, numels[name], len(shapes[name]), len(weight_map) + number, dtype))
        writer.close()
        weight_map |= dict.fromkeys(file.tensors, file.name)
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": sum(numels.values()) * dtype.itemsize}, "weight_map": weight_map}))
    config.save_pretrained(folder)
    return folder


def _values(block: torch.Tensor, numel: int, dimensions: int, number: int, dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """A matrix repeats the block from a place of its own; a vector is near one, as a norm's."""
    values = block.roll(number * 7919)
    values = (values if dimensions > 1 else values + 1).to(dtype)
    for at in range(0, numel, PIECE):
        yield values[: min(PIECE, numel - at)]
