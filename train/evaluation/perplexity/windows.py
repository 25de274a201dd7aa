"""Documents cut into what a model reads at once, each token but a document's first scored in exactly one window.

lengths → `cut`: (document, start, stop, first) → `batches`: windows that are read together

A document that fits is one window. A longer one is read in windows of `longest` tokens that overlap by `overlap`: a window scores the
tokens that the one before has not reached, each of them with at least `overlap` tokens before it (lm-evaluation-harness: overlap 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Window(NamedTuple):
    """Tokens start … stop - 1 of a document are read, those from `first` on scored."""

    document: int
    start: int
    stop: int
    first: int


def cut(lengths: Sequence[int], longest: int | None, overlap: int | None = None) -> list[Window]:
    """Windows in the order of the documents; documents of less than two tokens have none.

    Args:
        longest: tokens of a window, at least 2; None: no limit. overlap: tokens read again, 1 … longest - 1 (default: half of `longest`).
    """
    windows = []
    for document, length in enumerate(lengths):
        limit = length if longest is None else longest
        again = max(1, limit // 2) if overlap is None else overlap
        scored = 1  # tokens that are scored, or have nothing before them
        while scored < length:
            start = 0 if scored == 1 else scored - again
            stop = min(start + limit, length)
            windows.append(Window(document, start, stop, scored))
            scored = stop
    return windows


def batches(windows: Sequence[Window], tokens: int) -> list[list[int]]:
    """Numbers of windows, in order, as many together as have `tokens` tokens; one at least."""
    made: list[list[int]] = []
    held = 0
    for number, window in enumerate(windows):
        size = window.stop - window.start
        if not made or held + size > tokens:
            made.append([])
            held = 0
        made[-1].append(number)
        held += size
    return made
