"""Figures as they stand in a table on a screen."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, all others to the right; the first row is the heading."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]).rstrip() for row in rows]


def figure(value: float) -> str:
    """Four digits that mean something."""
    return f"{value:.2f}" if abs(value) < 1000 else f"{value:.4g}"


def spread(low: float, high: float, digits: int | None = None) -> str:
    """An interval."""
    return f"({figure(low)} … {figure(high)})" if digits is None else f"({low:+.{digits}f} … {high:+.{digits}f})"


def counted(number: int, what: str) -> str:
    """1 model, 2 models."""
    return f"{number:,} {what}{'s' * (number != 1)}"
