"""Where a run stands, and what its last evaluation found: what goes into state.json, and comes back from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from train.engine.step import StepTotals
from train.recipe import rules
from train.recipe.vocabulary import Heldout


@dataclass(frozen=True)
class TrainState:
    """Where a run stands: positions, never buffers."""

    step: int = 0
    tokens: int = 0  # without padding
    heldout_loss: float | None = None  # of the last evaluation, mean over sources
    heldout: dict[str, float] = dataclasses.field(default_factory=dict)  # of the last evaluation, by source
    heldout_before: dict[str, float] = dataclasses.field(default_factory=dict)  # before step 1
    judged_loss: float | None = None  # by which the best checkpoint is kept; none where a rule was broken

    @classmethod
    def of(cls, saved: dict[str, Any], before: dict[str, float]) -> TrainState:
        """As a checkpoint has it; one of an older version does not know of sources."""
        known = {field.name: saved[field.name] for field in dataclasses.fields(cls) if field.name in saved}
        return cls(**{**known, "heldout_before": saved.get("heldout_before") or before})

    def after(self, totals: StepTotals) -> TrainState:
        return dataclasses.replace(self, step=self.step + 1, tokens=self.tokens + totals.tokens)

    def evaluated(self, losses: dict[str, float], heldout: Heldout) -> TrainState:
        """With what an evaluation found."""
        before = losses if self.step == 0 else self.heldout_before
        mean = sum(losses.values()) / len(losses)
        judged = rules.judged_loss(losses, before, (*heldout.stop_if, *heldout.warn_if))
        return dataclasses.replace(self, heldout_loss=mean, heldout=losses, heldout_before=before, judged_loss=judged)

    def broken(self, texts: Sequence[str]) -> list[str]:
        """The rules that the last evaluation has broken, in words."""
        return rules.broken(texts, self.heldout, self.heldout_before)
