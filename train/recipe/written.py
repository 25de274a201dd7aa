"""YAML as it was written: mappings, lists and scalars that keep their text, so that the field's type decides what a value is.

PyYAML guesses: `007` is 7, `12:30:00` 45000, `no` False, `2e-5` a text, and of a key written twice the last wins, all without a word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

LARGEST = 100_000  # values of a recipe, aliases written out
_MERGE, _TEXT = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:str"
_KNOWN = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "timestamp", "map", "seq", "value", "merge")}


@dataclass(frozen=True)
class Fault:
    """Something wrong with one key: the key, dotted, and the line for people."""

    key: str
    text: str


@dataclass(frozen=True)
class Scalar:
    """One value: its text, and whether YAML would take it for a text rather than a number, a truth value or nothing."""

    text: str
    is_text: bool = True
    quoted: bool = False

    def __repr__(self) -> str:
        return repr(self.text) if self.is_text else self.text


def read(text: str, name: str, lines: dict[str, str], faults: list[Fault]) -> Any:
    """A YAML document; notes the line of every key, dotted, and what is written twice.

    Raises:
        yaml.YAMLError: it is not YAML.
    """
    node = yaml.compose(text, yaml.SafeLoader)
    return None if node is None else _Tree(name, lines, faults).value(node, "")


def read_word(text: str) -> Scalar:
    """What stands behind `key=` on a command line: taken whole, but for quotes around it."""
    try:
        node = yaml.compose(text, yaml.SafeLoader) if text[:1] in ("'", '"') else None
    except yaml.YAMLError:
        node = None
    if isinstance(node, yaml.ScalarNode):
        return Scalar(node.value, quoted=True)
    return Scalar(text, yaml.SafeLoader("").resolve(yaml.ScalarNode, text, (True, False)) == _TEXT)


class _Tree:
    def __init__(self, name: str, lines: dict[str, str], faults: list[Fault]):
        self.name, self.lines, self.faults = name, lines, faults
        self._above: list[yaml.Node] = []  # an alias may not stand inside what it names
        self._looked_at = 0

    def value(self, node: yaml.Node, place: str) -> Any:
        self._looked_at += 1
        if self._looked_at > LARGEST:
            raise yaml.YAMLError(f"more than {LARGEST:,} values, by aliases of aliases")
        if node.tag not in _KNOWN:
            return self._fault(place, node, f"{node.tag}: tags are not used in recipes; take it out")
        if isinstance(node, yaml.ScalarNode):
            return Scalar(node.value, node.tag == _TEXT, node.style is not None)
        if any(node is one for one in self._above):
            return self._fault(place, node, "stands inside itself; write it out")
        self._above.append(node)
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item, place) for item in node.value]
            return self._mapping(node, place)
        finally:
            self._above.pop()

    def _mapping(self, node: yaml.MappingNode, place: str) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        found: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key, value in node.value:
            if key.tag == _MERGE:
                for other in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    values = self.value(other, place)
                    merged = (values if isinstance(values, dict) else {}) | merged
                continue
            if not isinstance(key, yaml.ScalarNode):
                self._fault(place, key, "a key must be a plain name")
                continue
            dotted, line = f"{place}.{key.value}" if place else key.value, key.start_mark.line + 1
            self.lines[dotted] = f"{self.name} line {line}"
            if key.value in first:
                self.faults.append(Fault(dotted, f"{dotted} ({self.name} lines {first[key.value]} and {line}): written twice; keep one"))
                continue
            first[key.value] = line
            found[key.value] = self.value(value, dotted)
        return merged | found

    def _fault(self, place: str, node: yaml.Node, why: str) -> None:
        self.faults.append(Fault(place, f"{place or 'the recipe'} ({self.name} line {node.start_mark.line + 1}): {why}"))
