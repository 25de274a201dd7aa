"""Weights → Hugging Face shards: planned alike on every rank, each file written by one rank, a tensor at a time."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from train.safetensors_writer import Writer
from train.weights import INDEX, slice_range
from train.world import World


@dataclass(frozen=True)
class WeightFile:
    name: str
    owner: int  # rank that writes it
    tensors: tuple[str, ...]


def plan_files(numels: dict[str, int], bytes_per_element: int, size: int, max_bytes: int = 5 << 30) -> list[WeightFile]:
    """Which tensor goes into which file: in model order, at most max_bytes a file, enough files for every rank to write one."""
    total = sum(numels.values()) * bytes_per_element
    limit = min(max_bytes, max(-(-total // size), 64 << 20))
    groups: list[list[str]] = [[]]
    held = 0
    for name, numel in numels.items():
        nbytes = numel * bytes_per_element
        if groups[-1] and held + nbytes > limit:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += nbytes
    n = len(groups)
    return [WeightFile(f"model-{i + 1:05d}-of-{n:05d}.safetensors", i % size, tuple(g)) for i, g in enumerate(groups)]


def save(parameters: dict[str, nn.Parameter], folder: Path, world: World) -> dict[str, tuple[int, str]]:
    """Write the weights as Hugging Face shards; returns {file: (bytes, sha256)} of the files this rank wrote.

    Files are interleaved tensor by tensor so that their owners write at the same time.
    """
    numels = {n: p.ds_numel for n, p in parameters.items()}
    dtype = next(iter(parameters.values())).ds_tensor.dtype
    files = plan_files(numels, dtype.itemsize, world.size)
    writers = {
        f.name: Writer(folder / f.name, {n: (dtype, tuple(parameters[n].ds_shape)) for n in f.tensors})
        for f in files
        if f.owner == world.rank
    }
    for turn in range(max(len(f.tensors) for f in files)):
        for f in files:
            if turn < len(f.tensors):
                name = f.tensors[turn]
                parts = gather_slices(parameters[name], f.owner, world)
                if parts is not None:
                    writers[f.name].stream(name, parts)
    written = {name: writer.close() for name, writer in writers.items()}
    if world.rank == 0:
        weight_map = {n: f.name for f in files for n in f.tensors}
        total = sum(numels.values()) * dtype.itemsize
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return written


def gather_slices(parameter: nn.Parameter, owner: int, world: World) -> list[torch.Tensor] | None:
    """On the owner, a parameter's slices in rank order without padding; None elsewhere."""
    mine = parameter.ds_tensor.detach().to(world.device)
    if world.size == 1:
        return [mine[: parameter.ds_numel]]
    got = [torch.empty_like(mine) for _ in range(world.size)] if world.rank == owner else None
    dist.gather(mine, got, dst=owner)
    if got is None:
        return None
    lengths = [b - a for a, b in (slice_range(parameter.ds_numel, r, world.size) for r in range(world.size))]
    return [part[:n] for part, n in zip(got, lengths, strict=True)]
