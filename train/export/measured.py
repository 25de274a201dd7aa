"""Figures that were measured of one very model, for its card: by the run that made it, and by evaluations of its folder.

state.json (held-out losses of its step), eval/*.json (`{"models": {FOLDER: {"perplexity": …, "interval": [low, high]}}}`), a card's own
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LARGEST = 64 << 20
# key of a result → Hub's name of the metric, and in words
METRICS = {
    "perplexity": ("perplexity", "perplexity"),
    "bits_per_byte": ("bits_per_byte", "bits per byte"),
    "accuracy": ("accuracy", "accuracy"),
}
BY_RUN = "held out, by the run itself"


@dataclass(frozen=True)
class Figure:
    """One number. data: what it was measured on. before: the same of the model it was trained from."""

    data: str
    metric: str
    words: str
    value: float
    interval: tuple[float, float] | None = None
    before: float | None = None
    how: str = ""


def of_state(state: dict[str, Any] | None) -> list[Figure]:
    """Held-out perplexities of the step, as the run itself found them."""
    losses, before = ((state or {}).get(key) for key in ("heldout", "heldout_before"))
    found = []
    for name, loss in (losses if isinstance(losses, dict) else {}).items():
        start = before.get(name) if isinstance(before, dict) else None
        if _number(loss) is not None and loss < 700:
            found.append(
                Figure(
                    name,
                    "perplexity",
                    "perplexity",
                    math.exp(loss),
                    None,
                    math.exp(start) if _number(start) is not None and start < 700 else None,
                    BY_RUN,
                )
            )
    return found


def of_results(folders: Iterable[Path], models: Iterable[Path]) -> list[Figure]:
    """What evaluations below these folders say of a model that is one of these paths."""
    own = {path.resolve() for path in models}
    found = []
    for folder in folders:
        for file in sorted(folder.rglob("*.json")) if folder.is_dir() else ():
            try:
                result = json.loads(file.read_bytes()) if file.stat().st_size <= LARGEST else None
            except (OSError, ValueError, RecursionError):
                continue
            rows = result.get("models") if isinstance(result, dict) else None
            for model, row in (rows if isinstance(rows, dict) else {}).items():
                if isinstance(row, dict) and _is(model, own, file):
                    found += _rows(row, _data(result, row, file), file.stem)
    return found


def _is(model: str, own: set[Path], file: Path) -> bool:
    """Whether a folder as it was given to an evaluation is one of ours: from here, or from where the result lies."""
    return any((base / model).resolve() in own for base in (Path.cwd(), *file.resolve().parents))


def _data(result: dict[str, Any], row: dict[str, Any], file: Path) -> str:
    given = row.get("data") or result.get("data") or file.stem
    return ", ".join(Path(str(one)).name for one in (given if isinstance(given, list) else [given]))


def _rows(row: dict[str, Any], data: str, how: str) -> list[Figure]:
    found = []
    for key, (metric, words) in METRICS.items():
        if (value := _number(row.get(key))) is not None:
            pair = row.get("interval")
            sound = key != "bits_per_byte" and isinstance(pair, list) and len(pair) == 2 and all(_number(x) is not None for x in pair)
            # an interval belongs to the figure that it holds
            found.append(Figure(data, metric, words, value, tuple(pair) if sound and pair[0] <= value <= pair[1] else None, None, how))
    for name, part in (row.get("sources") or {}).items() if isinstance(row.get("sources"), dict) else ():
        found += _rows(part, f"{data}: {name}", how) if isinstance(part, dict) else []
    return found


def of_card(front: dict[str, Any]) -> list[Figure]:
    """Figures that a card carries."""
    found = []
    try:
        for result in front["model-index"][0]["results"]:
            for metric in result["metrics"]:
                if (value := _number(metric["value"])) is not None:
                    pair = (metric.get("args") or {}).get("interval")
                    found.append(Figure(str(result["dataset"]["name"]), str(metric["type"]), str(metric["type"]).replace("_", " "), value,
                        tuple(map(float, pair)) if pair else None, None, str((result["dataset"].get("args") or {}).get("how", ""))))  # fmt: skip
    except (LookupError, TypeError, ValueError, AttributeError):
        pass  # another's card, in another shape
    return found


def model_index(name: str, figures: list[Figure]) -> list[dict[str, Any]]:
    """As the Hub reads it (huggingface.co/docs/hub/model-cards#evaluation-results)."""
    results: dict[tuple[str, str], dict[str, Any]] = {}
    for figure in figures:
        data = {
            "name": figure.data,
            "type": re.sub(r"[^\w.-]+", "-", figure.data).strip("-") or "text",
            **({"args": {"how": figure.how}} if figure.how else {}),
        }
        empty = {"task": {"type": "text-generation", "name": "Text Generation"}, "dataset": data, "metrics": []}
        one = {"type": figure.metric, "value": _rounded(figure.value), "name": figure.words}
        if figure.interval:
            one |= {"name": f"{figure.words}, 95% interval", "args": {"interval": [_rounded(x) for x in figure.interval]}}
        results.setdefault((figure.data, figure.how), empty)["metrics"].append(one)
    return [{"name": name, "results": list(results.values())}] if results else []


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) else None
