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
from train.preflight.planner.published import RowError, read
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
    """Raises TableError: no CSV with a header that names `model` and `gpu`."""
    try:
        reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")))
        columns = [c for c in reader.fieldnames or [] if c is not None]
        rows = list(reader)
    except csv.Error as error:
        raise TableError(f"{name}: not a CSV table ({error})") from None
    if missing := [c for c in ("model", "gpu") if c not in columns]:
        raise TableError(
            f"{name}: no column {' and '.join(missing)} in its first line; wanted are id, model, n_gpu, gpu, seq_len and so on"
        )
    columns = [c for c in columns if c not in (RATE, MEMORY, NOTE)]
    out, errors, refused = io.StringIO(), [], 0
    writer = csv.DictWriter(out, [*columns, RATE, MEMORY, NOTE], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        told = of_row(row)
        refused += not told[RATE]
        errors += _error(row, told)
        writer.writerow({**row, **told})
    return Made(out.getvalue(), len(rows) - refused, refused, tuple(errors))


def of_row(row: Mapping[str, str]) -> dict[str, str]:
    try:
        what = read(row)
    except RowError as error:
        return {RATE: "", MEMORY: "", NOTE: f"not predicted: {error}"}
    times, taken = predict(what.job, what.cluster, constants()), peak(what.job, what.cluster) / GIB
    notes = list(what.notes)
    if taken > what.cluster.gpu.gib:
        notes.append(f"about {taken:.0f} GiB would not fit a GPU of {what.cluster.gpu.gib:g}")
    return {RATE: f"{times.tokens_per_second:.4g}", MEMORY: f"{taken:.4g}", NOTE: "; ".join([f"bound by {times.bottleneck}", *notes])}


def _error(row: Mapping[str, str], told: Mapping[str, str]) -> Iterator[float]:
    try:
        published = float(row.get("tok_s_gpu") or 0)
    except (TypeError, ValueError):
        return
    if published > 0 and told[RATE]:
        yield float(told[RATE]) / published - 1
