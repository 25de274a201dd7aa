"""Weights → Hugging Face weight files: planned alike on every rank, each file written by one rank, a tensor at a time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from train.engine.weights import slice_range
from train.model_files.writer import Writer
from train.world.places import as_os_errors
from train.world.ranks import World

if TYPE_CHECKING:
    from train.checkpoint.trainer_state import Slices


def save(slices: Slices, folder: Path, world: World) -> dict[str, tuple[int, str]]:
    """Write the weights; returns {file: (bytes, sha256)} of the files this rank wrote.

    Files are interleaved tensor by tensor so that their owners write at the same time. A rank whose disk fails takes
    part in the remaining gathers, or the others would wait for it, and raises at the end.
    """
    files = slices.files(world.size)
    writers: dict[str, Writer] = {}
    fault: OSError | None = None
    for turn in range(max(len(f.tensors) for f in files)):
        for f in (f for f in files if turn < len(f.tensors)):
            world.beat.mark()
            name = f.tensors[turn]
            held = slices.parameter(name)
            parts = gather_slices(slices.weight(held), math.prod(slices.shapes[held]), f.owner, world)
            if parts is None or fault:
                continue
            try:
                with as_os_errors(folder / f.name):
                    if turn == 0:
                        writers[f.name] = Writer(folder / f.name, slices.entries(f))
                    writers[f.name].stream(name, parts)
            except OSError as error:
                fault = error
    if fault:
        raise fault
    written = {}
    for name, writer in writers.items():
        with as_os_errors(folder / name):
            written[name] = writer.close()
    return written


def gather_slices(mine: torch.Tensor, numel: int, owner: int, world: World) -> list[torch.Tensor] | None:
    """On the owner, a parameter's slices in rank order without padding; None elsewhere.

    Args:
        mine: (padded slice,). numel: elements of the whole parameter.
    """
    if world.size == 1:
        return [mine[:numel]]
    mine = mine.to(world.device)
    got = [torch.empty_like(mine) for _ in range(world.size)] if world.rank == owner else None
    dist.gather(mine, got, dst=owner, group=world.group)
    if got is None:
        return None
    lengths = [b - a for a, b in (slice_range(numel, r, world.size) for r in range(world.size))]
    return [part[:n] for part, n in zip(got, lengths, strict=True)]
