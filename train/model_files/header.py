"""Where the tensors of a safetensors file lie: its header, read without the data. (The data: reader.py, stream.py.)

The format is 8 bytes of header length, a JSON header {name: {dtype, shape, data_offsets}}, then the data without holes.
Paths may be those of an object store (fsspec's UPath): only open, stat, is_file, glob and read_text are asked of them.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from train.model_files.dtypes import CODED, DType

MAX_HEADER_BYTES = 100_000_000  # the safetensors library's own bound: a larger one is an attack or rubbish


class SafetensorsError(ValueError):
    """A file that is not a whole, well-formed safetensors file."""


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: absolute byte range [start, stop) of a file."""

    file: Path
    name: str
    dtype: DType
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
            dtype, shape = CODED[value["dtype"]], tuple(int(n) for n in value["shape"])
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
