"""Which checkpoints stay: the last, the regular and the best; nothing goes before the newest has been read back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from train.checkpoint.find import steps_in
from train.checkpoint.layout import MANIFEST, STATE, folder_name
from train.checkpoint.manifest import verify
from train.world.places import remove
from train.world.ranks import World


@dataclass(frozen=True)
class Keep:
    """What stays: the last, every so many steps for good, the best by held-out loss."""

    last: int
    every: int
    best: int


class RetentionError(RuntimeError):
    """The newest checkpoint does not verify: nothing was deleted."""


def to_delete(steps: dict[int, float | None], keep: Keep, newest_good: int | None = None) -> list[int]:
    """Which steps go, given each step's held-out loss (None: not evaluated, or a rule broken).

    Args:
        newest_good: the newest step up to this one stays, too, and the oldest after it, which may come to be that one; None: there is no
            such rule.
    """
    kept = set(sorted(steps)[-keep.last :])
    kept |= {s for s in steps if keep.every and s % keep.every == 0}
    if newest_good is not None:
        kept |= {max((s for s in steps if s <= newest_good), default=-1), min((s for s in steps if s > newest_good), default=-1)}
    judged = sorted((loss, s) for s, loss in steps.items() if loss is not None and loss == loss)
    kept |= {s for _, s in judged[: keep.best]}
    return sorted(set(steps) - kept)


def retain(root: Path, keep: Keep, newest: Path, world: World, newest_good: int | None = None) -> list[int]:
    """Delete what the rules let go, after the newest checkpoint has been read back and verifies; returns the steps that went.

    Raises:
        RetentionError: on every rank, when it does not.
    """

    def heldout_loss(folder: Path) -> float | None:
        try:
            state = json.loads((folder / STATE).read_text())
            return state.get("judged_loss", state.get("heldout_loss"))
        except (OSError, ValueError):
            return None

    known = {step: heldout_loss(folder) for step, folder in steps_in(root).items()} if world.rank == 0 else {}
    doomed = world.broadcast(to_delete(known, keep, newest_good))
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
