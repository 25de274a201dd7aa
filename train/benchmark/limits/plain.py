"""The trainer's own model, loss and rows under torch's DistributedDataParallel: every rank holds all of it, nothing is sharded."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from train.benchmark.step import measure as sharded
from train.benchmark.step.job import Job, recipe_of
from train.data.loader import Loader
from train.data.mixture import SourceSpec
from train.engine.zero3 import decay_groups
from train.model import causal_lm
from train.preflight.epochs import data_settings
from train.world import garbage
from train.world.ranks import World


def measure(values: dict[str, Any], world: World) -> dict[str, Any]:
    """Median seconds of a step, on the slowest rank: forward, backward with the gradients' all-reduce, clip, AdamW."""
    job = Job.of(values)
    recipe = recipe_of(job, world.size, on_cuda=False)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // world.size))
    config = causal_lm.config_of(Path(recipe.model.path))
    model, _ = causal_lm.build(config, recipe.model, world.device, 1)
    model = _with_memory(model)
    shards = {"documents": sharded.opened(Path(job.shards), config.vocab_size)}
    settings = data_settings(recipe)
    loader = Loader(shards, type(settings)(**vars(settings) | {"specs": [SourceSpec("documents")]}), world.rank, world.size)
    parallel = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    # at lr 0, as the step that is compared with
    adam = torch.optim.AdamW(decay_groups(dict(model.named_parameters()), 0.1), lr=0.0, betas=tuple(recipe.optim.betas), fused=True)
    seconds = []
    with garbage.collected_by_hand():
        for number in range(job.warmup + job.steps):
            begun = time.perf_counter()
            [batch] = loader.next_step()
            [targets] = world.sum([batch.supervised])
            loss, _ = parallel(batch)
            (loss * (world.size / max(targets, 1))).backward()
            float(nn.utils.clip_grad_norm_(model.parameters(), recipe.optim.clip))
            adam.step()
            adam.zero_grad(set_to_none=False)
            world.sum([float(loss.detach())])
            seconds.append(world.max([time.perf_counter() - begun])[0])
            world.log0(f"plain, step {number + 1}/{job.warmup + job.steps}: {seconds[-1]:.2f} s")
            garbage.collect(number)
    loader.close()
    return {"seconds": statistics.median(seconds[job.warmup :])}


def _with_memory(model: causal_lm.PackedCausalLM) -> causal_lm.PackedCausalLM:
    """Random weights in place of the shapes alone; tied ones stay one."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                new = made.setdefault(id(parameter), nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype)))
                module._parameters[name] = new
    for parameter in made.values():
        nn.init.ones_(parameter) if parameter.dim() < 2 else nn.init.normal_(parameter, 0, 0.02)
    return model
