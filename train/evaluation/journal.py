"""What has been measured so far, kept as it comes, so that a killed evaluation goes on where it stopped, with the same result.

`Journal(folder, measure, facts, world)` → `todo(units)` what is still to do → `add(unit, value)` a line each → `together()` all ranks' values
The facts that decide about a value (model, data, options) make the file's name: another evaluation never reads these lines.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from train.evaluation.texts import EvaluationError
from train.world.ranks import World


class Journal:
    """Lines `[unit, value]` of one measure of one model; every process writes a file of its own and reads all of them."""

    def __init__(self, folder: Path, measure: str, facts: dict[str, Any], world: World):
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:20]
        self._world, self._names = world, f"{measure}-{key}"
        self._path = folder / f"{self._names}.{world.rank:05d}.jsonl"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._there = self._read()
        self._file = self._path.open("ab")
        if self._file.tell() and self._path.read_bytes()[-1:] != b"\n":
            self._file.write(b"\n")  # half a line that a kill left stays by itself

    def todo(self, units: int) -> list[int]:
        """Numbers of the units that no rank has measured yet."""
        done = self._world.broadcast(sorted(self._there))  # one rank's view for all: another one may be writing already
        return sorted(set(range(units)) - set(done))

    def add(self, unit: int, value: Any) -> None:
        self._file.write(json.dumps([unit, value], allow_nan=False).encode() + b"\n")
        self._file.flush()  # a kill of the process loses nothing that the system has

    def together(self, units: int) -> list[Any]:
        """Every unit's value, when all ranks have done theirs. Raises EvaluationError where some are not to be found."""
        os.fsync(self._file.fileno())
        self._file.close()
        self._world.barrier()
        there = self._read()
        if missing := sorted(set(range(units)) - set(there)):
            raise EvaluationError(
                f"{self._path.parent}: {len(missing)} of {units} parts are not there, the first is {missing[0]}; "
                "--out must be one folder that all processes share"
            )
        return [there[unit] for unit in range(units)]

    def _read(self) -> dict[int, Any]:
        found: dict[int, Any] = {}
        for path in sorted(self._path.parent.glob(f"{self._names}.*.jsonl")):
            for line in path.read_bytes().splitlines():
                try:
                    unit, value = json.loads(line)
                    found[int(unit)] = value
                except (ValueError, TypeError):
                    continue  # the half line of a process that was killed: measured again
        return found


def measured(journal: Journal, units: int, measure: Callable[[int], Any], world: World, what: str) -> list[Any]:
    """Every unit's value on every rank; those that are missing are dealt out to the ranks, and measured with progress shown."""
    todo = journal.todo(units)
    if len(todo) < units:
        world.log0(f"{what}: {units - len(todo):,} of {units:,} parts are there from before")
    mine = todo[world.rank :: world.size]
    with world.progress(what, len(mine), "part") as advance:
        for unit in mine:
            journal.add(unit, measure(unit))
            advance(1)
    return journal.together(units)
