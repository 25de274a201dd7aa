"""The dtypes of tensors on disk, as numpy arrays, and casts between them; without torch, whose import takes longer than most exports.

numpy has no bfloat16: such values travel as uint16 of the same bits, and nothing but `cast` and `is_finite` computes with them.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

BLOCK = 1 << 20  # elements cast at a time: what a cast needs beside them stays small, and numpy's cost of a call too


@dataclass(frozen=True)
class DType:
    """`name` is torch's, `code` is safetensors'; `array`: of the numpy arrays that hold it."""

    name: str
    code: str | None
    array: np.dtype

    @property
    def itemsize(self) -> int:
        return self.array.itemsize

    @property
    def is_floating_point(self) -> bool:
        return self is BF16 or self.array.kind == "f"

    def __str__(self) -> str:
        return self.name


def _of_numpy(name: str, code: str | None = None) -> DType:
    return DType(name, code, np.dtype(name))


FP64, FP32, FP16 = _of_numpy("float64", "F64"), _of_numpy("float32", "F32"), _of_numpy("float16", "F16")
BF16 = DType("bfloat16", "BF16", np.dtype(np.uint16))
ALL = (
    FP64, FP32, FP16, BF16, _of_numpy("int64", "I64"), _of_numpy("int32", "I32"), _of_numpy("int16", "I16"), _of_numpy("int8", "I8"),
    _of_numpy("uint8", "U8"), _of_numpy("bool", "BOOL"), _of_numpy("complex64"), _of_numpy("complex128"),
)  # fmt: skip
NAMED = {d.name: d for d in ALL}
OF_RECIPE = {"bf16": BF16, "fp16": FP16, "fp32": FP32}  # as recipes and command lines spell them
CODED = {d.code: d for d in ALL if d.code}


def known(dtype: DType | torch.dtype) -> DType:
    """The one of the same name; KeyError for a dtype that does not lie on disk here, such as a quantized one."""
    return NAMED[str(dtype).removeprefix("torch.")]


def in_torch(dtype: DType) -> torch.dtype:
    import torch

    return getattr(torch, dtype.name)


def tensor(values: np.ndarray, dtype: DType) -> torch.Tensor:
    """The same memory as a torch tensor."""
    import torch

    return torch.from_numpy(values).view(in_torch(dtype))


def cast(values: np.ndarray, have: DType, want: DType, out: np.ndarray | None = None) -> np.ndarray:
    """1-D values, rounded to nearest, ties to even, as torch rounds; NaN stays NaN.

    Args:
        out: memory for the result; without it, new memory, or `values` themselves when there is nothing to do.
    """
    if have is want:
        if out is None:
            return values
        out[:] = values
        return out
    assert have.is_floating_point and want.is_floating_point, (have, want)
    if out is None:
        out = np.empty(len(values), want.array)
    if have is BF16 and want is FP32:
        np.left_shift(values, np.uint32(16), out=out.view(np.uint32), casting="unsafe", dtype=np.uint32)
        return out
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit becomes infinite, as in torch
        if BF16 not in (have, want):
            out[:] = values
            return out
        scratch = _scratch()
        for at in range(0, len(values), BLOCK):
            part, into = values[at : at + BLOCK], out[at : at + BLOCK]
            if have is not FP32:
                part = cast(part, have, FP32)
            if want is BF16:
                _round(part, into, scratch[: len(part)])
            else:
                into[:] = part
    return out


_OWN = threading.local()


def _scratch() -> np.ndarray:
    """This thread's: fresh memory for every cast would cost as much as the cast."""
    if not hasattr(_OWN, "scratch"):
        _OWN.scratch = np.empty(BLOCK, np.uint32)
    return _OWN.scratch


def _round(values: np.ndarray, out: np.ndarray, bits: np.ndarray) -> None:
    """fp32 to bf16 bits: add half a unit of what is kept, less one bit where what is kept is even; then cut.

    (IEEE 754 4.3.1, roundTiesToEven; bf16 is the high half of fp32.)
    """
    given = values.view(np.uint32)
    np.right_shift(given, np.uint32(16), out=bits)
    bits &= np.uint32(1)
    bits += np.uint32(0x7FFF)
    bits += given
    bits >>= np.uint32(16)
    out[:] = bits  # the high halves are 0 by now
    if np.isnan(values.min()):  # which hands NaN on; the sum may have carried one over into a number
        out[np.isnan(values)] = 0x7FC0


def is_finite(values: np.ndarray, dtype: DType) -> bool:
    """Whether no value is infinite or NaN."""
    if not len(values) or not dtype.is_floating_point:
        return True
    if dtype.itemsize == 2:  # by the bits, which order like the numbers, negative ones above the positive
        infinity = 0x7F80 if dtype is BF16 else 0x7C00
        return int(values.view(np.int16).max()) < infinity and int(values.view(np.uint16).max()) < 0x8000 + infinity
    return bool(np.isfinite(values.max()) and np.isfinite(values.min()))  # both hand NaN on
