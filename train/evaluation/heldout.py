"""Held-out perplexity per source on fixed rows, and answers to fixed prompts, by all ranks together.

The rows depend on the shards and seq_len alone, so that step 0 and every later evaluation see the same tokens at any world size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from data_tools.shards.reader import Shards
from train.data import mixture, packing
from train.data.batch import PackedBatch
from train.data.packing import Rows
from train.engine.zero3 import Engine
from train.evaluation.completion import Cut, Prompts
from train.world.ranks import World


@dataclass(frozen=True)
class Score:
    """Mean token loss (nats) over a source's held-out rows."""

    loss: float
    tokens: int  # supervised
    error: float | None = None  # standard error of `loss`, over the micro-batches; None: too few of them

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation found: a score a source, an answer a prompt."""

    scores: dict[str, Score]
    answers: dict[str, str]


@dataclass(frozen=True)
class Heldout:
    """What a run is evaluated on: made once, asked at step 0 and along the run, by all ranks."""

    engine: Engine
    world: World
    shards: dict[str, Shards]
    seq_len: int
    max_rows: int | None  # of a source
    micro_batch: int
    prompts: Prompts | None = None

    def evaluate(self, cut: Callable[[], bool] = lambda: False) -> Evaluation | None:
        """What all of it comes to; None when it was cut short.

        Args:
            cut: asked before each forward pass, by all ranks, with one answer for all.
        """
        if self.prompts:
            self.world.log0(f"answering {len(self.prompts.texts)} prompts")
        try:
            answers = self.prompts.answers(self.engine, self.world, cut) if self.prompts else {}
            return Evaluation({name: self.score(name, source, cut) for name, source in self.shards.items()}, answers)
        except Cut:
            return None

    def score(self, name: str, source: Shards, cut: Callable[[], bool] = lambda: False) -> Score:
        """The same number on every rank, which all make the same number of forward passes.

        Raises:
            Cut: `cut` has answered yes.
        """
        world, rows = self.world, heldout_rows(source, self.seq_len, self.max_rows)
        # over micro-batches: loss sums, their squares, loss sum × tokens; tokens, their squares, how many
        losses = torch.zeros(3, dtype=torch.float64, device=world.device)
        counts, at_once = np.zeros(3), world.size * self.micro_batch
        world.log0(f"evaluating on {name}: {len(rows):,} held-out rows")
        with world.progress(f"evaluating on {name}", len(rows), "row") as advance:
            for start in range(0, len(rows), at_once):
                if cut():
                    raise Cut
                mine = np.arange(self.micro_batch) + start + world.rank * self.micro_batch
                packed = packing.pack(rows, np.where(mine < len(rows), mine, packing.PADDING_ROW), [source])
                [batch] = PackedBatch.split(packed)
                loss, _ = self.engine.losses(batch.to(world.device))
                loss = loss.double()
                losses += torch.stack([loss, loss * loss, loss * batch.supervised])
                counts += (batch.supervised, batch.supervised**2, batch.supervised > 0)
                advance(min(at_once, len(rows) - start))
        return score_of(*world.sum([*losses.tolist(), *counts.tolist()]))


def score_of(loss: float, squares: float, products: float, tokens: float, tokens_squared: float, parts: float) -> Score:
    """A score from sums over micro-batches: of loss l, of l², of l·n, of tokens n, of n², and how many there were.

    The standard error is that of a ratio of two sums: with R = Σl / Σn, sqrt(k/(k-1) · Σ(l - R·n)²) / Σn (Cochran, Sampling Techniques, 6.4).
    """
    mean = loss / max(tokens, 1)
    if parts < 2:
        return Score(mean, int(tokens))
    spread = max(0.0, squares - 2 * mean * products + mean * mean * tokens_squared)
    return Score(mean, int(tokens), math.sqrt(parts / (parts - 1) * spread) / tokens)


def heldout_rows(shards: Shards, seq_len: int, max_rows: int | None = None) -> Rows:
    """Fixed rows to evaluate on: whole packing, longer documents cut, at most max_rows of them, chosen by a fixed shuffle."""
    rows = packing.plan_whole(shards.lengths, seq_len, mixture.generator(0, "heldout"))
    return rows.span(0, min(len(rows), len(rows) if max_rows is None else max_rows))
