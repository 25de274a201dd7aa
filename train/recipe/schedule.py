"""The learning rate as a pure function of how far the run is."""

import math
from dataclasses import dataclass
from typing import Literal

from train.recipe.vocabulary import Recipe


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Rates of a run; total, warmup, decay and step (what one step adds to progress) are in one unit, steps or tokens.

    Linear warm-up that is above 0 from the first step and reaches `peak` at `warmup`; then `cosine` down to floor_ratio * peak at
    `total`, `wsd` flat and over the last `decay` linear to that floor, or `constant`. Past `total` the last rate stays.
    """

    kind: Literal["cosine", "wsd", "constant"]
    peak: float
    total: float
    warmup: float = 0
    floor_ratio: float = 0.0
    decay: float = 0
    step: float = 1

    def at(self, progress: float) -> float:
        """The rate of the step that starts at `progress`."""
        assert progress >= 0 and self.step > 0, (progress, self.step)
        if progress < self.warmup:
            return self.peak * (progress + self.step) / (self.warmup + self.step)
        falls_from = {"cosine": self.warmup, "wsd": max(self.warmup, self.total - self.decay), "constant": math.inf}[self.kind]
        if progress < falls_from:
            return self.peak
        done = min(1.0, (progress - falls_from) / (self.total - falls_from)) if self.total > falls_from else 1.0
        left = (1 + math.cos(math.pi * done)) / 2 if self.kind == "cosine" else 1 - done
        return self.peak * (self.floor_ratio + (1 - self.floor_ratio) * left)


def learning_rate(recipe: Recipe, step: int) -> float:
    """The rate of the update after `step` updates: a pure function of the recipe."""
    s, total = recipe.schedule, recipe.total_steps
    curve = Curve(
        kind=s.kind, peak=recipe.optim.lr, total=total, warmup=recipe.warmup_steps, floor_ratio=s.floor_ratio, decay=s.decay_ratio * total
    )
    return curve.at(step)
