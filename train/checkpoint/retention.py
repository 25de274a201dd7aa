"""Which checkpoints stay: the last, the regular and the best; nothing goes before the newest has been read back."""

from __future__ import annotations

import json
from pathlib import Path

from train.checkpoint.find import steps_in
from train.checkpoint.layout import MANIFEST, STATE, folder_name
from train.checkpoint.manifest import verify
from train.world.places import remove
from train.world.ranks import World


class RetentionError(RuntimeError):
    """The newest checkpoint does not verify: nothing was deleted."""


def to_delete(steps: dict[int, float | None], keep_last: int, keep_every: int, keep_best: int) -> list[int]:
    """Which steps go, given each step's mean held-out loss (None: not evaluated)."""
    kept = set(sorted(steps)[-keep_last:])
    kept |= {s for s in steps if keep_every and s % keep_every == 0}
    judged = sorted((loss, s) for s, loss in steps.items() if loss is not None and loss == loss)
    kept |= {s for _, s in judged[:keep_best]}
    return sorted(set(steps) - kept)


def retain(root: Path, keep_last: int, keep_every: int, keep_best: int, newest: Path, world: World) -> list[int]:
    """Delete what the rules let go, after the newest checkpoint has been read back and verifies; returns the steps that went.

    Raises:
        RetentionError: on every rank, when it does not.
    """

    def heldout_loss(folder: Path) -> float | None:
        try:
            return json.loads((folder / STATE).read_text()).get("heldout_loss")
        except (OSError, ValueError):
            return None

    known = {step: heldout_loss(folder) for step, folder in steps_in(root).items()} if world.rank == 0 else {}
    doomed = world.broadcast(to_delete(known, keep_last, keep_every, keep_best))
    if not doomed:
        return []
    if faults := verify(newest, world):
        raise RetentionError(
            f"{newest}: does not verify after it was written ({faults[0]}); no older checkpoint was deleted. Check the disk"
        )
    if world.rank == 0:
        for step in doomed:
            remove(root / folder_name(step), first=MANIFEST)
    world.barrier()
    return doomed
