"""Where a run stands in its plans, and which rows it leaves out: plain numbers, the same at any number of ranks.

an epoch and a row of its plan → `take`, the spans of the next rows and the position after them; `back`, the position so many rows
before. Rows that a run leaves out count for neither. `plan_rows(epoch)` says how many rows the plan of an epoch has.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple


class Position(NamedTuple):
    """Rows before `next_row` of `epoch`'s plan have been used."""

    epoch: int = 0
    next_row: int = 0


class Span(NamedTuple):
    """Rows first:stop of an epoch's plan."""

    epoch: int
    first: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.first


LeftOut = tuple[Span, ...]  # in order, apart from each other


def merged(spans: Iterable[Span]) -> LeftOut:
    """The same rows as few spans, in order."""
    found: list[Span] = []
    for span in sorted(s for s in spans if len(s) > 0):
        last = found[-1] if found else None
        if last and last.epoch == span.epoch and span.first <= last.stop:
            found[-1] = Span(last.epoch, last.first, max(last.stop, span.stop))
        else:
            found.append(span)
    return tuple(found)


def take(at: Position, count: int, plan_rows: Callable[[int], int], left_out: LeftOut) -> tuple[list[Span], Position]:
    """The next `count` rows that are not left out, across as many epochs as they lie in, and where they end."""
    spans: list[Span] = []
    epoch, row = at
    while True:
        for kept in _kept(epoch, row, plan_rows(epoch), left_out):
            taken = min(count, len(kept))
            spans.append(Span(epoch, kept.first, kept.first + taken))
            count, row = count - taken, kept.first + taken
            if not count:
                return spans, Position(epoch, row)
        epoch, row = epoch + 1, 0


def back(at: Position, count: int, plan_rows: Callable[[int], int], left_out: LeftOut) -> Position:
    """Where the `count` rows that end at a position begin; the start of the run when there are not so many."""
    epoch, stop = at
    while True:
        for kept in reversed(_kept(epoch, 0, stop, left_out)):
            if count <= len(kept):
                return Position(epoch, kept.stop - count)
            count -= len(kept)
        if epoch == 0:
            return Position()
        epoch, stop = epoch - 1, plan_rows(epoch - 1)


def between(first: Position, stop: Position, plan_rows: Callable[[int], int]) -> list[Span]:
    """All rows from one position to another."""
    spans = [Span(epoch, first.next_row if epoch == first.epoch else 0, plan_rows(epoch)) for epoch in range(first.epoch, stop.epoch)]
    return [*spans, Span(stop.epoch, first.next_row if stop.epoch == first.epoch else 0, stop.next_row)]


def _kept(epoch: int, first: int, stop: int, left_out: Sequence[Span]) -> list[Span]:
    """What is not left out of rows first:stop."""
    found = []
    for gap in (*(s for s in left_out if s.epoch == epoch and s.stop > first and s.first < stop), Span(epoch, stop, stop)):
        if gap.first > first:
            found.append(Span(epoch, first, gap.first))
        first = max(first, gap.stop)
    return found
