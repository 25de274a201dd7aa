"""What a run's rewinds have been, one file each: written before anything is taken back, so that a rewind counts from then on.

runs/NAME/rewinds/0001.json   the step gone back to, the steps taken back and their lines of metrics.jsonl, the documents of the
                              skipped ones, and all rows that are left out from then on

A run that starts asks `settle`: checkpoints that a rewind has taken back are deleted if a kill has left them, and the rows left out are
known whichever checkpoint it goes on from.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.checkpoint import folder as checkpoint
from train.checkpoint.find import steps_in
from train.checkpoint.layout import MANIFEST, STATE
from train.data.loader import Loader, LoaderError
from train.data.positions import LeftOut, Span, merged
from train.world.places import remove, write_durably
from train.world.ranks import World

FOLDER = "rewinds"


class RewindError(RuntimeError):
    """A rewind that cannot be written down or read."""


@dataclass(frozen=True)
class Rewind:
    """One of them, as its file has it."""

    number: int
    step: int  # gone back to
    from_step: int  # the last one taken back
    skipped_in_a_row: int
    left_out: tuple[tuple[int, int, int], ...]  # epoch, first row, stop: all that is left out from then on
    plans: tuple[tuple[int, str], ...]  # epoch, digest of the plan its rows are counted in
    documents: tuple[str, ...]  # of the skipped steps

    @property
    def line(self) -> dict[str, Any]:
        """Its line of metrics.jsonl."""
        return {"step": self.step, "event": "rewind", "rewind": self.number} | {
            key: value for key, value in dataclasses.asdict(self).items() if key not in ("number", "documents")
        }


def of_run(run_dir: Path) -> list[Rewind]:
    """In order."""
    made = [json.loads(path.read_text()) for path in sorted((run_dir / FOLDER).glob("[0-9]*.json"))]
    return [Rewind(**{k: _tuples(v) for k, v in one.items() if k != "taken_back"}) for one in made]


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def write(run_dir: Path, root: Path, rewind: Rewind, taken_back: list[str], world: World) -> None:
    """Write one down, then delete the checkpoints it takes back; every rank calls it.

    Args:
        taken_back: lines of metrics.jsonl.
    """

    def act() -> None:
        lines = [json.loads(text) for text in taken_back]
        content = json.dumps(dataclasses.asdict(rewind) | {"taken_back": lines}, indent=1) + "\n"
        (run_dir / FOLDER).mkdir(parents=True, exist_ok=True)
        write_durably(run_dir / FOLDER / f"{rewind.number:04d}.json", content)
        _delete_taken_back(root, of_run(run_dir))

    _on_rank_0(act, run_dir / FOLDER, world)


def settle(run_dir: Path, root: Path, world: World) -> list[Rewind]:
    """The run's rewinds; what one that was killed has left is finished. Every rank calls it, before a checkpoint is looked for."""

    def act() -> list[Rewind]:
        for folder in (run_dir, run_dir / FOLDER):
            for unfinished in folder.glob(".*.json.tmp-*"):  # of a start that was killed while it wrote
                unfinished.unlink(missing_ok=True)
        made = of_run(run_dir)
        _delete_taken_back(root, made)
        return made

    return _on_rank_0(act, run_dir / FOLDER, world)


def _delete_taken_back(root: Path, made: list[Rewind]) -> None:
    """Checkpoints from after a step gone back to, of a run that did not know of that rewind yet."""
    for step, folder in steps_in(root).items() if made else ():
        try:
            known = json.loads((folder / STATE).read_text()).get("guard", {}).get("rewinds", 0)
        except (OSError, ValueError):
            continue  # no checkpoint: the next search says so
        if any(step > rewind.step for rewind in made if rewind.number > known):
            checkpoint.clear_leftovers(root)
            remove(folder, first=MANIFEST)


def _on_rank_0(action: Callable[[], Any], place: Path, world: World) -> Any:
    """What it returned, on every rank; RewindError, on every rank, for what went wrong with a file."""
    value, fault = None, ""
    if world.rank == 0:
        try:
            value = action()
        except (OSError, ValueError, TypeError) as error:
            fault = f"{place}: {error}; mend the disk or the file, then start again"
    value, fault = world.broadcast((value, fault))
    if fault:
        raise RewindError(fault)
    return value


# ---- the rows left out ----


def digests(loader: Loader, left_out: LeftOut) -> tuple[tuple[int, str], ...]:
    """By which the plans that rows are counted in will be known again."""
    return tuple((epoch, loader.plans.digest(epoch)) for epoch in sorted({s.epoch for s in left_out}))


def leave_out(loader: Loader, rows: tuple[tuple[int, int, int], ...], plans: tuple[tuple[int, str], ...], said_in: str) -> None:
    """From where the loader stands leave these rows out, too.

    Raises:
        LoaderError: they were counted in other data.
    """
    left_out = merged(Span(*span) for span in rows)
    if digests(loader, left_out) != plans:
        raise LoaderError(
            f"{said_in}: the rows it leaves out are those of other data or another order; put those back, or give this run another name="
        )
    loader.seek(loader.position, merged([*loader.left_out, *left_out]))
