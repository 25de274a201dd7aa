"""Safetensors files by byte range: headers read without the data, tensors written one at a time.

The format is 8 bytes of header length, a JSON header {name: {dtype, shape, data_offsets}}, then the data without holes.
The safetensors library maps whole files; a rank here wants only its own byte ranges, and a file's hash while it is written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
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


def read_range(entry: Entry, first: int, stop: int, chunk_elements: int = 1 << 24) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield (offset in elements, 1-D tensor) over the elements [first, stop) of a tensor, a bounded chunk at a time."""
    item = entry.dtype.itemsize
    with entry.file.open("rb", buffering=0) as f:
        for at in range(first, stop, chunk_elements):
            count = min(chunk_elements, stop - at)
            buffer = bytearray(count * item)
            view, done = memoryview(buffer), 0
            f.seek(entry.start + at * item)
            while done < len(buffer):
                got = f.readinto(view[done:])
                if not got:
                    raise SafetensorsError(f"{entry.file}: ended inside tensor {entry.name}; the file changed while it was read")
                done += got
            yield at, torch.frombuffer(buffer, dtype=entry.dtype)
