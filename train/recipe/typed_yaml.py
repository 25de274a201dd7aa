"""Values as they were written → frozen dataclasses, with every fault collected instead of the first one raised.

A fault is a line with place, value and remedy: `optim.lr='fast' (x.yaml line 7): a number is wanted here`. The field's type says
what a value is: a text field takes the text as it stands, whatever YAML would make of it.
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

from train.recipe.written import Fault, Scalar, read, read_word

LENGTHS = ("steps", "tokens", "epochs")  # the keys that say how long a run is
TRUE, FALSE, NOTHING = ("true", "yes", "on"), ("false", "no", "off"), ("", "null", "~")  # YAML's own words


def override(values: dict, word: str, lines: dict[str, str], faults: list[Fault]) -> None:
    key, sign, text = word.partition("=")
    if not sign or not key:
        faults.append(Fault(word, f"{word!r}: not understood; overrides look like optim.lr=1e-5"))
        return
    at = values
    *parents, last = key.split(".")
    for part in parents:
        nxt = _written_out(at.get(part), f"{key}={text}", faults)
        nxt = at[part] = {} if nxt is None or _is_nothing(nxt) else nxt
        if not isinstance(nxt, dict):
            faults.append(Fault(key, f"{key}={text}: {part} is a value, not a section"))
            return
        at = nxt
    if lines.get(key) == "command line" and at[last] != read_word(text):
        faults.append(Fault(key, f"{key}={_show(at[last])} and {key}={text}: given twice; keep one"))
        return
    at[last] = read_word(text)
    lines[key] = "command line"
    for other in LENGTHS if key in LENGTHS else ():
        if lines.get(other) != "command line":
            values.pop(other, None)  # the length on the command line replaces the file's, whichever unit either has


def build(kind: type, values: Any, prefix: str, lines: dict[str, str], faults: list[Fault]) -> Any:
    """One dataclass from a mapping; where something is at fault, a namespace of the fields that are not."""
    values = {} if values is None or _is_nothing(values) else values
    if not isinstance(values, dict):
        known = ", ".join(f.name for f in dataclasses.fields(kind))
        section = prefix.rstrip(".")
        faults.append(Fault(section, f"{section}={_show(values)}: a section is wanted here, with keys {known}"))
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
            given = _alone(values[name], f"{prefix}{name}", faults) if f.metadata.get("alone") else values[name]
            value = _cast(hints[name], given, f"{prefix}{name}", lines, faults)
            value = _at_home(value) if isinstance(value, Path) or f.metadata.get("path") and value else value
        except _CastError as error:
            blame(name, str(error))
            continue
        check: Callable[[Any], bool] | None = f.metadata.get("check")
        if check and value is not None and not check(value):
            blame(name, f"must be {f.metadata['rule']}")
        else:
            made[name] = value
    return kind(**made) if len(faults) == before else types.SimpleNamespace(**made)


def section_of(hint: Any) -> type | None:
    """The dataclass of a field that is a section, or may be one; None: it is a value."""
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
    return next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)


class _CastError(ValueError):
    pass


def _show(value: Any) -> str:
    text = str(value) if not isinstance(value, Scalar) or not value.text else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _is_nothing(value: Any) -> bool:
    return isinstance(value, Scalar) and not value.quoted and value.text.lower() in NOTHING


def _cast(hint: Any, value: Any, place: str, lines: dict[str, str], faults: list[Fault]) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return None if _is_nothing(value) else _cast(next(a for a in args if a is not type(None)), value, place, lines, faults)
    if origin is Literal:
        text = value.text if isinstance(value, Scalar) else str(value)
        if text not in args:
            near = difflib.get_close_matches(text, args, n=1)
            raise _CastError(f"not one of {', '.join(args)}" + (f"; did you mean {near[0]}?" if near else ""))
        return text
    if origin in (dict, tuple) or dataclasses.is_dataclass(hint):
        return _cast_many(hint, _written_out(value, place, faults), place, lines, faults)
    return _cast_leaf(hint, value)


def _written_out(value: Any, place: str, faults: list[Fault]) -> Any:
    """A list or mapping in one word of the command line, such as `[0.8, 0.9]`, as a file would have it."""
    if not isinstance(value, Scalar) or value.quoted:
        return value
    try:
        return read(value.text, "command line", {}, faults)
    except yaml.YAMLError:
        return value


def _alone(value: Any, place: str, faults: list[Fault]) -> Any:
    """A list also where one value stands for it, or nothing."""
    value = _written_out(value, place, faults)
    if isinstance(value, Scalar) and value.text.startswith(("[", "{")):
        return value  # a list that was not closed
    return [] if value is None or _is_nothing(value) else value if isinstance(value, (list, dict)) else [value]


def _cast_many(hint: Any, value: Any, place: str, lines: dict[str, str], faults: list[Fault]) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is dict:
        if not isinstance(value, dict):
            raise _CastError("a mapping of names to sections is wanted here, e.g. {papers: {path: shards/papers}}")
        return {k: build(args[1], v, f"{place}.{k}.", lines, faults) for k, v in value.items()}
    if origin is tuple:
        if not isinstance(value, list):
            raise _CastError("a list is wanted here, e.g. [0.9, 0.95]" if args[0] is float else "a list is wanted here")
        if args[-1] is not Ellipsis and len(value) != len(args):
            raise _CastError(f"a list of {len(args)} is wanted here")
        return tuple(_cast(args[0], v, place, lines, faults) for v in value)
    return build(hint, value, place + ".", lines, faults)


def _cast_leaf(hint: type, value: Any) -> Any:
    wanted = {bool: "true or false", int: "a whole number", float: "a number"}.get(hint, "text")
    if not isinstance(value, Scalar) or _is_nothing(value) and value.text != "~":
        raise _CastError(f"{wanted} is wanted here")
    if hint in (str, Path):
        return hint(value.text)
    if hint is bool:
        if value.text.lower() not in TRUE + FALSE:
            raise _CastError(f"{wanted} is wanted here")
        return value.text.lower() in TRUE
    try:
        number = _number(value.text)
        if number != number or number in (float("inf"), float("-inf")) or hint is int and number != int(number):
            raise ValueError
    except ValueError:
        raise _CastError(f"{wanted} is wanted here") from None
    return hint(number)


def _number(text: str) -> int | float:
    """Digits as written, whole ones to the last; `1_000`, `1e6` and `0x10` too, but no `12:30` and no octal `010`."""
    plain = text.replace("_", "")
    if plain[:2].lower() in ("0x", "0b", "0o"):
        return int(plain, 0)
    return int(plain) if plain.lstrip("+-").isdecimal() else float(plain)


def _at_home(path: str | Path) -> str | Path:
    """`~` and `~user` are home folders, which no shell has put in behind a `key=`."""
    try:
        return type(path)(Path(path).expanduser()) if str(path).startswith("~") else path
    except RuntimeError:
        raise _CastError("there is no such home folder") from None
