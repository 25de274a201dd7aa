"""A recipe file and `key=value` words → `Recipe`, or one error with every fault."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from train.recipe.typed_yaml import build, note_lines, override
from train.recipe.vocabulary import Recipe, RecipeError

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "launch" / "recipes"


def find_file(path: Path) -> Path:
    """A path as given, or below the checkout when it is not found from the working directory."""
    if not path.exists() and not path.is_absolute() and (ROOT / path).exists():
        return ROOT / path
    return path


def load(path: Path | str, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Read a recipe.

    Raises:
        RecipeError: with every fault of the file and the overrides at once.
    """
    path = find_file(Path(path))
    lines: dict[str, str] = {}
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        known = ", ".join(sorted(p.name for p in RECIPES.glob("*.yaml")))
        raise RecipeError(str(path), [f"cannot be read ({error.strerror}); the recipes here are {known} in launch/recipes/"]) from None
    try:
        node = yaml.compose(text)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
        raise RecipeError(str(path), [f"{place}: not YAML ({getattr(error, 'problem', error)}); mend the line"]) from None
    if not isinstance(values, dict):
        raise RecipeError(str(path), ["holds no mapping of keys to values; start from one of launch/recipes/*.yaml"])
    note_lines(node, "", path.name, lines)
    faults: list[str] = []
    for word in overrides:
        override(values, word, lines, faults)
    recipe = build(Recipe, values, "", lines, faults)
    if isinstance(recipe, Recipe):
        faults += recipe.faults()
    else:
        faults += _cross_faults_of_the_rest(values, faults)
    if faults:
        raise RecipeError(str(path), faults)
    return recipe


def _cross_faults_of_the_rest(values: dict, faults: list[str]) -> list[str]:
    """Cross-field faults that can still be seen when some field of the recipe is at fault itself."""
    drop = {re.split(r"[=: ]", f, maxsplit=1)[0] for f in faults}
    trimmed = json.loads(json.dumps(values, default=str))
    for key in drop:
        at, *rest = trimmed, *key.split(".")
        for part in rest[:-1]:
            at = at.get(part) if isinstance(at, dict) else None
        if isinstance(at, dict):
            at.pop(rest[-1], None)
    for needed, filler in (("name", "x"), ("tokens_per_step", 0), ("model", {})):
        trimmed.setdefault(needed, filler)
    if isinstance(trimmed.get("model"), dict):
        trimmed["model"].setdefault("path", "x")
    if not isinstance(trimmed.get("data"), dict):
        return []
    trimmed["data"].setdefault("sources", {"x": {"path": "x"}})
    for holder in [trimmed["data"]["sources"], (trimmed.get("heldout") or {}).get("sources")]:
        for source in holder.values() if isinstance(holder, dict) else ():
            if isinstance(source, dict):
                source.setdefault("path", "x")
    guessed_length = trimmed.get("steps") is None and trimmed.get("tokens") is None and drop & {"steps", "tokens"}
    if guessed_length:
        trimmed["steps"] = 1_000_000
    if not trimmed["tokens_per_step"]:
        trimmed["tokens_per_step"] = _cast_plain(trimmed["data"].get("seq_len")) or 4096
    quiet: list[str] = []
    recipe = build(Recipe, trimmed, "", {}, quiet)
    return recipe.faults() if isinstance(recipe, Recipe) else []


def _cast_plain(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None
