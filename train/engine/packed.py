"""A model's files → packed slices (model/quantized.py): which weights a rank reads, and where their blocks go.

`with_own_weights` lets a packed model compute with what its files hold, a tensor at a time, so that the two can be compared.

A rank owns consecutive elements of the packed tensor, wherever they begin: it reads the weights of every block that it holds a byte of, and
counts those of the blocks that begin with it towards the tensor's checksum, so that each is counted once.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from train.model_files.dtypes import in_torch
from train.model_files.folder import WeightsError, read_folder
from train.model_files.header import Entry
from train.model_files.quantized import ELEMENTS, Format
from train.model_files.reader import read_range
from train.world.ranks import World


@dataclass(frozen=True)
class Blocks:
    """Of one rank: elements [first, stop) of the packed tensor; each block takes `per` of them. Weights are counted from `own` on."""

    format: Format
    first: int
    stop: int
    per: int

    @property
    def wanted(self) -> tuple[int, int]:
        """The weights [first, stop) that are read."""
        if self.first == self.stop:
            return 0, 0
        return self.first // self.per * ELEMENTS, -(-self.stop // self.per) * ELEMENTS

    @property
    def own(self) -> int:
        return -(-self.first // self.per) * ELEMENTS

    def put(self, piece: torch.Tensor, at: int, slice_: torch.Tensor, name: str) -> None:
        """Pack weights [at, …) of the tensor, whole blocks of them, into this rank's slice."""
        values = piece.float()
        if not bool(torch.isfinite(values).all()):
            raise WeightsError(f"{name}: holds values that are not finite; fetch the model again")
        packed = torch.from_numpy(self.format.pack(values.numpy())).reshape(-1).view(slice_.dtype)
        begin = at // ELEMENTS * self.per
        low, high = max(begin, self.first), min(begin + len(packed), self.stop)
        # bytes, not numbers: some of them are no numbers
        slice_.view(torch.uint8)[(low - self.first) * slice_.element_size() : (high - self.first) * slice_.element_size()] = (
            packed[low - begin : high - begin].view(torch.uint8).to(slice_.device)
        )


def blocks_of(parameter: nn.Parameter | None, first: int, stop: int) -> Blocks | None:
    """Of a rank's elements [first, stop); None: the parameter is not packed."""
    if getattr(parameter, "packed_shape", None) is None:
        return None
    format = parameter.packed_format
    return Blocks(format, first, stop, format.bytes // parameter.ds_tensor.element_size())


@contextmanager
def with_own_weights(model: nn.Module, parameters: dict[str, nn.Parameter], folder: Path, world: World) -> Iterator[None]:
    """Within it each packed layer computes with its own weight of a model folder, rounded to the compute dtype and dropped again.

    Every rank reads its share and all get the whole: all must make the same forward passes. A rank holds one tensor beside what it has.
    """
    names, entries = {id(p): name for name, p in parameters.items()}, read_folder(folder)
    layers = [module for module in model.modules() if getattr(module, "packed_shape", None)]
    for layer in layers:
        layer.own = functools.partial(_whole, entries[names[id(layer.weight)]], world)
    try:
        yield
    finally:
        for layer in layers:
            layer.own = None


def _whole(entry: Entry, world: World, like: torch.Tensor) -> torch.Tensor:
    world.beat.mark()
    each = -(-entry.numel // world.size)
    first, stop = min(world.rank * each, entry.numel), min((world.rank + 1) * each, entry.numel)
    mine = torch.zeros(each, dtype=in_torch(entry.dtype))
    for at, piece in read_range(entry, first, stop):
        mine[at - first : at - first + piece.numel()] = piece
    mine = mine.to(like.device, like.dtype)
    if world.size == 1:
        return mine.view(entry.shape)
    whole = torch.empty(each * world.size, dtype=like.dtype, device=like.device)
    dist.all_gather_into_tensor(whole, mine)
    return whole[: entry.numel].view(entry.shape)
