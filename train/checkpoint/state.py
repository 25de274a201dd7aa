"""state.json: where a run stood and what it was; written with every checkpoint, read by the run that goes on from it."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from train.checkpoint.find import ResumeError
from train.checkpoint.layout import FORMAT, STATE


def state_of_run(
    position: dict[str, Any], loader: dict[str, Any], recipe: dict[str, Any], world_size: int, adam_kernel: str
) -> dict[str, Any]:
    """What goes into state.json, plain values only.

    Args:
        position: step, tokens, heldout_loss. loader: its state_dict. recipe: resolved, every key.
    """
    return {**position, "loader": loader, "recipe": recipe, "world_size": world_size, "adam_kernel": adam_kernel, "versions": versions()}


def as_text(state: dict[str, Any]) -> str:
    return json.dumps({"format": FORMAT, **state}, indent=1) + "\n"


def read_state(folder: Path) -> dict[str, Any]:
    state = json.loads((folder / STATE).read_text())
    if state.get("format") != FORMAT:
        raise ResumeError(f"{folder}/{STATE}: format {state.get('format')}, this trainer reads {FORMAT}; use the version that wrote it")
    return state


def versions() -> dict[str, str]:
    """Of Python and of what computes: a resume on others may round otherwise."""
    return {"python": platform.python_version(), **{p: version(p) for p in ("torch", "deepspeed", "transformers", "numpy")}}
