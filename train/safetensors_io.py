"""Safetensors files by byte range: headers read without the data, tensors a piece at a time.

The format is 8 bytes of header length, a JSON header {name: {dtype, shape, data_offsets}}, then the data without holes.
The safetensors library maps whole files; a rank here wants only its own byte ranges.
Paths may be those of an object store (fsspec's UPath): only open, stat, is_file, glob and read_text are asked of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
PIECE_BYTES = 16 << 20
MAX_HEADER_BYTES = 100_000_000  # the safetensors library's own bound: a larger one is an attack or rubbish


class SafetensorsError(ValueError):
    """A file that is not a whole, well-formed safetensors file."""


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: absolute byte range [start, stop) of a file."""

    file: Path
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


def read_header(path: Path) -> dict[str, Entry]:
    """The entries of a file by name, checked against each other and the file's size.

    Raises:
        SafetensorsError: truncated, oversized or contradictory header, holes, or data missing at the end.
    """
    size = path.stat().st_size
    with path.open("rb") as f:
        length = int.from_bytes(f.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise SafetensorsError(
                f"{path}: header says {length} bytes, file holds {size}; the copy was cut short or is no safetensors file: fetch it again"
            )
        try:
            header = json.loads(f.read(length))
            assert isinstance(header, dict)
        except (ValueError, AssertionError, RecursionError):
            raise SafetensorsError(f"{path}: its header is not JSON; fetch the file again") from None
    entries, base, end = {}, 8 + length, 0
    try:
        rows = sorted(((v["data_offsets"], k, v) for k, v in header.items() if k != "__metadata__"), key=lambda r: r[0])
        for (start, stop), name, value in rows:
            dtype, shape = DTYPES[value["dtype"]], tuple(int(n) for n in value["shape"])
            if start != end or stop - start != math.prod(shape) * dtype.itemsize or any(n < 0 for n in shape):
                raise SafetensorsError(
                    f"{path}: tensor {name} {value['dtype']} {list(shape)} does not fit its bytes {start} to {stop}; fetch the file again"
                )
            entries[name] = Entry(path, name, dtype, shape, base + start, base + stop)
            end = stop
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, SafetensorsError):
            raise
        raise SafetensorsError(f"{path}: header entry not understood ({error!r}); fetch the file again") from None
    if base + end != size:
        raise SafetensorsError(f"{path}: header says {base + end} bytes, file holds {size}; the copy was cut short, fetch it again")
    return entries


def header_bytes(path: Path) -> int:
    """What `read_header` reads of a file."""
    with path.open("rb") as f:
        return 8 + int.from_bytes(f.read(8), "little")


def open_for_reading(path: Path) -> BinaryIO:
    """Unbuffered where that can be asked for: paths of object stores only look like Path."""
    return path.open("rb", buffering=0) if type(path) is type(Path()) else path.open("rb")


def read_into(file: BinaryIO, entry: Entry, first: int, piece: torch.Tensor) -> None:
    """Fill a 1-D CPU tensor of the entry's dtype with the tensor's elements from `first` on.

    Raises:
        SafetensorsError: the file ends before that.
    """
    view, done = memoryview(piece.view(torch.uint8).numpy()), 0
    file.seek(entry.start + first * entry.dtype.itemsize)
    while done < len(view):
        got = file.readinto(view[done:])
        if not got:
            raise SafetensorsError(f"{entry.file}: ended inside tensor {entry.name}; the file changed while it was read")
        done += got


def read_range(entry: Entry, first: int, stop: int, chunk_elements: int = 1 << 24) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield (offset in elements, 1-D tensor) over the elements [first, stop) of a tensor, a bounded chunk at a time."""
    with open_for_reading(entry.file) as file:
        for at in range(first, stop, chunk_elements):
            piece = torch.empty(min(chunk_elements, stop - at), dtype=entry.dtype)
            read_into(file, entry, at, piece)
            yield at, piece


@dataclass(frozen=True)
class Wanted:
    """The elements [first, stop) of a tensor; `into` is the memory they go to, or None: then a buffer is lent."""

    name: str
    entry: Entry
    first: int
    stop: int
    into: torch.Tensor | None = None  # 1-D, on the CPU, of the entry's dtype


def read_ahead(wanted: list[Wanted], piece_bytes: int = PIECE_BYTES) -> Iterator[tuple[Wanted, int, torch.Tensor]]:
    """Yield (what, offset in elements, piece) for all that is wanted, in order; a thread reads the next piece meanwhile.

    A piece without memory of its own lies in a buffer that is used again: it is valid until the next one is asked for.
    """
    jobs = [
        (w, at, min(step, w.stop - at))
        for w in wanted
        for step in [max(1, piece_bytes // w.entry.dtype.itemsize)]
        for at in range(w.first, w.stop, step)
    ]
    buffers = [torch.empty(piece_bytes, dtype=torch.uint8) for _ in range(2)]
    files: dict[Path, BinaryIO] = {}

    def read(number: int) -> torch.Tensor:
        what, at, count = jobs[number]
        nbytes = count * what.entry.dtype.itemsize
        lent = buffers[number % 2][:nbytes].view(what.entry.dtype) if what.into is None else what.into[at - what.first :][:count]
        if what.entry.file not in files:
            while files:  # one open file at a time: what is wanted lies in file order
                files.popitem()[1].close()
            files[what.entry.file] = open_for_reading(what.entry.file)
        read_into(files[what.entry.file], what.entry, at, lent)
        return lent

    with ThreadPoolExecutor(1) as reader:
        try:
            coming = reader.submit(read, 0) if jobs else None
            for number, (what, at, _) in enumerate(jobs):
                piece = coming.result()
                if number + 1 < len(jobs):
                    coming = reader.submit(read, number + 1)
                yield what, at, piece
        finally:
            reader.shutdown()
            for file in files.values():
                file.close()
