"""A recipe file and `key=value` words → `Recipe`, or one error with every fault.

1. YAML is read, then words replace its values, in that order of precedence;
2. typed_yaml.py casts every value by its field's type and checks it on its own;
3. checks.py adds what no single key can show.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from train.recipe.checks import cross_faults
from train.recipe.typed_yaml import Fault, build, note_lines, override
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
    faults: list[Fault] = []
    for word in overrides:
        override(values, word, lines, faults)
    recipe = build(Recipe, values, "", lines, faults)
    across = cross_faults(recipe, [fault.key for fault in faults])
    if faults or across:
        raise RecipeError(str(path), [*(fault.text for fault in faults), *across])
    return recipe
