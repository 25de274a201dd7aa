"""A run goes back to a checkpoint from before its trouble, in the same process, and leaves the rows of the trouble out.

1. the newest checkpoint that verifies and is `guard.rewind_steps` older than the first skipped step; where there is none, the weights
   the run started with;
2. the rewind is written down (rewind_record.py), and what comes after that step is taken back: checkpoints, lines, curves;
3. weights, masters, moments, position and the ladder's memory are those of that step.

Left out are the rows of the skipped steps and of the `rewind_steps` before them, since a loss shoots up where a batch meets a state:
what led there is left out too. The steps from the checkpoint to those rows are made again, bit for bit.
"""

from __future__ import annotations

from pathlib import Path

from train.checkpoint import trainer_state
from train.checkpoint.find import steps_in
from train.checkpoint.layout import folder_name
from train.checkpoint.manifest import verify
from train.checkpoint.state import read_state
from train.data.positions import Position, merged
from train.engine import zero3
from train.guard.spikes import Memory
from train.model_files.fetch import resolve
from train.recipe.vocabulary import Recipe
from train.run import rewind_record
from train.run.rewind_record import Rewind
from train.run.start import Started
from train.run.state import TrainState
from train.world.places import place
from train.world.ranks import World


def rewind(started: Started, state: TrainState) -> TrainState:
    """Where the run stands afterwards. Every rank calls it, between two steps.

    Raises:
        RewindError: it cannot be written down.
        MixtureError: the sources cannot give the run its length without the rows left out.
    """
    recipe, world, loader, ladder = started.recipe, started.world, started.loader, started.ladder
    world.beat.phase("rewinding")
    started.saver.finish()
    skipped = ladder.memory.in_a_row
    left_out = merged([*loader.left_out, *loader.rows_of_last_steps(skipped + recipe.guard.rewind_steps)])
    loader.require_tokens(recipe.total_steps * recipe.tokens_per_step + sum(map(len, left_out)) * recipe.data.seq_len)
    root = place(recipe.checkpoints)
    limit = newest_to_go_back_to(recipe, state.step, skipped)
    found = _choose(root, limit, started.base.resumed, world)
    saved = read_state(found) if found else {"step": 0, "tokens": 0, "heldout_loss": None, "guard": {}}
    done = Rewind(
        number=ladder.memory.rewinds + 1, step=saved["step"], from_step=state.step, skipped_in_a_row=skipped,
        left_out=tuple(map(tuple, left_out)), plans=rewind_record.digests(loader, left_out),
        documents=tuple(dict.fromkeys(f"{source}/{id}" for source, id, _, _ in loader.documents_in(loader.rows_of_last_steps(skipped)))),
    )  # fmt: skip
    rewind_record.write(recipe.run_dir, root, done, started.log.lines_after(done.step), world)
    started.log.rewound(done.line)
    started.goodput.taken_back(started.log.taken_back, "rewound")
    if found:
        trainer_state.load(started.engine, found, world)
        loader.load_state_dict(saved["loader"])
    else:
        zero3.reload(started.engine, recipe, world, resolve(recipe.model.path, world), started.base.folder)
        loader.seek(Position(), ())
    loader.seek(loader.position, left_out)
    ladder.memory = Memory.of({**saved.get("guard", {}), "rewinds": done.number})
    started.saver.newest = started.record.checkpoint = found
    rows = sum(map(len, loader.left_out))
    world.log0(
        f"step {state.step}  {skipped} steps in a row skipped: back to {found or 'the weights the run started with'}, {rows:,} rows are left out "
        f"(rewind {done.number} of {recipe.guard.max_rewinds}; documents in {recipe.run_dir / rewind_record.FOLDER})"
    )
    return TrainState.of(saved, state.heldout_before)


def newest_to_go_back_to(recipe: Recipe, step: int, in_a_row: int) -> int | None:
    """The last step whose checkpoint a rewind after `step`, or after a step that follows, would take; None: this run has no rewinds."""
    return step - in_a_row - recipe.guard.rewind_steps if recipe.guard.max_rewinds else None


def _choose(root: Path, limit: int, origin: Path | None, world: World) -> Path | None:
    """The newest checkpoint up to a step that verifies; else the one from elsewhere that the run was resumed from; else none."""
    for step in world.broadcast(sorted((s for s in steps_in(root) if s <= limit), reverse=True)):
        folder = root / folder_name(step)
        if not (faults := verify(folder, world)):
            return folder
        world.log0(f"checkpoint of step {step} skipped: {faults[0]}")
    return origin if origin and origin.parent != root and not verify(origin, world) else None
