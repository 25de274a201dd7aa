"""The data of safetensors files by byte range, as torch tensors a piece at a time.

The safetensors library maps whole files; a rank here wants only its own byte ranges. Paths may be those of an object store.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from train.model_files.dtypes import in_torch
from train.model_files.header import Entry, SafetensorsError
from train.model_files.stream import PIECE_BYTES
from train.world.places import open_for_reading


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
            piece = torch.empty(min(chunk_elements, stop - at), dtype=in_torch(entry.dtype))
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
        lent = buffers[number % 2][:nbytes].view(in_torch(what.entry.dtype)) if what.into is None else what.into[at - what.first :][:count]
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
