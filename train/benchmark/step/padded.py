"""The documents of packed batches again, one a row, as padded training lays them out: what packing is compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from train.data.batch import PackedBatch
from train.data.packing import IGNORED

PADDED = {"padded to the longest of the micro-batch": False, "padded to whole rows": True}


def padded(packed: list, micro_batch: int, row: int, rng: np.random.Generator, world: Any) -> list:
    """The documents of a step's packed batches in random order, `micro_batch` of them at a time, each padded to one length.

    row: pad to this many tokens; 0: to the longest of each micro-batch. A padded row is one segment: a causal mask keeps its
    padding, at the end, from what comes before, and costs what it costs in any padded training.
    """
    pieces = []
    for batch in packed:
        edges = batch.cu_seqlens.tolist()
        spans = [(a, b) for a, b in zip(edges, edges[1:]) if batch.source[a] >= 0]
        pieces += [(batch.tokens[0, a:b], batch.labels[0, a:b]) for a, b in spans]
    order = rng.permutation(len(pieces)).tolist()
    groups = [[pieces[i] for i in order[k : k + micro_batch]] for k in range(0, len(order), micro_batch)]
    [count] = world.max([len(groups)])
    groups += [[] for _ in range(int(count) - len(groups))]  # every rank makes the same calls
    return [_pad(group, row or max((len(t) for t, _ in group), default=2)) for group in groups]


def _pad(group: list, length: int) -> PackedBatch:
    rows = max(1, len(group))
    tokens, labels = torch.zeros(rows, length, dtype=torch.int64), torch.full((rows, length), IGNORED)
    source = torch.full((rows, length), -1, dtype=torch.int16)
    for i, (t, y) in enumerate(group):
        tokens[i, : len(t)], labels[i, : len(t)], source[i, : len(t)] = t, y, 0
    edges = torch.arange(rows + 1, dtype=torch.int32) * length
    positions = torch.arange(length).repeat(rows)[None]
    return PackedBatch(tokens.view(1, -1), labels.view(1, -1), positions, edges, length, source.view(-1), int((labels != IGNORED).sum()))
