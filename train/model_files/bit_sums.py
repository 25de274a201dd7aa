"""Checksums of a tensor's bits that add up over slices, and the fingerprint of a model's weights made of them. Without torch."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable

import numpy as np

CHUNK = 1 << 16
INT = {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64}


@functools.cache
def multipliers() -> np.ndarray:
    """(chunk,) odd pseudo-random int64 (splitmix64 of the position)."""
    z = (np.arange(1, CHUNK + 1, dtype=np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) | np.uint64(1)).view(np.int64)


def chunks(first: int, count: int) -> Iterable[tuple[int, int, int, int]]:
    """How a slice of `count` elements from `first` on is cut: (begin in the slice, its length, place in the multipliers, chunk's factor)."""
    at = 0
    while at < count:
        chunk, inside = divmod(first + at, CHUNK)
        length = min(CHUNK - inside, count - at)
        yield at, length, inside, (chunk * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) | 1
        at += length


def checksum(values: np.ndarray, first: int) -> int:
    """Position-dependent sum of a slice's bits, modulo 2^64: the sums of all slices of a tensor add up to the tensor's.

    Element i counts bits(i) * P[i mod 65536] * Q[i div 65536] with odd pseudo-random P and Q, so that a value changed,
    moved or exchanged with another changes the sum. It guards against mistakes, not against an adversary.

    Args:
        values: 1-D slice. first: the index of its first element in the flattened tensor.
    """
    # numpy multiplies into one small buffer: half the time of torch, which widens the bits first
    bits, by, room = values.view(INT[values.itemsize]), multipliers(), np.empty(CHUNK, dtype=np.int64)
    total = 0
    for at, length, inside, factor in chunks(first, len(bits)):
        total += int(np.multiply(bits[at : at + length], by[inside : inside + length], out=room[:length]).sum()) * factor
    return total % (1 << 64)


def fingerprint(rows: Iterable[tuple[str, tuple[int, ...], str, int]]) -> str:
    """Of a model's weights: (name, shape, dtype's name in torch, checksum) of every tensor, a tied one once."""
    lines = "".join(f"{name} {list(shape)} torch.{dtype} {total:016x}\n" for name, shape, dtype, total in sorted(rows))
    return hashlib.sha256(lines.encode()).hexdigest()[:32]
