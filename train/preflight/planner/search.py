"""The fastest settings of a recipe that fit a cluster: every combination, by the same arithmetic."""

from __future__ import annotations

import dataclasses
import itertools
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.preflight.planner.clusters import Cluster
from train.preflight.planner.forecast import Forecast, Setting, forecast
from train.preflight.planner.job import AGAIN
from train.preflight.planner.models import Model
from train.recipe import vocabulary
from train.recipe.vocabulary import Optim, Recipe, RecipeError

MICRO_BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
ENGINES = ("zero3", "zero3_hpz", "zero3_offload_optimizer", "zero3_offload_all")
SAME = 0.005  # rates that near are one: the simpler is taken
ROUNDED = 0.03  # that much faster must a setting be that rounds what fp32 keeps


@dataclass(frozen=True)
class Found:
    """words: to be given after the recipe."""

    words: str
    forecast: Forecast


def search(recipe: Recipe, model: Model, cluster: Cluster, setting: Setting) -> list[Found]:
    """What fits (not near the limit, where anything does), fastest first; of settings alike, the one with fewer changes, then less memory."""
    fit = [
        Found(_words(change), made)
        for change in _changes(recipe, cluster.on_cuda)
        if (made := _tried(recipe, change, model, cluster, setting)) and made.fits
    ]
    found = [f for f in fit if not f.forecast.near] or fit
    best = max((f.forecast.rate for f in found), default=1.0)

    def order(f: Found) -> tuple[int, int, float]:
        worth = f.forecast.rate / best * (1 - ROUNDED * ("reduce_dtype=bf16" in f.words))
        return -round(worth / SAME), len(f.words.split()), f.forecast.peak

    return sorted(found, key=order)


def _tried(recipe: Recipe, change: dict[str, Any], model: Model, cluster: Cluster, setting: Setting) -> Forecast | None:
    if change.get("deepspeed", "").endswith("hpz.json") and cluster.nodes == 1:
        return None
    changed = apply(recipe, change)
    if changed.rows_per_step < changed.micro_batch * cluster.gpus:
        return None  # rows of padding alone
    try:
        return forecast(changed, model, cluster, setting)
    except RecipeError:  # an engine's JSON that does not go with so many ranks, or with the recipe's optimizer
        return None


def _changes(recipe: Recipe, on_cuda: bool) -> Iterator[dict[str, Any]]:
    """Of the keys that decide speed and memory; those that stay as the recipe has them are left out."""
    choices: dict[str, list[Any]] = {
        "micro_batch": sorted({recipe.micro_batch, *MICRO_BATCHES}),
        "model.activation_checkpointing": [v for v in _values(vocabulary.Model, "activation_checkpointing") if v in AGAIN],
        "deepspeed": [str(recipe.deepspeed), *(f"ds_configs/{name}.json" for name in ENGINES if on_cuda and name != recipe.deepspeed.stem)],
    }
    if recipe.adapter:
        choices["model.quantize"] = _values(vocabulary.Model, "quantize")
    if any(f.name == "reduce_dtype" for f in dataclasses.fields(Optim)):
        choices["optim.reduce_dtype"] = _values(Optim, "reduce_dtype")
    for values in itertools.product(*choices.values()):
        change = dict(zip(choices, values, strict=True))
        yield {key: value for key, value in change.items() if value != _now(recipe, key)}


def _values(section: type, name: str) -> list[str]:
    return list(typing.get_args(typing.get_type_hints(section)[name]))


def _now(recipe: Recipe, key: str) -> Any:
    value: Any = recipe
    for part in key.split("."):
        value = getattr(value, part)
    return str(value) if isinstance(value, Path) else value


def apply(recipe: Recipe, change: dict[str, Any]) -> Recipe:
    """A recipe with some keys changed, as the words of `_words` would."""
    for key, value in change.items():
        section, _, name = key.rpartition(".")
        value = Path(value) if key == "deepspeed" else value
        if section:
            recipe = dataclasses.replace(recipe, **{section: dataclasses.replace(getattr(recipe, section), **{name: value})})
        else:
            recipe = dataclasses.replace(recipe, **{name: value})
    return recipe


def _words(change: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in change.items())
