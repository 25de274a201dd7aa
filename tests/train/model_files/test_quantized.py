"""Weights in four and eight bits: each the nearest there is, the same in numpy and torch, four bits the same as bitsandbytes'."""

import numpy as np
import pytest
import torch

from train.model import quantized as in_torch
from train.model_files.quantized import FORMATS, PIECE, Format

ROWS, COLUMNS = 96, 128


@pytest.fixture
def weight() -> np.ndarray:
    values = np.random.default_rng(2).normal(0, 0.02, ROWS * COLUMNS).astype(np.float32)
    values[:64], values[70] = 0, 5.0  # a block of nothing, and one with a weight far out
    return values


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_each_weight_is_the_nearest_value_of_its_block(weight, format: Format):
    got = format.held(weight).reshape(-1, 64)
    assert len(format.values) == {"nf4": 16, "int8": 255}[format.name] and sorted(format.values) == list(format.values)
    for row, kept in zip(weight.reshape(-1, 64), got, strict=True):
        choices = np.array(format.values, np.float32) * np.abs(row).max()
        assert np.isin(kept, choices).all()
        assert (np.abs(kept - row) <= np.abs(choices[None] - row[:, None]).min(axis=1) * (1 + 1e-4) + 1e-9).all()
    assert np.array_equal(got[0], np.zeros(64)) and format.pack(weight).nbytes == format.packed_bytes(len(weight))
    assert format.bytes == {"nf4": 36, "int8": 68}[format.name]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_the_engine_unpacks_what_was_packed(weight, format: Format, dtype):
    packed = torch.from_numpy(format.pack(weight)).reshape(-1).view(dtype)
    got = in_torch.unpack(packed, format, (ROWS, COLUMNS))
    assert got.dtype == dtype and torch.equal(got, torch.from_numpy(format.held(weight)).view(ROWS, COLUMNS).to(dtype))
    rows = PIECE + 3  # more than is unpacked at once
    many = np.resize(weight, rows * 64)
    got = in_torch.unpack(torch.from_numpy(format.pack(many)).reshape(-1).view(dtype), format, (rows, 64))
    assert torch.equal(got.reshape(-1), torch.from_numpy(format.held(many)).to(dtype))


def test_bitsandbytes_keeps_the_same(weight):
    functional = pytest.importorskip(
        "bitsandbytes.functional", reason="bitsandbytes is not installed: its four bits are not compared with ours"
    )
    codes, state = functional.quantize_4bit(
        torch.from_numpy(weight).view(ROWS, COLUMNS), blocksize=64, quant_type="nf4", compress_statistics=False
    )
    theirs = functional.dequantize_4bit(codes, state)
    ours = torch.from_numpy(FORMATS["nf4"].held(weight)).view(ROWS, COLUMNS)
    blocks = FORMATS["nf4"].pack(weight)
    assert np.array_equal(codes.reshape(-1, 32).numpy()[2:], blocks[2:, :32])
    assert torch.equal(theirs.view(-1, 64)[1:], ours.view(-1, 64)[1:])
