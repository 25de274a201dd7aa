"""One optimizer step, the same for a run and for every benchmark.

1. how many targets the whole global batch has, over all ranks, so that packing and masks cannot skew the loss;
2. forward and backward of this rank's micro-batches, each copied to the device while the one before is computed;
3. one all-reduce: loss, loss per source, counts, and what the caller wants agreed on (stop, a failed save, waiting time, the next step's
   targets, so that its forward need not wait for the ranks to count them);
4. the update, which a gradient norm that is not finite, or a loss or norm the caller does not accept, turns into none.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from train.data.batch import PackedBatch
from train.engine.zero3 import Engine
from train.world.ranks import World

NEXT_TARGETS = "next targets"


@dataclass(frozen=True)
class StepTotals:
    """What a step was, over all ranks."""

    loss: float  # mean over the supervised tokens
    source_losses: dict[str, float]  # of the sources that had any
    grad_norm: float  # before clipping
    supervised: int
    tokens: int  # without padding
    attended: float  # sum(L_i^2) / (2 sum(L_i)) over the documents: what a token's causal attention reads
    agreed: dict[str, float]  # the caller's own numbers, added up
    updated: bool = True  # whether weights changed

    @property
    def finite(self) -> bool:
        """Whether loss and gradient norm are; where not, the weights are as they were."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


def take(
    engine: Engine,
    batches: Sequence[PackedBatch],
    sources: Sequence[str],
    world: World,
    own: Callable[[], dict[str, float]] = dict,
    before_update: Callable[[dict[str, float]], None] = lambda _: None,
    accept: Callable[[float, float], bool] = lambda loss, norm: True,
) -> StepTotals:
    """One step at the rate that is set. Every rank calls it, with equally many micro-batches.

    Args:
        sources: names, in the order of `PackedBatch.source`.
        own: this rank's numbers for the all-reduce, asked when the gradients are there; the same keys on every rank. NEXT_TARGETS among them:
            of this rank's part of the step that follows, or nan where they are not known yet.
        before_update: called with their sums when all ranks know of each other; what it raises leaves the weights as they are.
        accept: asked with loss and gradient norm, the same on every rank, whether to make the update.
    """
    supervised, engine.next_targets = engine.next_targets, None
    if supervised is None:
        [supervised] = world.sum([sum(b.supervised for b in batches)])
    losses, per_source = forward_backward(engine, batches, int(supervised), world)
    counts, tokens, squares = _contents(batches, len(sources))
    world.beat.phase("agreement")
    mine = own()
    rank_total = float(sum(losses))
    if not math.isfinite(rank_total):
        world.beat.not_finite()
    sums = world.sum([rank_total, *sum(per_source).double().tolist(), *counts, *map(float, mine.values()), tokens, squares])
    n = len(sources)
    total, of_source, targets, agreed, (tokens, squares) = (
        sums[0],
        sums[1 : n + 1],
        sums[n + 1 : 2 * n + 1],
        sums[2 * n + 1 : -2],
        sums[-2:],
    )
    agreed_on = dict(zip(mine, agreed, strict=True))
    if not math.isnan(ahead := agreed_on.get(NEXT_TARGETS, math.nan)):
        engine.next_targets = int(ahead)
    before_update(agreed_on)
    loss = total / max(supervised, 1)
    grad_norm = engine.step(lambda norm: accept(loss, norm))
    return StepTotals(
        loss=loss,
        source_losses={name: loss / count for name, loss, count in zip(sources, of_source, targets, strict=True) if count},
        grad_norm=grad_norm,
        supervised=int(supervised),
        tokens=int(tokens),
        attended=squares / (2 * tokens) if tokens else 0.0,
        agreed=agreed_on,
        updated=engine.updated,
    )


def forward_backward(
    engine: Engine, batches: Sequence[PackedBatch], supervised: int, world: World
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Sums of token losses and their parts per source, a micro-batch each, on the device: reading them is the caller's synchronisation."""
    losses, per_source = [], []
    for k, batch in enumerate(on_device(batches, world.device)):
        # a step without a single target still runs, so that every rank makes the same calls; its gradient is zero
        loss, parts = engine.backward(batch, max(supervised, 1), last=k == len(batches) - 1)
        losses.append(loss)
        per_source.append(parts)
    return losses, per_source


def on_device(batches: Sequence[PackedBatch], device: torch.device) -> Iterator[PackedBatch]:
    """The batches, in order; on CUDA each is copied from pinned memory on a stream of its own while the one before is computed."""
    if device.type != "cuda":
        yield from (batch.to(device) for batch in batches)
        return
    stream, coming = _copies(device), None
    for batch in [*batches, None]:
        here, coming = coming, None
        if batch is not None:
            with torch.cuda.stream(stream):
                coming = batch.pinned().to(device), stream.record_event()
        if here is not None:
            moved, copied = here
            torch.cuda.current_stream(device).wait_event(copied)
            moved.used_by(torch.cuda.current_stream(device))  # its memory is the copies' stream's, and must not be taken again too early
            yield moved


@functools.cache
def _copies(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def _contents(batches: Sequence[PackedBatch], sources: int) -> tuple[np.ndarray, float, float]:
    """Targets per source, tokens without padding, and the squares of segment lengths, added up over this rank's micro-batches."""
    counts = np.zeros(sources)
    for b in batches:
        counts[: len(b.contents.targets)] += b.contents.targets
    return counts, float(sum(b.contents.tokens for b in batches)), sum(b.contents.squares for b in batches)
