"""An abstract → the sentences that a model is given, and what its authors went on with."""

from __future__ import annotations

import re
from dataclasses import dataclass

END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[A-Z0-9$\\(\"'])")
NO_END = re.compile(r"(?:\b(?:al|e\.g|i\.e|cf|vs|Fig|Figs|Eq|Eqs|Sec|Ref|Refs|Dr|Prof|St|approx|ca|resp|No|Vol|viz)|\b[A-Z])\.$")


@dataclass(frozen=True)
class Item:
    """prompt + truth is the abstract, character by character."""

    id: str
    prompt: str
    truth: str


def item_of(id: str, text: str, sentences: int) -> Item | None:
    """None where nothing is left to go on with."""
    ends = [found.start() for found in END.finditer(text) if not NO_END.search(text[: found.start()])]
    if len(ends) < sentences:
        return None
    cut = ends[sentences - 1]
    return Item(id, text[:cut], text[cut:]) if text[cut:].strip() else None
