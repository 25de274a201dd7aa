"""The learning rate as a pure function of how far the run is."""

import math
from typing import Literal

from train.recipe.vocabulary import Recipe


def lr_at(
    progress: float,
    *,
    kind: Literal["cosine", "wsd", "constant"],
    peak: float,
    total: float,
    warmup: float = 0,
    floor_ratio: float = 0.0,
    decay: float = 0,
    step: float = 1,
) -> float:
    """The rate of the step that starts at `progress`.

    progress, total, warmup, decay and step (what one step adds to progress) are in one unit, steps or tokens. Linear warm-up
    that is above 0 from the first step and reaches `peak` at `warmup`; then `cosine` down to floor_ratio * peak at `total`,
    `wsd` flat and over the last `decay` linear to that floor, or `constant`. Past `total` the last rate stays.
    """
    assert progress >= 0 and step > 0, (progress, step)
    if progress < warmup:
        return peak * (progress + step) / (warmup + step)
    falls_from = {"cosine": warmup, "wsd": max(warmup, total - decay), "constant": math.inf}[kind]
    if progress < falls_from:
        return peak
    done = min(1.0, (progress - falls_from) / (total - falls_from)) if total > falls_from else 1.0
    left = (1 + math.cos(math.pi * done)) / 2 if kind == "cosine" else 1 - done
    return peak * (floor_ratio + (1 - floor_ratio) * left)


def learning_rate(recipe: Recipe, step: int) -> float:
    """The rate of the update after `step` updates: a pure function of the recipe."""
    s = recipe.schedule
    return lr_at(
        step,
        kind=s.kind,
        peak=recipe.optim.lr,
        total=recipe.total_steps,
        warmup=recipe.warmup_steps,
        floor_ratio=s.floor_ratio,
        decay=s.decay_ratio * recipe.total_steps,
    )
