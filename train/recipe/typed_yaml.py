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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union

import yaml


@dataclass(frozen=True)
class Fault:
    """Something wrong with one key: the key, dotted, and the line for people."""

    key: str
    text: str


def note_lines(node: yaml.Node | None, prefix: str, name: str, lines: dict[str, str]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            dotted = f"{prefix}{key.value}"
            lines[dotted] = f"{name} line {key.start_mark.line + 1}"
            note_lines(value, dotted + ".", name, lines)


def override(values: dict, word: str, lines: dict[str, str], faults: list[Fault]) -> None:
    key, sign, text = word.partition("=")
    if not sign or not key:
        faults.append(Fault(word, f"{word!r}: not understood; overrides look like optim.lr=1e-5"))
        return
    at = values
    *parents, last = key.split(".")
    for part in parents:
        nxt = at.setdefault(part, {})
        if not isinstance(nxt, dict):
            faults.append(Fault(key, f"{key}={text}: {part} is a value, not a section"))
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


def build(kind: type, values: Any, prefix: str, lines: dict[str, str], faults: list[Fault]) -> Any:
    """One dataclass from a mapping; where something is at fault, a namespace of the fields that are not."""
    values = {} if values is None else values
    if not isinstance(values, dict):
        known = ", ".join(f.name for f in dataclasses.fields(kind))
        section = prefix.rstrip(".")
        faults.append(Fault(section, f"{section}={values!r}: a section is wanted here, with keys {known}"))
        return types.SimpleNamespace()
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    before = len(faults)

    def blame(key: str, why: str) -> None:
        place = f"{prefix}{key}"
        origin = f" ({lines[place]})" if place in lines else ""
        faults.append(Fault(place, f"{place}={_show(values[key])}{origin}: {why}"))

    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            blame(key, "unknown key; " + (f"did you mean {prefix}{near[0]}?" if near else f"known here: {', '.join(fields)}"))
    made: dict[str, Any] = {}
    for name, f in fields.items():
        if name not in values:
            if f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING:
                made[name] = f.default if f.default is not dataclasses.MISSING else f.default_factory()
            else:
                faults.append(Fault(f"{prefix}{name}", f"{prefix}{name}: missing; it has no default"))
            continue
        try:
            value = _cast(hints[name], values[name], f"{prefix}{name}", lines, faults)
        except _CastError as error:
            blame(name, str(error))
            continue
        check: Callable[[Any], bool] | None = f.metadata.get("check")
        if check and value is not None and not check(value):
            blame(name, f"must be {f.metadata['rule']}")
        else:
            made[name] = value
    return kind(**made) if len(faults) == before else types.SimpleNamespace(**made)


class _CastError(ValueError):
    pass


def _show(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _cast(hint: Any, value: Any, place: str, lines: dict[str, str], faults: list[Fault]) -> Any:
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
