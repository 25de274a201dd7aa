"""A model's linear products alone: each layer's own shapes and weights, forward, towards the input and towards the weight; nothing else.

Their outputs are let go at once, and the process keeps the memory (calls.py sets the allocator so): a rate that a step cannot exceed.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from train.benchmark.step.job import Job, recipe_of
from train.model import causal_lm, products
from train.world.ranks import World


def measure(values: dict[str, Any], world: World) -> dict[str, Any]:
    """tokens/s at which the products alone of a step would run, by the kernel that the trainer chooses."""
    job = Job.of(values)
    recipe = recipe_of(job, world.size, on_cuda=False)
    model, _ = causal_lm.build(causal_lm.config_of(Path(recipe.model.path)), recipe.model, world.device, 1)
    tokens = recipe.micro_batch * recipe.data.seq_len
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    weights = [torch.randn(module.out_features, module.in_features) for module in linear]
    pieces = [min(recipe.model.loss_chunk, tokens) if module is model.hf.get_output_embeddings() else tokens for module in linear]
    inputs = {w.shape[1]: torch.randn(tokens, w.shape[1]) for w in weights}
    grads = {(w.shape[0], piece): torch.randn(piece, w.shape[0]) for w, piece in zip(weights, pieces, strict=True)}
    onednn, seconds = products.chosen(), []
    for _ in range(job.warmup + job.steps):
        begun = time.perf_counter()
        for weight, piece in zip(weights, pieces, strict=True):
            for at in range(0, tokens, piece):
                products.times_transposed(inputs[weight.shape[1]][at : at + piece], weight, onednn)
        for weight, piece in zip(reversed(weights), reversed(pieces), strict=True):
            grad = grads[weight.shape[0], piece]
            for at in range(0, tokens, piece):
                part, given = inputs[weight.shape[1]][at : at + piece], grad[: min(piece, tokens - at)]
                products.times_transposed(given, weight.t(), onednn)
                products.times_transposed(given.t(), part.t(), onednn)
        seconds.append(time.perf_counter() - begun)
    spent = statistics.median(seconds[job.warmup :])
    flops = 6 * tokens * sum(w.numel() for w in weights)
    return {"tokens/s": tokens / spent, "GFLOP/s": flops / spent / 1e9}
