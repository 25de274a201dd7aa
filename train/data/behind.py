"""Which documents stand behind a step of a run: from shards, settings and the rows left out alone, without torch.

step 14 → its rows in the plans (positions.py) → `Piece` after `Piece`, row by row; the same at any number of ranks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data_tools.shards.reader import Shards
from train.data import packing, positions
from train.data.plans import DataSettings, Plans
from train.data.positions import LeftOut, Position


@dataclass(frozen=True)
class Piece:
    """A segment of a row: tokens start:stop of a document."""

    row: int  # within the step, from 0
    epoch: int
    plan_row: int  # within the epoch's plan
    source: str
    id: str
    start: int
    stop: int
    length: int  # tokens of the whole document
    shards: Path
    index: int  # of the document in its shards


class BehindError(ValueError):
    """A step that a run does not have, or rows left out that were counted in other data."""


def behind(
    shards: Mapping[str, Shards], settings: DataSettings, step: int, left_out: LeftOut = (), plans_known: Mapping[int, str] | None = None
) -> list[Piece]:
    """The pieces of a step, in the order in which they lie in its rows.

    Args:
        step: from 1, as metrics.jsonl counts.
        plans_known: digests of the plans that the rows left out were counted in.
    Raises:
        BehindError: those are not the plans of this data.
        MixtureError: the sources are used up before the step.
    """
    names, folders = list(shards), list(shards.values())
    plans = Plans(folders, settings)
    try:
        for epoch, digest in (plans_known or {}).items():
            if plans.digest(epoch) != digest:
                raise BehindError(f"epoch {epoch}: the rows this run has left out are those of other data or another order; put those back")

        def plan_rows(epoch: int) -> int:
            return len(plans.rows(epoch))

        before, count = (step - 1) * settings.rows_per_step, settings.rows_per_step
        at = positions.take(Position(), before, plan_rows, left_out)[1] if before else Position()
        spans, _ = positions.take(at, count, plan_rows, left_out)
        found: list[Piece] = []
        places = [(span.epoch, row) for span in spans for row in range(span.first, span.stop)]
        for number, (epoch, row) in enumerate(places):
            piece = plans.rows(epoch).span(row, row + 1)
            source, index = packing.locate(piece.document, folders)
            for k, i, start, stop in zip(source.tolist(), index.tolist(), piece.start.tolist(), piece.stop.tolist(), strict=True):
                of = folders[k]
                found.append(Piece(number, epoch, row, names[k], of.id(i), start, stop, int(of.lengths[i]), of.folder, i))
        return found
    finally:
        plans.close()
