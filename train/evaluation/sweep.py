"""How much of the base model to mix back in: a model and its base blended at several weights, each scored on what was learned and on what
was to be kept.

weight w: w of the base, 1 - w of the trained model, as `export_hf.py --merge BASE:w` makes it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from train.evaluation.loaded import Loaded
from train.evaluation.perplexity.verdict import Difference, Verdict, perplexity
from train.evaluation.texts import EvaluationError

SIDES = ("learned", "kept")
ALLOWED = 1.01  # times the base's perplexity on what is to be kept


@dataclass(frozen=True)
class Point:
    """One weight. Verdicts and what changes against the base, by side; the change is None where the weight is the base itself."""

    weight: float
    verdicts: dict[str, Verdict]
    changes: dict[str, Difference | None]

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"weight": self.weight}
        for side in SIDES:
            one, change = self.verdicts[side], self.changes[side]
            found |= {f"{side}_perplexity": perplexity(one.loss), f"{side}_interval": [perplexity(x) for x in one.loss_interval.to_json()]}
            found |= {f"{side}_bits_per_byte": one.bits_per_byte}
            if change is not None and change.perplexity_percent is not None:
                found |= {f"{side}_change_percent": change.perplexity_percent, f"{side}_change_interval": change.percent_interval.to_json()}
        return found


@dataclass(frozen=True)
class Blend:
    """A loaded model whose weights become those of any blend; tied weights are one."""

    ours: dict[str, torch.Tensor]
    base: dict[str, torch.Tensor]

    @classmethod
    def of(cls, ours: Loaded, base: Loaded) -> Blend:
        """Raises EvaluationError where the two are not made alike."""
        mine, theirs = (dict(model.model.named_parameters()) for model in (ours, base))
        differ = [name for name in {*mine, *theirs} if name not in mine or name not in theirs or mine[name].shape != theirs[name].shape]
        if differ:
            raise EvaluationError(
                f"{ours.name} and {base.name} are not made alike: {len(differ)} tensors, such as {sorted(differ)[0]}, are only in one or of "
                "another shape; give the model that the first was trained from"
            )
        return cls({name: p.detach().clone() for name, p in mine.items()}, {name: p.detach() for name, p in theirs.items()})

    def put(self, weight: float, model: Loaded) -> None:
        """Into a model: the sum in fp32, rounded once."""
        with torch.no_grad():
            for name, parameter in model.model.named_parameters():
                base = self.base[name].to(parameter.device)
                parameter.copy_((1 - weight) * self.ours[name].float() + weight * base.float())


def best(points: Sequence[Point], allowed: float = ALLOWED) -> Point | None:
    """The lowest loss on what was learned, of the points whose perplexity on what was to be kept is at most `allowed` times the base's."""
    base = max(points, key=lambda point: point.weight)
    if base.weight != 1:
        return None
    limit = perplexity(base.verdicts["kept"].loss) * allowed
    sound = [point for point in points if perplexity(point.verdicts["kept"].loss) <= limit]
    return min(sound, key=lambda point: point.verdicts["learned"].loss)


def draw(points: Sequence[Point], chosen: Point | None, allowed: float, names: dict[str, str], files: Sequence[Path]) -> None:
    """The trade-off curve, a point a weight, with 95% intervals. names: of the sides, in words."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    at = {side: [perplexity(point.verdicts[side].loss) for point in points] for side in SIDES}
    spans = {
        side: [
            [abs(at[side][i] - perplexity(x)) for i, point in enumerate(points) for x in [getattr(point.verdicts[side].loss_interval, end)]]
            for end in ("low", "high")
        ]
        for side in SIDES
    }
    axes.errorbar(
        at["kept"], at["learned"], xerr=spans["kept"], yerr=spans["learned"], fmt="o-", color="#1f5fbf", ecolor="#b9cbe8", capsize=2
    )
    for point, x, y in zip(points, at["kept"], at["learned"], strict=True):
        axes.annotate(f"{point.weight:g}", (x, y), textcoords="offset points", xytext=(6, 6))
    base = next((i for i, point in enumerate(points) if point.weight == 1), None)
    if base is not None:
        axes.axvline(at["kept"][base] * allowed, color="#c2571a", linestyle="--", linewidth=1, label=f"{allowed:g}x the base's")
    if chosen is not None:
        i = points.index(chosen)
        axes.plot(at["kept"][i], at["learned"][i], "o", markersize=12, markerfacecolor="none", markeredgecolor="#2e7d4f", label="best")
    axes.set(xlabel=f"perplexity on {names['kept']}", ylabel=f"perplexity on {names['learned']}", title="share of the base at each point")
    axes.grid(color="#e3e6eb")
    axes.set_axisbelow(True)
    axes.legend(frameon=False)
    for file in files:
        figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else None)
