"""Weights in four or eight bits: of 64 consecutive ones the largest magnitude in fp32, and of each a code for its share of that. Without torch.

nf4    16 values, as bitsandbytes has them: 4.5 bits a weight. (Dettmers et al., QLoRA, arXiv 2305.14314, appendix E, without its second
       quantization of the magnitudes.)
int8   255 values, evenly spaced: 8.5 bits a weight

A block is its codes (of nf4 the first of two weights in the high half of a byte) and the 4 bytes of its magnitude, so that a tensor can be cut
anywhere and every part holds what it needs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

ELEMENTS = 64  # weights of a block
PIECE = 1 << 16  # blocks that the engine unpacks at once
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip
INT8 = tuple(float(np.float32(code / 127)) for code in range(-127, 128))


@dataclass(frozen=True)
class Format:
    """values: in order, between -1 and 1; a code is the number of one of them."""

    name: str
    code_bits: int
    values: tuple[float, ...] = field(repr=False)

    @property
    def code_bytes(self) -> int:
        """Of a block."""
        return ELEMENTS * self.code_bits // 8

    @property
    def bytes(self) -> int:
        """Of a block, its magnitude included."""
        return self.code_bytes + 4

    @property
    def unpacking(self) -> int:
        """Bytes a weight that unpacking takes beside what it gives, of PIECE blocks at a time: codes as 64-bit indices, values in fp32."""
        return self.code_bits + 4

    def packed_bytes(self, numel: int) -> int:
        assert numel % ELEMENTS == 0, numel
        return numel // ELEMENTS * self.bytes

    def pack(self, values: np.ndarray) -> np.ndarray:
        """(n,) fp32, n a multiple of 64 → (n / 64, bytes) uint8: of each weight the nearest value."""
        rows = values.reshape(-1, ELEMENTS)
        most = np.abs(rows).max(axis=1, keepdims=True)
        shares = rows / np.where(most > 0, most, np.float32(1))
        if self.code_bits == 8:  # evenly spaced
            codes = (np.rint(shares * np.float32(127)) + np.float32(127)).astype(np.uint8)
        else:
            table = np.array(self.values, np.float32)
            codes = np.searchsorted((table[1:] + table[:-1]) / np.float32(2), shares).astype(np.uint8)
        made = np.empty((len(rows), self.bytes), np.uint8)
        made[:, : self.code_bytes] = codes[:, 0::2] << 4 | codes[:, 1::2] if self.code_bits == 4 else codes
        made[:, self.code_bytes :] = np.ascontiguousarray(most).view(np.uint8)
        return made

    def unpack(self, blocks: np.ndarray) -> np.ndarray:
        """(blocks, bytes) uint8 → (blocks * 64,) fp32."""
        codes = blocks[:, : self.code_bytes]
        if self.code_bits == 4:
            codes = np.stack([codes >> 4, codes & 15], axis=2).reshape(len(blocks), ELEMENTS)
        most = np.ascontiguousarray(blocks[:, self.code_bytes :]).view(np.float32)
        return (np.array(self.values, np.float32)[codes] * most).reshape(-1)

    def held(self, values: np.ndarray) -> np.ndarray:
        """What is left of (n,) fp32 weights, as fp32."""
        return self.unpack(self.pack(values))


FORMATS = {"nf4": Format("nf4", 4, NF4), "int8": Format("int8", 8, INT8)}


def saved_bytes(quantize: str, itemsize: int) -> float:
    """Of each weight that would take itemsize bytes; `quantize` as the recipe has it."""
    return itemsize - FORMATS[quantize].bytes / ELEMENTS if quantize in FORMATS else 0.0
