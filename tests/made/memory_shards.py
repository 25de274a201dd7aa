"""Shards held in memory, each token of each document a different number: whatever a batch holds can be traced to its place."""

from pathlib import Path

import numpy as np


class MemoryShards:
    """The reading side of data_tools.shards.reader.Shards, as far as train reads it. Token j of document i is `first[i] + j`."""

    def __init__(self, lengths: list[int], first_token: int = 0, masks: list[np.ndarray] | None = None, name: str = "m") -> None:
        self.lengths = np.array(lengths, np.int64)
        self.first = first_token + np.concatenate([[0], np.cumsum(self.lengths)])
        self.masks, self.has_mask, self.name = masks, masks is not None, name
        self.folder = Path(name)
        self.fingerprint = f"{name}-{self.lengths.tolist()}"
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.lengths)

    def tokens(self, i: int) -> np.ndarray:
        self.read.append(i)
        return np.arange(self.first[i], self.first[i + 1], dtype=np.uint32)

    def mask(self, i: int) -> np.ndarray | None:
        return None if self.masks is None else self.masks[i]

    def id(self, i: int) -> str:
        return f"{self.name}-{i}"

    def check_unchanged(self, documents: object = None) -> None:
        pass
