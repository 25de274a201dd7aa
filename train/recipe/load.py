"""A recipe file and `key=value` words → `Recipe`, or one error with every fault.

1. written.py reads the YAML as it was written, then words replace its values, in that order of precedence;
2. typed_yaml.py casts every value by its field's type and checks it on its own;
3. checks.py adds what no single key can show.
"""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

import yaml

from train.recipe.checks import cross_faults
from train.recipe.typed_yaml import build, override
from train.recipe.vocabulary import Recipe, RecipeError
from train.recipe.written import Fault, read

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "launch" / "recipes"


def find_file(path: Path, among: str = "") -> Path:
    """A path as given, or below the checkout when it is not found from the working directory.

    Args:
        among: a pattern of files of ours that can be given by name alone, with or without their suffix.
    """
    if path.is_file() or path.is_absolute():
        return path
    for file in ROOT.glob(among) if among and path.parent == Path(".") else ():
        if path.name in (file.name, file.stem):
            return file
    return ROOT / path if not path.exists() and (ROOT / path).exists() else path


def load(path: Path | str, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Read a recipe.

    Raises:
        RecipeError: with every fault of the file and the overrides at once.
    """
    path = find_file(Path(path), "launch/recipes/*.yaml")
    lines: dict[str, str] = {}
    faults: list[Fault] = []
    values = _read(path, lines, faults)
    for word in overrides:
        override(values, word, lines, faults)
    recipe = build(Recipe, values, "", lines, faults)
    across = cross_faults(recipe, [fault.key for fault in faults])
    if faults or across:
        raise RecipeError(str(path), [*(fault.text for fault in faults), *across])
    return recipe


def _read(path: Path, lines: dict[str, str], faults: list[Fault]) -> dict[str, Any]:
    """The file's keys and values as written. Raises RecipeError when it is not a YAML mapping in UTF-8."""
    try:
        content = path.read_bytes()
    except OSError as error:
        known = ", ".join(sorted(p.name for p in RECIPES.glob("*.yaml")))
        raise RecipeError(str(path), [f"cannot be read ({error.strerror}); the recipes here are {known} in launch/recipes/"]) from None
    try:
        text = content.decode("utf-16" if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise RecipeError(str(path), [f"line {line}: byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8"]) from None
    try:
        values = read(text, path.name, lines, faults)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RecipeError(str(path), [f"{place}: not YAML ({problem}); mend the line"]) from None
    except RecursionError:
        raise RecipeError(str(path), ["nested too deeply for a recipe; start from one of launch/recipes/*.yaml"]) from None
    if not isinstance(values, dict):
        raise RecipeError(str(path), ["holds no mapping of keys to values; start from one of launch/recipes/*.yaml"])
    return values
