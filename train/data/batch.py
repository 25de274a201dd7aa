"""What a step computes on: one micro-batch of packed rows as tensors, cut from `PackedRows` without a copy."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from train.data.packing import IGNORED, PackedRows


@dataclass(frozen=True)
class Contents:
    """What a micro-batch holds: targets of each source, up to the last that has any; tokens without padding; squares of segment lengths, added up."""

    targets: np.ndarray
    tokens: int
    squares: float


@dataclass(frozen=True)
class PackedBatch:
    """`PackedRows` as tensors: tokens, labels, position_ids (1, total) int64; cu_seqlens (segments + 1,) int32; source (total,) int16."""

    tokens: torch.Tensor
    labels: torch.Tensor
    position_ids: torch.Tensor
    cu_seqlens: torch.Tensor
    max_seqlen: int
    source: torch.Tensor
    supervised: int

    @classmethod
    def split(cls, packed: PackedRows, count: int = 1) -> list["PackedBatch"]:
        """`packed` as `count` micro-batches of equally many rows; they share its memory."""
        size = len(packed.tokens) // count
        arrays = (packed.tokens, packed.labels, packed.position_ids)
        tokens, labels, positions = (torch.from_numpy(a).view(count, 1, size).unbind() for a in arrays)
        source = torch.from_numpy(packed.source).view(count, size).unbind()
        supervised = np.count_nonzero(packed.labels.reshape(count, size) != IGNORED, axis=1).tolist()
        first = np.searchsorted(packed.cu_seqlens, np.arange(count + 1) * size)  # the segment each micro-batch starts with
        longest = np.maximum.reduceat(np.diff(packed.cu_seqlens), first[:-1]).tolist()
        first = first.tolist()
        edges = [torch.from_numpy(packed.cu_seqlens[first[k] : first[k + 1] + 1] - np.int32(k * size)) for k in range(count)]
        return [cls(*fields) for fields in zip(tokens, labels, positions, edges, longest, source, supervised, strict=True)]

    @classmethod
    def of_ids(cls, ids: list[int]) -> "PackedBatch":
        """One document of these ids, without targets."""
        n = len(ids)
        return cls(
            tokens=torch.tensor([ids]), labels=torch.full((1, n), IGNORED), position_ids=torch.arange(n)[None],
            cu_seqlens=torch.tensor([0, n], dtype=torch.int32), max_seqlen=n, source=torch.zeros(n, dtype=torch.int16), supervised=0,
        )  # fmt: skip

    @functools.cached_property
    def contents(self) -> Contents:
        """Of a batch in host memory; the loader asks while a step is built ahead, so that no device waits for the counting."""
        source, labels = self.source.numpy(), self.labels.numpy().reshape(-1)
        real = source >= 0
        lengths = np.diff(self.cu_seqlens.numpy()).astype(np.float64)
        return Contents(np.bincount(source[real & (labels != IGNORED)]), int(np.count_nonzero(real)), float(lengths @ lengths))

    def to(self, device: torch.device | str) -> "PackedBatch":
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> "PackedBatch":
        """In memory that a GPU can read by itself, so that `to` need not wait for the copy."""
        return self._each(torch.Tensor.pin_memory)

    def used_by(self, stream: torch.cuda.Stream) -> None:
        """Tell the allocator of another stream that reads it."""
        self._each(lambda tensor: tensor.record_stream(stream) or tensor)

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "PackedBatch":
        return replace(self, **{f.name: change(getattr(self, f.name)) for f in fields(self) if f.type is torch.Tensor})
