"""Libraries that a recipe asks for by name and that are not installed here."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator

from train.recipe.vocabulary import Recipe

TRACKERS = {"wandb": "wandb", "mlflow": "mlflow-skinny", "trackio": "trackio"}  # module → what pip installs


def absent_trackers(recipe: Recipe) -> Iterator[str]:
    """A fault for each tracker without its library."""
    for name in recipe.logging.to:
        if name in TRACKERS and not is_installed(name):
            yield f"logging.to={name}: it is not installed here; pip install {TRACKERS[name]}, or take it out of logging.to"


def absent(recipe: Recipe) -> Iterator[str]:
    """A fault for each library that is asked for and not there."""
    yield from absent_attention(recipe)
    yield from absent_trackers(recipe)


def absent_attention(recipe: Recipe) -> Iterator[str]:
    """A fault where the kernel that is asked for by name is not there."""
    if recipe.model.attention == "flash" and not is_installed("flash_attn"):
        yield "model.attention=flash: flash-attn is not installed here; pip install 'astrollama-trainer[flash]', or use auto"
    if recipe.model.attention == "flash4" and not is_distributed("flash-attn-4"):
        yield "model.attention=flash4: flash-attn-4 is not installed here; pip install 'astrollama-trainer[flash4]', or use auto"


def is_installed(module: str) -> bool:
    """Not merely a folder of that name, which a tracker leaves where it runs."""
    found = importlib.util.find_spec(module)
    return found is not None and found.origin is not None


def is_distributed(name: str) -> bool:
    """For what is installed into another's folder: by the name that pip knows."""
    return next(iter(importlib.metadata.distributions(name=name)), None) is not None
