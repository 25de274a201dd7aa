"""The pictures of a run, each as PNG and as SVG: losses, held-out perplexity, forgetting, speed, steps, and where the time went.

FIGURES = {name: (caption, function that draws it, False where there is nothing to draw)}
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train.report.best import rules_of
from train.report.records import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_POINTS = 1500  # of a curve; more are drawn as the least and the greatest of each stretch
COLORS = ("#1f5fbf", "#c2571a", "#2e7d4f", "#7b4bb3", "#b3261e", "#5f6b7a", "#8a6d00", "#0e7c86")
STYLE = {
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e3e6eb", "grid.linewidth": 0.8,
    "axes.axisbelow": True, "legend.frameon": False, "svg.hashsalt": "astrollama", "svg.fonttype": "path", "lines.linewidth": 1.5,
}  # fmt: skip
Curve = tuple[list[float], list[float]]


def draw_all(run: Run, folder: Path) -> dict[str, tuple[str, Path]]:
    """Name → caption and SVG of each picture there was something to draw for; its PNG lies beside it."""
    import logging

    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it tells of fonts that it looks for
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = {}
    for name, (caption, drawn) in FIGURES.items():
        with rc_context(STYLE):
            figure = Figure(figsize=(5.4, 3.3), layout="tight")
            FigureCanvasAgg(figure)
            if not drawn(run, figure.add_subplot()):
                continue
            folder.mkdir(parents=True, exist_ok=True)
            save(figure, folder / name)
            made[name] = (caption, folder / f"{name}.svg")
    return made


def save(figure: Any, stem: Path) -> None:
    """STEM.png and STEM.svg, each whole or as it was."""
    for suffix, dpi, metadata in (("png", 150, {"Software": None}), ("svg", 72, {"Date": None, "Creator": None})):
        tmp = stem.with_name(f".{stem.name}.{suffix}.{os.getpid()}")
        figure.savefig(tmp, format=suffix, dpi=dpi, metadata=metadata)
        tmp.replace(stem.with_name(f"{stem.name}.{suffix}"))


def thinned(xs: Sequence[float], ys: Sequence[float], most: int = MOST_POINTS) -> Curve:
    """The same curve in at most so many points: of each stretch the least and the greatest value, in their order."""
    if len(xs) <= most:
        return list(xs), list(ys)
    each, kept = -(-2 * len(xs) // most), []
    for start in range(0, len(xs), each):
        stretch = range(start, min(start + each, len(xs)))
        kept += sorted({min(stretch, key=ys.__getitem__), max(stretch, key=ys.__getitem__)})
    return [xs[i] for i in kept], [ys[i] for i in kept]


def curve(lines: Sequence[dict[str, Any]], key: str) -> Curve:
    """Steps and finite values of a key, thinned."""
    known = [(line["step"], line[key]) for line in lines if isinstance(line.get(key), (int, float)) and math.isfinite(line[key])]
    return thinned([step for step, _ in known], [value for _, value in known])


def _of_steps(axes: Axes, unit: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set(xlabel="step", ylabel=unit)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))


def _loss(run: Run, axes: Axes) -> bool:
    xs, ys = curve(run.steps, "loss")
    if not xs:
        return False
    names = sorted({key.removeprefix("loss/") for line in run.steps for key in line if key.startswith("loss/")})
    axes.plot(xs, ys, "." if len(xs) == 1 else "-", color=COLORS[0], alpha=0.45 if len(names) > 1 else 1, label="all sources")
    for color, name in zip(COLORS[1:] * 9, names if len(names) > 1 else []):
        axes.plot(*curve(run.steps, f"loss/{name}"), color=color, linewidth=1.1, label=name)
    for line in run.rewinds:
        axes.axvline(line["step"], color="#b3261e", linestyle=":", linewidth=1, label="_")
    _of_steps(axes, "mean token loss (nats)")
    if len(names) > 1:
        axes.legend()
    return True


def _heldout(run: Run, axes: Axes) -> bool:
    """Perplexity as it stands, with 95% intervals."""
    names = sorted({name for one in run.evaluated for name in one.losses})
    for color, name in zip(COLORS * 9, names):
        known = [(one.step, one.losses[name], one.errors.get(name, 0.0)) for one in run.evaluated if one.losses.get(name, 701.0) < 700]
        steps = [step for step, _, _ in known]
        axes.plot(steps, [math.exp(loss) for _, loss, _ in known], "o-", markersize=3.5, color=color, label=name)
        low, high = ([math.exp(min(loss + sign * 1.96 * error, 700.0)) for _, loss, error in known] for sign in (-1, 1))
        axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
    if not names:
        return False
    _of_steps(axes, "held-out perplexity")
    axes.legend()
    return True


def _forgetting(run: Run, axes: Axes) -> bool:
    """Perplexity over that before step 1, so that what is learned and what is forgotten stand in one picture."""
    first = run.evaluated[0] if run.evaluated else None
    if first is None or first.step != 0 or len(run.evaluated) < 2:
        return False
    for color, (name, start) in zip(COLORS * 9, sorted(first.losses.items())):
        known = [(one.step, one.losses[name] - start) for one in run.evaluated if name in one.losses and one.losses[name] - start < 700]
        axes.plot([s for s, _ in known], [100 * (math.exp(d) - 1) for _, d in known], "o-", markersize=3.5, color=color, label=name)
    axes.axhline(0, color="#5f6b7a", linewidth=1)
    for rule in rules_of(run):
        if rule.relative and rule.source in first.losses:
            color = COLORS[sorted(first.losses).index(rule.source) % len(COLORS)]
            axes.axhline(100 * (rule.limit - 1), color=color, linestyle="--", linewidth=1, label=f"rule: {rule}")
    _of_steps(axes, "perplexity against step 0 (%)")
    axes.legend()
    return True


def _speed(run: Run, axes: Axes) -> bool:
    xs, ys = curve(run.steps, "tokens_per_second")
    if not xs:
        return False
    axes.plot(xs, ys, "." if len(xs) == 1 else "-", color=COLORS[2])
    _of_steps(axes, "tokens a second")
    axes.set_ylim(bottom=0)
    return True


def _updates(run: Run, axes: Axes) -> bool:
    """Learning rate, gradient norm, and the steps that were skipped."""
    xs, ys = curve(run.steps, "grad_norm")
    if not xs:
        return False
    axes.plot(xs, ys, "." if len(xs) == 1 else "-", color=COLORS[3], linewidth=1.1, label="gradient norm")
    skipped = [line["step"] for line in run.steps if line.get("skipped")]
    if skipped:
        axes.plot(skipped, [min(ys)] * len(skipped), "x", color="#b3261e", label="skipped")
    _of_steps(axes, "gradient norm")
    rates = curve(run.steps, "lr")
    if rates[0]:
        right = axes.twinx()
        right.plot(*rates, color=COLORS[5], linestyle="--", linewidth=1.1, label="learning rate")
        right.set(ylabel="learning rate")
        right.grid(False)
        right.set_ylim(bottom=0)
        handles = [h for one in (axes, right) for h in one.get_legend_handles_labels()[0]]
        axes.legend(handles=handles, loc="upper right")
    return True


def seconds_by_cause(run: Run) -> dict[str, float]:
    """Where the run's time went, the longest first; causes that took none are left out."""
    seconds = run.goodput.get("seconds")
    known = {c: s for c, s in (seconds if isinstance(seconds, dict) else {}).items() if isinstance(s, (int, float)) and s > 0}
    return dict(sorted(known.items(), key=lambda item: -item[1]))


def cause_in_words(run: Run, cause: str) -> str:
    words = run.goodput.get("causes")
    return str(words.get(cause, cause)) if isinstance(words, dict) else cause


def _time(run: Run, axes: Axes) -> bool:
    seconds = seconds_by_cause(run)
    if not seconds:
        return False
    wall, names = sum(seconds.values()), [cause_in_words(run, cause) for cause in seconds]
    bars = axes.barh(names, [100 * s / wall for s in seconds.values()], color=[COLORS[2] if c == "useful" else COLORS[1] for c in seconds])
    axes.bar_label(bars, [f" {100 * s / wall:.1f}%" for s in seconds.values()])
    axes.invert_yaxis()
    axes.set(xlabel="share of the time since the first start (%)", xlim=(0, 118))
    axes.grid(False, axis="y")
    return True


FIGURES: dict[str, tuple[str, Callable[[Run, Axes], bool]]] = {
    "loss": ("Training loss", _loss),
    "heldout": ("Held-out perplexity, with 95% intervals", _heldout),
    "forgetting": ("What was learned and what was forgotten", _forgetting),
    "speed": ("Throughput", _speed),
    "updates": ("Learning rate and gradient norm", _updates),
    "time": ("Where the time went", _time),
}
