"""Checksums of a tensor's bits that add up over slices, of torch tensors wherever they lie (model_files/bit_sums.py has the sum)."""

from __future__ import annotations

import functools

import torch

from train.model_files import bit_sums

_INT = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@functools.cache
def _multipliers(device: torch.device) -> torch.Tensor:
    return torch.from_numpy(bit_sums.multipliers()).to(device)


def checksum(flat: torch.Tensor, first: int) -> int:
    """The sum of a 1-D slice's bits, modulo 2^64; first: the index of its first element in the flattened tensor."""
    bits = flat.detach().contiguous().view(_INT[flat.element_size()])
    if not flat.is_cuda:
        return bit_sums.checksum(bits.numpy(), first)
    by, total = _multipliers(flat.device), 0
    for at, length, inside, factor in bit_sums.chunks(first, len(bits)):
        total += int((bits[at : at + length].long() * by[inside : inside + length]).sum()) * factor
    return total % (1 << 64)
