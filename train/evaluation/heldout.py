"""Held-out perplexity per source on fixed rows, and answers to fixed prompts, by all ranks together.

The rows depend on the shards and seq_len alone, so that step 0 and every later evaluation see the same tokens at any world size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from data_tools.shards.reader import Shards
from train.data import mixture
from train.data import packing as batches
from train.data.batch import PackedBatch
from train.data.packing import Rows
from train.engine.zero3 import Engine
from train.world.ranks import World


@dataclass(frozen=True)
class Score:
    """Mean token loss (nats) over a source's held-out rows."""

    loss: float
    tokens: int  # supervised

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))


def evaluate(
    engine: Engine, shards: dict[str, Shards], seq_len: int, max_rows: int | None, micro_batch: int, world: World
) -> dict[str, Score]:
    """Each source's score; the same numbers on every rank, which all make the same number of forward passes."""
    scores = {}
    for name, source in shards.items():
        rows = heldout_rows(source, seq_len, max_rows)
        total = torch.zeros((), dtype=torch.float64, device=world.device)
        supervised = 0
        at_once = world.size * micro_batch
        for start in range(0, len(rows), at_once):
            mine = np.arange(start + world.rank * micro_batch, start + (world.rank + 1) * micro_batch)
            packed = batches.pack(rows, np.where(mine < len(rows), mine, batches.PADDING_ROW), [source])
            [batch] = PackedBatch.split(packed)
            loss, _ = engine.losses(batch.to(world.device))
            total += loss.double()
            supervised += batch.supervised
        loss_sum, count = world.sum([float(total), supervised])
        scores[name] = Score(loss_sum / max(count, 1), int(count))
    return scores


def mean_loss(scores: dict[str, Score]) -> float | None:
    """The unweighted mean over sources, by which the best checkpoint is kept."""
    return sum(s.loss for s in scores.values()) / len(scores) if scores else None


def heldout_rows(shards: Shards, seq_len: int, max_rows: int | None = None) -> Rows:
    """Fixed rows to evaluate on: whole packing, longer documents cut, at most max_rows of them, chosen by a fixed shuffle."""
    rows = batches.plan_whole(shards.lengths, seq_len, mixture.generator(0, "heldout"))
    return rows.span(0, min(len(rows), len(rows) if max_rows is None else max_rows))
