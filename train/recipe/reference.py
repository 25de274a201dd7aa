"""Every key of a recipe, as the vocabulary has it: for the terminal (`--keys`) and for a page (launch/recipes/KEYS.md).

vocabulary.py → `keys()`: one `Key` each, in its order → `as_text()`, `as_page()`. Types, defaults and rules come from the
dataclasses, a key's sentence from its comment, so that nothing is written twice.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import textwrap
import tokenize
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union

from train.recipe import vocabulary
from train.recipe.typed_yaml import section_of
from train.recipe.vocabulary import Recipe

UNSET = "not set"
WORDS = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path"}
HEAD = """# All keys of a recipe

A key stands in a recipe's YAML under its section, or on the command line as `section.key=value`, which comes last. NAME is a word of your
own. This page is made from `train/recipe/vocabulary.py`, by `python launch/pretrain.py --keys=page > launch/recipes/KEYS.md`;
`python launch/pretrain.py --keys` prints the same in a terminal, `--keys warmup` only what is called so.
"""


@dataclass(frozen=True)
class Key:
    """section: dotted, "" for the recipe's own; default: as YAML would have it, "required" where a recipe must give it, or UNSET."""

    section: str
    name: str
    kind: str
    unit: str
    default: str
    says: str

    @property
    def dotted(self) -> str:
        return f"{self.section}.{self.name}" if self.section else self.name


def keys() -> list[Key]:
    return [key for section, kind in sections().items() for key in _keys_of(section, kind)]


def sections(kind: type = Recipe, prefix: str = "") -> dict[str, type]:
    """Dotted name → dataclass, the recipe itself first."""
    found = {prefix: kind}
    for name, hint in typing.get_type_hints(kind).items():
        at = f"{prefix}.{name}".lstrip(".")
        if section := section_of(hint):
            found |= sections(section, at)
        elif typing.get_origin(hint) is dict:
            found |= sections(typing.get_args(hint)[1], f"{at}.NAME")
    return found


def as_text(word: str = "", width: int = 100) -> str:
    """A key's name, what it takes and its default on one line, its sentence below; only of keys with `word` in their name."""
    lines = []
    for section, kind in sections().items():
        chosen = [key for key in _keys_of(section, kind) if word in key.dotted]
        lines += [f"{section or 'recipe'}: {kind.__doc__}"] * bool(chosen)
        for key in chosen:
            lines += ["", f"  {key.dotted}  ({', '.join(w for w in (key.kind, key.unit) if w)}; {_default(key)})"]
            lines += textwrap.wrap(key.says, width, initial_indent="      ", subsequent_indent="      ", break_on_hyphens=False)
        lines += [""] * bool(chosen)
    return "\n".join(lines).rstrip()


def as_page() -> str:
    """Markdown, a table a section."""
    parts = [HEAD]
    for section, kind in sections().items():
        rows = "".join(
            f"| `{k.name}` | {k.kind} | {k.default} | {k.unit} | {k.says} |\n".replace("|  |", "| |") for k in _keys_of(section, kind)
        )
        parts.append(
            f"## {f'`{section}`' if section else 'The recipe'}\n\n{kind.__doc__}\n\n| key | takes | default | unit | |\n|---|---|---|---|---|\n{rows}"
        )
    return "\n".join(parts)


def _default(key: Key) -> str:
    return key.default if key.default in ("required", UNSET) else f"default {key.default}"


def _keys_of(section: str, kind: type) -> list[Key]:
    """The keys of one section; those that are sections themselves have a place of their own."""
    hints, said = typing.get_type_hints(kind, include_extras=True), _comments()[kind.__name__]
    found = []
    for f in dataclasses.fields(kind):
        if section_of(hints[f.name]):
            continue
        takes, unit = _takes(hints[f.name])
        rule = f.metadata.get("rule")
        found.append(Key(section, f.name, f"{takes}, {rule}" if rule else takes, unit, _written(f), said.get(f.name, "")))
    return found


def _takes(hint: Any) -> tuple[str, str]:
    """What a value of this type is, in words, and its unit."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return WORDS[args[0]], args[1]
    if origin in (Union, types.UnionType):
        return _takes(next(a for a in args if a is not type(None)))
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}", ""
    if origin is dict:
        return "names, each with a section", ""
    if origin is tuple:
        return "list of texts" if args[0] is str else "list", ""
    return WORDS[hint], ""


def _written(f: dataclasses.Field) -> str:
    if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
        return "required"
    value = f.default if f.default is not dataclasses.MISSING else f.default_factory()
    if value is None or value == {}:
        return UNSET if value is None else "{}"
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else f"{value:g}".replace("e-0", "e-") if isinstance(value, float) else str(value)


def _comments() -> dict[str, dict[str, str]]:
    """class → key → its comment: the lines of comment right above it, or what stands behind its last line."""
    source = inspect.getsource(vocabulary)
    comment, alone = {}, set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comment[token.start[0]] = token.string.lstrip("# ").strip()
            if token.line.lstrip().startswith("#"):
                alone.add(token.start[0])
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            for field in (n for n in node.body if isinstance(n, ast.AnnAssign)):
                first = field.lineno
                while first - 1 in alone:
                    first -= 1
                above = [comment[n] for n in range(first, field.lineno)]
                behind = [comment[n] for n in range(field.lineno, field.end_lineno + 1) if n in comment]
                found.setdefault(node.name, {})[field.target.id] = " ".join(above or behind)
    return found
