"""What is embedded of a paper: its abstract, its title, and each half of its abstract."""

from __future__ import annotations

import re
from dataclasses import dataclass

KINDS = ("abstract", "title", "first", "second")


@dataclass(frozen=True)
class Paper:
    """title, category: "" where there is none."""

    id: str
    abstract: str
    title: str = ""
    category: str = ""

    def text(self, kind: str) -> str:
        if kind in ("first", "second"):
            return halves(self.abstract)[kind == "second"]
        return {"abstract": self.abstract, "title": self.title}[kind]


def halves(text: str) -> tuple[str, str]:
    """Cut between two sentences, at the place nearest the middle; between two words where there is one sentence alone."""
    text = text.strip()
    middle = len(text) / 2
    for pattern in (r"(?<=[.!?])\s+(?=[^\s\da-z])", r"\s+"):
        if cuts := [found for found in re.finditer(pattern, text) if 0.2 < found.start() / len(text) < 0.8]:
            cut = min(cuts, key=lambda found: abs(found.start() - middle))
            return text[: cut.start()], text[cut.end() :]
    return text[: len(text) // 2], text[len(text) // 2 :]
