"""A model's files → packed slices (model/nf4.py): which weights a rank reads, and where their blocks go.

A rank owns consecutive elements of the packed tensor, wherever they begin: it reads the weights of every block that it holds a byte of, and
counts those of the blocks that begin with it towards the tensor's checksum, so that each is counted once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from train.model_files import nf4
from train.model_files.folder import WeightsError


@dataclass(frozen=True)
class Blocks:
    """Of one rank: elements [first, stop) of the packed tensor; each block takes `per` of them. Weights are counted from `own` on."""

    first: int
    stop: int
    per: int

    @property
    def wanted(self) -> tuple[int, int]:
        """The weights [first, stop) that are read."""
        if self.first == self.stop:
            return 0, 0
        return self.first // self.per * nf4.ELEMENTS, -(-self.stop // self.per) * nf4.ELEMENTS

    @property
    def own(self) -> int:
        return -(-self.first // self.per) * nf4.ELEMENTS

    def put(self, piece: torch.Tensor, at: int, slice_: torch.Tensor, name: str) -> None:
        """Pack weights [at, …) of the tensor, whole blocks of them, into this rank's slice."""
        values = piece.float()
        if not bool(torch.isfinite(values).all()):
            raise WeightsError(f"{name}: holds values that are not finite; fetch the model again")
        packed = torch.from_numpy(nf4.pack(values.numpy())).reshape(-1).view(slice_.dtype)
        begin = at // nf4.ELEMENTS * self.per
        low, high = max(begin, self.first), min(begin + len(packed), self.stop)
        # bytes, not numbers: some of them are no numbers
        slice_.view(torch.uint8)[(low - self.first) * slice_.element_size() : (high - self.first) * slice_.element_size()] = (
            packed[low - begin : high - begin].view(torch.uint8).to(slice_.device)
        )


def blocks_of(parameter: nn.Parameter | None, first: int, stop: int) -> Blocks | None:
    """Of a rank's elements [first, stop); None: the parameter is not packed."""
    if getattr(parameter, "packed_shape", None) is None:
        return None
    return Blocks(first, stop, nf4.BYTES // parameter.ds_tensor.element_size())
