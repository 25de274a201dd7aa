"""Where a run's data came from, as its shards' manifests tell."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.shards.format import MANIFEST, manifest_checksum

MOST_INPUTS = 200  # of a source that are named


@dataclass(frozen=True)
class Source:
    """A folder of shards. counts: documents and tokens. inputs: what it was made from, with hash or size. said: why nothing is known."""

    name: str
    use: str  # "trained on" or "held out"
    path: str
    weight: float | None
    counts: dict[str, int]
    inputs: list[tuple[str, str]]
    left_out: int  # inputs beyond those
    arguments: dict[str, Any]
    checksum: str
    said: str


def sources(recipe: dict[str, Any]) -> list[Source]:
    """Those trained on, then those held out, of a recipe as recipe.yaml and state.json have it, whatever is wrong with it."""
    found = []
    for section, use in (("data", "trained on"), ("heldout", "held out")):
        given = recipe.get(section)
        named = given.get("sources") if isinstance(given, dict) else None
        for name, source in (named if isinstance(named, dict) else {}).items():
            found.append(_source(str(name), use, source if isinstance(source, dict) else {}))
    return found


def _source(name: str, use: str, given: dict[str, Any]) -> Source:
    path = str(given.get("path") or "")
    weight = given.get("weight") if isinstance(given.get("weight"), (int, float)) else None
    file = Path(path) / MANIFEST
    try:
        manifest = json.loads(file.read_bytes())
        counts = {key: value for key, value in manifest["counts"].items() if isinstance(value, int)}
        inputs = [_input(one) for one in manifest.get("inputs") or [] if isinstance(one, dict)]
        arguments = manifest.get("arguments") if isinstance(manifest.get("arguments"), dict) else {}
        checksum = str(manifest.get("checksum", ""))
        said = "" if checksum == manifest_checksum(manifest) else "its manifest was changed after it was written"
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        said = "no manifest there now" if not file.is_file() else "its manifest cannot be read"
        return Source(name, use, path, weight, {}, [], 0, {}, "", said)
    return Source(name, use, path, weight, counts, inputs[:MOST_INPUTS], len(inputs[MOST_INPUTS:]), arguments, checksum, said)


def _input(one: dict[str, Any]) -> tuple[str, str]:
    digest = next((str(one[key]) for key in ("sha256", "hash", "digest", "fingerprint") if one.get(key)), "")
    size = one.get("bytes") if isinstance(one.get("bytes"), int) else None
    return str(one.get("path") or one.get("name") or one), digest or (f"{size:,} bytes" if size is not None else "")
