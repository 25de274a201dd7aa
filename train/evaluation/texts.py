"""What models are evaluated on: texts with the groups they belong to, and a hash of them all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


class EvaluationError(ValueError):
    """What was asked for cannot be measured; says where, what was found, and what to do."""


@dataclass(frozen=True)
class Text:
    """A text as its author wrote it.

    id: of the paper it comes from, which is the unit that intervals are drawn over. groups: (kind, name), as ("section", "abstract").
    """

    id: str
    text: str
    groups: tuple[tuple[str, str], ...] = ()


def hash_of(values: Sequence[Any]) -> str:
    """sha256 (hex) of dataclasses, in their order."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(json.dumps(asdict(value), sort_keys=True).encode() + b"\n")
    return digest.hexdigest()
