"""Weights in four bits: as near as sixteen values allow, the same in numpy and torch, and the same as bitsandbytes'."""

import numpy as np
import pytest
import torch

from train.model import nf4 as in_torch
from train.model_files import nf4

ROWS, COLUMNS = 96, 128


@pytest.fixture
def weight() -> np.ndarray:
    values = np.random.default_rng(2).normal(0, 0.02, ROWS * COLUMNS).astype(np.float32)
    values[:64], values[70] = 0, 5.0  # a block of nothing, and one with a weight far out
    return values


def test_each_weight_is_the_nearest_of_sixteen_values_of_its_block(weight):
    got = nf4.held(weight).reshape(-1, 64)
    for row, kept in zip(weight.reshape(-1, 64), got, strict=True):
        choices = np.array(nf4.VALUES, np.float32) * np.abs(row).max()
        assert np.isin(kept, choices).all()
        assert (np.abs(kept - row) <= np.abs(choices[None] - row[:, None]).min(axis=1) * (1 + 1e-4) + 1e-9).all()
    assert np.array_equal(got[0], np.zeros(64)) and len(nf4.pack(weight)) * nf4.BYTES == nf4.packed_bytes(len(weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_engine_unpacks_what_was_packed(weight, dtype):
    packed = torch.from_numpy(nf4.pack(weight)).reshape(-1).view(dtype)
    got = in_torch.unpack(packed, ROWS, COLUMNS)
    assert got.dtype == dtype and torch.equal(got, torch.from_numpy(nf4.held(weight)).view(ROWS, COLUMNS).to(dtype))


def test_bitsandbytes_keeps_the_same(weight):
    functional = pytest.importorskip(
        "bitsandbytes.functional", reason="bitsandbytes is not installed: its four bits are not compared with ours"
    )
    codes, state = functional.quantize_4bit(
        torch.from_numpy(weight).view(ROWS, COLUMNS), blocksize=64, quant_type="nf4", compress_statistics=False
    )
    theirs = functional.dequantize_4bit(codes, state)
    ours = torch.from_numpy(nf4.held(weight)).view(ROWS, COLUMNS)
    blocks = nf4.pack(weight)
    assert np.array_equal(codes.reshape(-1, 32).numpy()[2:], blocks[2:, :32])
    assert torch.equal(theirs.view(-1, 64)[1:], ours.view(-1, 64)[1:])
