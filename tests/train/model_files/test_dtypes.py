"""train/model_files/dtypes.py against torch: every 16-bit value, and the fp32 and fp64 ones where rounding is delicate."""

import itertools

import numpy as np
import pytest
import torch

from train.model_files.dtypes import BF16, FP16, FP32, FP64, cast, in_torch, is_finite, known, tensor

EDGES = (
    0, 1, 0x7FFF, 0x8000, 0x8001, 0x18000, 0x7F7F7FFF, 0x7F7F8000, 0x7F7FFFFF,  # the last ones round to infinity
    0x7F800000, 0x7F800001, 0x7FC00000, 0x7FFF8000, 0x7FFFFFFF,  # infinity and kinds of NaN, which a carry would make numbers
)  # fmt: skip


def delicate(dtype) -> np.ndarray:
    if dtype.itemsize == 2:
        return np.arange(1 << 16, dtype=np.uint16).view(dtype.array)
    g = np.random.default_rng(0)
    ties = (g.integers(0, 1 << 16, 50_000, dtype=np.uint32) << np.uint32(16)) | np.uint32(0x8000)
    edges = np.array(EDGES, np.uint32)
    bits = np.concatenate([edges, edges | np.uint32(1 << 31), ties, g.integers(0, 1 << 32, 1_500_000, dtype=np.uint32)])
    if dtype is FP32:
        return bits.view(np.float32)
    with np.errstate(invalid="ignore"):  # signalling NaN
        return np.concatenate([bits.view(np.float32).astype(np.float64), g.integers(0, 1 << 64, 500_000, dtype=np.uint64).view(np.float64)])


@pytest.mark.parametrize(("have", "want"), list(itertools.product((FP64, FP32, FP16, BF16), repeat=2)), ids=str)
def test_a_cast_is_torchs_bit_for_bit(have, want):
    values = delicate(have)
    expected = tensor(values.copy(), have).to(in_torch(want))
    for out in (None, np.empty(len(values), want.array)):
        got = tensor(cast(values, have, want, out), want)
        numbers = ~expected.isnan()
        assert torch.equal(got.isnan(), ~numbers) and numbers.any()
        assert torch.equal(got[numbers].view(torch.uint8), expected[numbers].view(torch.uint8))


@pytest.mark.parametrize("dtype", [FP64, FP32, FP16, BF16], ids=str)
def test_one_value_that_is_not_finite_is_seen_wherever_it_stands(dtype):
    for bad in (float("inf"), -float("inf"), float("nan"), -float("nan")):
        for at in (0, 1, 500, 999):
            values = torch.linspace(-3e4, 3e4, 1000).to(in_torch(dtype))
            array = values.view(torch.uint8).numpy().view(dtype.array)
            assert is_finite(array, dtype)
            values[at] = bad
            assert not is_finite(array, dtype), (bad, at)
    largest = torch.tensor([torch.finfo(in_torch(dtype)).max, torch.finfo(in_torch(dtype)).min], dtype=in_torch(dtype))
    assert is_finite(largest.view(torch.uint8).numpy().view(dtype.array), dtype)
    assert is_finite(np.empty(0, dtype.array), dtype)


def test_dtypes_go_by_torchs_names():
    assert known(torch.bfloat16) is BF16 and known(FP32) is FP32 and in_torch(FP16) == torch.float16 and f"{BF16}" == "bfloat16"
    with pytest.raises(KeyError):
        known(torch.float8_e4m3fn)
