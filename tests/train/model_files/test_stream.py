"""Reading by byte ranges, writing front to back: the hashes are those of the bytes, whatever the order and the place."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.made.tiny import joined
from train.model_files import stream as tensor_stream
from train.model_files.dtypes import BF16, FP32
from train.model_files.stream import Ahead, Extent, RangeReader, ReadError, Tensor
from train.model_files.writer import Writer


@pytest.fixture
def numbers(tmp_path, monkeypatch) -> tuple[Path, torch.Tensor]:
    monkeypatch.setattr(tensor_stream, "CHUNK_BYTES", 1 << 12)
    values = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "numbers"
    path.write_bytes(b"header!!" + values.numpy().tobytes())
    return path, values


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def extent(path: Path, first: int, count: int) -> Extent:
    return Extent(path, 8 + 4 * first, count, FP32)


@pytest.mark.parametrize("order", [[(0, 20_000)], [(5, 7), (100, 9000)], [(9000, 3000), (0, 50), (8000, 5000)], [(19_999, 1), (0, 20_000)]])
def test_a_file_is_verified_whatever_is_read_of_it_in_whatever_order(numbers, order):
    path, values = numbers
    for digest in (sha256(path), "0" * 64):
        reader = RangeReader({path: digest})
        for first, count in order:
            got = joined(reader.tensor((count,), [extent(path, first, count)]).parts(), FP32)
            assert torch.equal(got, values[first : first + count])
        if digest == sha256(path):
            reader.verify()
        else:
            with pytest.raises(ReadError, match="numbers: content has changed"):
                reader.verify()
        reader.close()


def test_a_part_stays_as_it_is_while_the_next_ones_are_read(numbers):
    path, values = numbers
    tensor = RangeReader().tensor((20_000,), [extent(path, 0, 13_000), extent(path, 13_000, 7000)])
    held, at = [], 0
    for part in tensor.parts():
        held = [*held, (at, part)][-(tensor_stream.RING - 1) :]
        at += len(part)
        assert all(np.array_equal(p, values[a : a + len(p)]) for a, p in held)
    assert at == 20_000 and len(held) == tensor_stream.RING - 1 == 6


def test_reading_ahead_hands_out_tensors_in_order_and_raises_where_they_are_taken(numbers):
    path, values = numbers
    reader = RangeReader()
    tensors = [reader.tensor((count,), [extent(path, first, count)]) for first, count in ((0, 5000), (7000, 1), (0, 20_000))]

    def broken():
        yield np.ones(3, np.float32)
        raise ReadError("the disk is gone")

    with Ahead([*tensors, Tensor((9,), FP32, broken)]) as ahead:
        for first, count in ((0, 5000), (7000, 1), (0, 20_000)):
            assert torch.equal(joined(ahead.take(), FP32), values[first : first + count])
        with pytest.raises(ReadError, match="the disk is gone"):
            list(ahead.take())


def test_a_reader_that_is_left_early_ends_its_thread(numbers):
    path, _ = numbers
    with Ahead([RangeReader().tensor((20_000,), [extent(path, 0, 20_000)])]) as ahead:
        next(ahead.take())
    assert not ahead._thread.is_alive()


def test_a_file_that_became_shorter_is_named(numbers):
    path, _ = numbers
    tensor = RangeReader().tensor((20_000,), [extent(path, 0, 20_000)])
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(ReadError, match="numbers: ends at byte 9000"):
        list(tensor.parts())


@pytest.mark.parametrize("count", [3, 1 << 18])
def test_a_writers_file_reads_back_by_safetensors_and_has_the_hash_it_says(tmp_path, count):
    path = tmp_path / "model.safetensors"
    one, two = torch.randn(count, 2).bfloat16(), torch.randn(5)
    writer = Writer(path, {"one": (BF16, (count, 2)), "two": (FP32, (5,))}, {"made": "here"})
    flat = one.reshape(-1)
    writer.stream("one", (flat[i : i + 300_000] for i in range(0, len(flat), 300_000)))
    writer.stream("two", [two])
    assert writer.close() == (path.stat().st_size, sha256(path))
    back = load_file(path)
    assert torch.equal(back["one"], one) and torch.equal(back["two"], two)


def test_a_part_may_be_used_again_as_soon_as_the_next_is_asked_for(tmp_path):
    path, buffer = tmp_path / "model.safetensors", torch.empty(1 << 18)

    def parts():
        for i in range(20):
            yield buffer.fill_(i)

    writer = Writer(path, {"x": (FP32, (20, 1 << 18))})
    writer.stream("x", parts())
    assert writer.close()[1] == sha256(path)
    assert torch.equal(load_file(path)["x"], torch.arange(20.0)[:, None].expand(20, 1 << 18))


def test_a_writer_needs_no_more_of_a_path_than_that_it_opens(tmp_path):
    import fsspec

    class Remote:
        def open(self, mode: str):
            return fsspec.filesystem("memory").open("/bucket/model.safetensors", mode)

    writer = Writer(Remote(), {"x": (FP32, (1 << 18,))})
    writer.stream("x", [torch.arange(float(1 << 18))])
    nbytes, digest = writer.close()
    data = fsspec.filesystem("memory").cat("/bucket/model.safetensors")
    assert (len(data), hashlib.sha256(data).hexdigest()) == (nbytes, digest)
    (tmp_path / "x").write_bytes(data)
    assert torch.equal(load_file(tmp_path / "x")["x"], torch.arange(float(1 << 18)))


def test_a_write_that_fails_is_raised_at_once(tmp_path):
    with open("/dev/full", "wb") as _:
        pass
    writer_path = Path("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        Writer(writer_path, {"x": (FP32, (4,))})
