"""The engine's own logits on a few tokens, kept with a checkpoint, so that an export can be compared with what was trained."""

from __future__ import annotations

import numpy as np
import torch

from train.data.batch import PackedBatch
from train.engine.zero3 import Engine
from train.world.ranks import World

TOKENS = 16


def record(engine: Engine, tokens: np.ndarray, world: World) -> dict[str, torch.Tensor]:
    """`tokens` (T,) int64 and the `logits` (T, vocabulary) fp32 they give; T is at most 16. Every rank must call it."""
    ids = [int(t) for t in tokens[:TOKENS]]
    logits = engine.logits(PackedBatch.of_ids(ids).to(world.device))
    return {"tokens": torch.tensor(ids), "logits": logits.float().cpu().contiguous()}
