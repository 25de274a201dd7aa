"""Four-bit NormalFloat, as bitsandbytes has it: of 64 consecutive weights the largest magnitude in fp32, and 4 bits each. Without torch.

A block here is 36 bytes, 32 of codes (the first of two weights in the high half of a byte) and 4 of its magnitude, so that a tensor can be cut
anywhere and every part holds what it needs: 4.5 bits a weight. (Dettmers et al., QLoRA, arXiv 2305.14314, appendix E, without its second
quantization of the magnitudes.)
"""

from __future__ import annotations

import numpy as np

ELEMENTS, CODE_BYTES, BYTES = 64, 32, 36
VALUES = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip
_TABLE = np.array(VALUES, np.float32)
_MIDDLES = (_TABLE[1:] + _TABLE[:-1]) / np.float32(2)


def packed_bytes(numel: int) -> int:
    assert numel % ELEMENTS == 0, numel
    return numel // ELEMENTS * BYTES


def pack(values: np.ndarray) -> np.ndarray:
    """(n,) fp32, n a multiple of 64 → (n / 64, 36) uint8."""
    rows = values.reshape(-1, ELEMENTS)
    most = np.abs(rows).max(axis=1, keepdims=True)
    codes = np.searchsorted(_MIDDLES, rows / np.where(most > 0, most, np.float32(1))).astype(np.uint8)
    made = np.empty((len(rows), BYTES), np.uint8)
    made[:, :CODE_BYTES] = codes[:, 0::2] << 4 | codes[:, 1::2]
    made[:, CODE_BYTES:] = np.ascontiguousarray(most).view(np.uint8)
    return made


def unpack(blocks: np.ndarray) -> np.ndarray:
    """(blocks, 36) uint8 → (blocks * 64,) fp32."""
    codes = np.empty((len(blocks), ELEMENTS), np.uint8)
    codes[:, 0::2], codes[:, 1::2] = blocks[:, :CODE_BYTES] >> 4, blocks[:, :CODE_BYTES] & 15
    return (_TABLE[codes] * np.ascontiguousarray(blocks[:, CODE_BYTES:]).view(np.float32)).reshape(-1)


def held(values: np.ndarray) -> np.ndarray:
    """What is left of (n,) fp32 weights in four bits, as fp32."""
    return unpack(pack(values))
