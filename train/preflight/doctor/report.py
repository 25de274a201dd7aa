"""What the doctor is asked and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.preflight.doctor.rules import Finding


@dataclass(frozen=True)
class Asked:
    """What the door was given. recipe: path of a YAML, or None; link: bytes/s a link should carry; wait: seconds for ranks to come."""

    recipe: str | None
    overrides: list[str]
    folder: Path | None
    hostfile: dict[str, int] | None
    link: float | None
    wait: float


@dataclass(frozen=True)
class Report:
    """go: no finding is a no-go. On ranks other than 0 only that."""

    go: bool
    findings: list[Finding]
    lines: list[str]  # what was seen where nothing is wrong, and the memory plan
    facts: dict[str, Any]
    seconds: float
