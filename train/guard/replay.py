"""Decisions of an earlier run, read from its metrics.jsonl: applied as they stand, they give its weights bit for bit.

A line of a step says whether it was skipped, a line of a rewind which rows are left out; what a rewind has taken back is not among
them, so that a replay goes straight through.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Record:
    """What was decided, up to a step."""

    last_step: int
    skipped: Mapping[int, str]  # step → why
    left_out: tuple[tuple[int, int, int], ...] = ()  # epoch, first row, stop
    plans: tuple[tuple[int, str], ...] = ()  # digests of the epochs' plans that these rows are counted in
    rewinds: int = 0


class RecordError(ValueError):
    """A file that holds no decisions to replay, or those of other data."""


def recorded(path: Path) -> Record:
    """Raises RecordError, with the line, where the file is not a run's metrics.jsonl."""
    last, skipped, rewinds = 0, {}, 0
    left_out, plans = (), ()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"guard.replay={path}: cannot be read ({error}); give a run's metrics.jsonl") from None
    for number, text in enumerate(lines, 1):
        try:
            line = json.loads(text)
            if "left_out" in line:  # all that is left out from then on
                rewinds += 1
                left_out = tuple((int(e), int(a), int(b)) for e, a, b in line["left_out"])
                plans = tuple((int(epoch), str(digest)) for epoch, digest in line["plans"])
            elif "loss" in line:
                last = max(last, int(line["step"]))
                if line.get("skipped"):
                    skipped[int(line["step"])] = str(line.get("why") or "skipped in the recorded run")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if number < len(lines):  # a run that was killed may have left half a last line
                raise RecordError(f"guard.replay={path} line {number}: not a line of metrics.jsonl ({error})") from None
    if not last:
        raise RecordError(f"guard.replay={path}: holds no step; give a run's metrics.jsonl")
    return Record(last, skipped, left_out, plans, rewinds)
