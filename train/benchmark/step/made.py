"""Models of known shapes and documents of known lengths, random, in memory: no file, no download, no pyarrow."""

from __future__ import annotations

from typing import Any

import numpy as np

from train.benchmark.ranks import BenchError
from train.data.mixture import generator
from train.recipe.vocabulary import Recipe
from train.world.ranks import World

# (hidden, layers, heads, key-value heads, MLP, vocabulary)
SIZES = {
    "1m": (64, 2, 4, 2, 176, 4096), "25m": (288, 6, 6, 6, 768, 32000), "60m": (512, 8, 8, 8, 1376, 32000), "135m": (576, 30, 9, 3, 1536, 49152),
    "1b": (2048, 22, 32, 4, 5632, 32000), "3b": (3072, 28, 24, 8, 8192, 32000), "7b": (4096, 32, 32, 32, 11008, 32000),
    "8b": (4096, 32, 32, 8, 14336, 128256), "13b": (5120, 40, 40, 40, 13824, 32000), "70b": (8192, 80, 64, 8, 28672, 32000),
}  # fmt: skip
TIED = ("135m",)
MEAN_TOKENS, SIGMA = 654, 0.9  # a chat mixture's conversations, lognormal


def lengths(tokens: float, mean: int, longest: int) -> np.ndarray:
    """Of documents that fill about so many places."""
    made = generator(0, "lengths").lognormal(np.log(mean) - SIGMA**2 / 2, SIGMA, max(64, int(tokens / mean)))
    return np.clip(made.astype(np.int64), 2, longest)


class MadeDocuments:
    """Random tokens of given lengths, as the loader reads shards."""

    has_mask = False
    fingerprint = "made for a benchmark"

    def __init__(self, lengths: np.ndarray, vocabulary: int) -> None:
        self.lengths, self._vocabulary = lengths, vocabulary

    def __len__(self) -> int:
        return len(self.lengths)

    def tokens(self, i: int) -> np.ndarray:
        return generator(i, "tokens").integers(0, self._vocabulary, self.lengths[i], np.uint32)

    def id(self, i: int) -> str:
        return str(i)

    def check_unchanged(self, documents: object = None) -> None:
        pass


def shape_of(size: str, layers: int | None, seq_len: int) -> Any:
    """A transformers config."""
    from transformers import LlamaConfig

    hidden, depth, heads, kv_heads, mlp, vocabulary = SIZES[size]
    return LlamaConfig(
        hidden_size=hidden, num_hidden_layers=layers or depth, num_attention_heads=heads, num_key_value_heads=kv_heads, intermediate_size=mlp,
        vocab_size=vocabulary, max_position_embeddings=seq_len, tie_word_embeddings=size in TIED,
    )  # fmt: skip


def engine_of(shape: Any, recipe: Recipe, world: World, sources: int) -> tuple[Any, str]:
    """An engine of random weights, and what was chosen, in words."""
    from train.engine import zero3

    if recipe.adapter:
        raise BenchError("adapter: goes on a model's folder; leave --size out, or the adapter section")
    model, config, said = zero3.sharded(recipe, world, shape, sources)
    for parameter in model.parameters():  # each rank its own slice: no file, no full copy, no broadcast
        parameter.ds_tensor.fill_(1.0) if len(parameter.ds_shape) < 2 else parameter.ds_tensor.normal_(0, 0.02)
    engine = zero3.Engine(recipe, world, model, config)
    return engine, f"{said}; Adam: {engine.kernel}"
