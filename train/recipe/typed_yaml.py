"""Plain YAML values → frozen dataclasses, with every fault collected instead of the first one raised.

A fault is a line with place, value and remedy: `optim.lr='fast' (x.yaml line 7): a number is wanted here`.
PyYAML reads `2e-5` and `1e6` as strings and `on` as True: values are cast by their field's type.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Union

import yaml


def note_lines(node: yaml.Node | None, prefix: str, name: str, lines: dict[str, str]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            dotted = f"{prefix}{key.value}"
            lines[dotted] = f"{name} line {key.start_mark.line + 1}"
            note_lines(value, dotted + ".", name, lines)


def override(values: dict, word: str, lines: dict[str, str], faults: list[str]) -> None:
    key, sign, text = word.partition("=")
    if not sign or not key:
        faults.append(f"{word!r}: not understood; overrides look like optim.lr=1e-5")
        return
    at = values
    *parents, last = key.split(".")
    for part in parents:
        nxt = at.setdefault(part, {})
        if not isinstance(nxt, dict):
            faults.append(f"{key}={text}: {part} is a value, not a section")
            return
        at = nxt
    try:
        at[last] = yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        at[last] = text
    lines[key] = "command line"
    other = {"steps": "tokens", "tokens": "steps"}.get(key)
    if other and lines.get(other) != "command line":
        values.pop(other, None)  # the length on the command line replaces the file's, whichever unit either has


def build(kind: type, values: Any, prefix: str, lines: dict[str, str], faults: list[str]) -> Any:
    """One dataclass from a mapping, or None after adding its faults."""

    def place(key: str) -> str:
        return f"{prefix}{key}"

    def origin(key: str) -> str:
        return f" ({lines[place(key)]})" if place(key) in lines else ""

    if values is None:
        values = {}
    if not isinstance(values, dict):
        faults.append(
            f"{prefix.rstrip('.')}={values!r}: a section is wanted here, with keys {', '.join(f.name for f in dataclasses.fields(kind))}"
        )
        return None
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    before = len(faults)
    made: dict[str, Any] = {}
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            remedy = f"did you mean {place(near[0])}?" if near else f"known here: {', '.join(fields)}"
            faults.append(f"{place(key)}={_show(values[key])}{origin(key)}: unknown key; {remedy}")
    for name, f in fields.items():
        if name not in values:
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
                faults.append(f"{place(name)}: missing; it has no default")
            continue
        try:
            made[name] = _cast(hints[name], values[name], place(name), lines, faults)
        except _CastError as error:
            faults.append(f"{place(name)}={_show(values[name])}{origin(name)}: {error}")
            continue
        check: Callable[[Any], bool] | None = f.metadata.get("check")
        if check and made[name] is not None and not check(made[name]):
            faults.append(f"{place(name)}={_show(values[name])}{origin(name)}: must be {f.metadata['rule']}")
    return None if len(faults) > before else kind(**made)


class _CastError(ValueError):
    pass


def _show(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _cast(hint: Any, value: Any, place: str, lines: dict[str, str], faults: list[str]) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return None if value is None else _cast(next(a for a in args if a is not type(None)), value, place, lines, faults)
    if origin is Literal:
        value = {True: "on", False: "off", None: "none"}.get(value, value) if not isinstance(value, str) else value
        if value not in args:
            near = difflib.get_close_matches(str(value), args, n=1)
            raise _CastError(f"not one of {', '.join(args)}" + (f"; did you mean {near[0]}?" if near else ""))
        return value
    if origin is dict:
        if not isinstance(value, dict):
            raise _CastError("a mapping of names to sections is wanted here, e.g. {papers: {path: shards/papers}}")
        return {str(k): build(args[1], v, f"{place}.{k}.", lines, faults) for k, v in value.items()}
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise _CastError("a list is wanted here, e.g. [0.9, 0.95]" if args[0] is float else "a list is wanted here")
        if args[-1] is not Ellipsis and len(value) != len(args):
            raise _CastError(f"a list of {len(args)} is wanted here")
        return tuple(_cast(args[0], v, place, lines, faults) for v in value)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, place + ".", lines, faults)
    return _cast_leaf(hint, value)


def _cast_leaf(hint: type, value: Any) -> Any:
    if hint is bool:
        if isinstance(value, bool):
            return value
        raise _CastError("true or false is wanted here")
    if value is None or isinstance(value, (bool, dict, list)):
        raise _CastError(f"{'text' if hint in (str, Path) else 'a number'} is wanted here")
    if hint in (str, Path):
        return hint(str(value))
    try:
        number = float(str(value).replace("_", ""))
        if number != number or number in (float("inf"), float("-inf")):
            raise ValueError
        if hint is int:
            if number != int(number):
                raise _CastError("a whole number is wanted here")
            return value if isinstance(value, int) else int(number)
        return number
    except _CastError:
        raise
    except ValueError:
        raise _CastError(f"{'a whole number' if hint is int else 'a number'} is wanted here") from None
