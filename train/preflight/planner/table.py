"""A table of runs, in the columns of published.py → the same rows with what is predicted of each.

Two columns are held still: predicted_tokens_per_second_per_gpu and predicted_peak_memory_gib. predicted_note says what was assumed, or why a
row cannot be predicted: a row never ends the table.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from train.preflight.planner.calibrated import constants
from train.preflight.planner.clusters import GIB
from train.preflight.planner.footprint import peak
from train.preflight.planner.published import RowError, rate, read
from train.preflight.planner.timing import predict

RATE, MEMORY, NOTE = "predicted_tokens_per_second_per_gpu", "predicted_peak_memory_gib", "predicted_note"


class TableError(ValueError):
    """A file that is no table: its place and the remedy."""


@dataclass(frozen=True)
class Made:
    """text: the table as CSV. predicted, refused: rows. errors: predicted / published - 1 of rows that say their rate."""

    text: str
    predicted: int
    refused: int
    errors: tuple[float, ...]


def predicted(text: str, name: str) -> Made:
    """Cells are divided by commas, or by what else divides the first line; names of columns may be written large. Raises TableError: no table
    with a header that names `model` and `gpu`."""
    try:
        text = text.removeprefix("\ufeff")
        first = text.lstrip("\n").partition("\n")[0]
        reader = csv.DictReader(io.StringIO(text), delimiter=max(",;\t", key=first.count))
        columns = [c for c in reader.fieldnames or [] if c is not None]
        rows = list(reader)
    except csv.Error as error:
        raise TableError(f"{name}: not a CSV table ({error})") from None
    if missing := [c for c in ("model", "gpu") if c not in map(_plain, columns)]:
        raise TableError(
            f"{name}: no column {' and '.join(missing)} in its first line; wanted are id, model, n_gpu, gpu, seq_len and so on"
        )
    columns = [c for c in columns if c not in (RATE, MEMORY, NOTE)]
    out, errors, refused = io.StringIO(), [], 0
    writer = csv.DictWriter(out, [*columns, RATE, MEMORY, NOTE], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        plain = {_plain(c): value for c, value in row.items() if c is not None}
        told = of_row(plain)
        refused += not told[RATE]
        errors += _error(plain, told)
        writer.writerow({**row, **told})
    return Made(out.getvalue(), len(rows) - refused, refused, tuple(errors))


def _plain(column: str) -> str:
    return column.strip().lower().replace(" ", "_")


def of_row(row: Mapping[str, str]) -> dict[str, str]:
    try:
        what = read(row)
    except RowError as error:
        return {RATE: "", MEMORY: "", NOTE: f"not predicted: {error}"}
    times, taken = predict(what.job, what.cluster, constants()), peak(what.job, what.cluster) / GIB
    notes = list(what.notes)
    if what.cluster.on_cuda and taken > what.cluster.gpu.gib:
        notes.append(f"about {taken:.0f} GiB would not fit a GPU of {what.cluster.gpu.gib:g}")
    return {RATE: f"{times.tokens_per_second:.4g}", MEMORY: f"{taken:.4g}", NOTE: "; ".join([f"bound by {times.bottleneck}", *notes])}


def _error(row: Mapping[str, str], told: Mapping[str, str]) -> Iterator[float]:
    published = rate(row)
    if published > 0 and told[RATE]:
        yield float(told[RATE]) / published - 1
