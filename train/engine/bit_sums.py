"""Checksums of a tensor's bits that add up over slices: whoever holds whichever part, the sums of the parts are the tensor's."""

from __future__ import annotations

import functools

import numpy as np
import torch

_CHUNK = 1 << 16
_INT = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@functools.cache
def _multipliers(device: torch.device) -> torch.Tensor:
    """(chunk,) odd pseudo-random int64 (splitmix64 of the position)."""
    z = (np.arange(1, _CHUNK + 1, dtype=np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return torch.from_numpy(((z ^ (z >> np.uint64(31))) | np.uint64(1)).view(np.int64)).to(device)


def checksum(flat: torch.Tensor, first: int) -> int:
    """Position-dependent sum of a slice's bits, modulo 2^64: the sums of all slices of a tensor add up to the tensor's.

    Element i counts bits(i) * P[i mod 65536] * Q[i div 65536] with odd pseudo-random P and Q, so that a value changed,
    moved or exchanged with another changes the sum. It guards against mistakes, not against an adversary.

    Args:
        flat: 1-D slice. first: the index of its first element in the flattened tensor.
    """
    bits, multipliers = flat.detach().contiguous().view(_INT[flat.element_size()]), _multipliers(flat.device)
    if not flat.is_cuda:  # numpy multiplies into one small buffer: half the time of torch, which widens the bits first
        bits, multipliers = bits.numpy(), multipliers.numpy()
        room = np.empty(_CHUNK, dtype=np.int64)
    total, at = 0, 0
    while at < len(bits):
        chunk, inside = divmod(first + at, _CHUNK)
        count = min(_CHUNK - inside, len(bits) - at)
        if flat.is_cuda:
            part = int((bits[at : at + count].long() * multipliers[inside : inside + count]).sum())
        else:
            part = int(np.multiply(bits[at : at + count], multipliers[inside : inside + count], out=room[:count]).sum())
        total += part * ((chunk * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) | 1)
        at += count
    return total % (1 << 64)
