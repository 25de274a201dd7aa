"""Which checkpoint a run goes on from, and the state it finds there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from train.checkpoint.layout import MANIFEST, REPLACED, STEP, folder_name
from train.checkpoint.manifest import verify
from train.world.places import PlaceError, is_remote, place

if TYPE_CHECKING:
    from train.world.ranks import World


class ResumeError(ValueError):
    """A folder that cannot be resumed from, and why."""


def find(root: Path, wanted: str, world: World) -> Path | None:
    """The checkpoint to resume from: the newest that verifies (`auto`), none (`never`), or the one named.

    Raises:
        ResumeError: the named one does not verify; or none of several does; or `never` in a run that has some.
    """
    if world.rank == 0:
        put_back_replaced(root)
    world.barrier()
    if wanted == "never":
        if world.broadcast(bool(steps_in(root))):
            raise ResumeError(
                f"{root}: holds checkpoints, and --resume never would start over them; give the run another name=, or move them away"
            )
        return None
    if wanted != "auto":
        if faults := named_faults(wanted):
            raise ResumeError(faults[0])
        folder = place(wanted)
        if faults := verify(folder, world):
            raise ResumeError(f"{folder}: not resumed from, it is damaged:\n" + "\n".join(f"  - {f}" for f in faults[:10]))
        return folder
    candidates = world.broadcast(sorted(steps_in(root), reverse=True))
    for step in candidates:
        folder = root / folder_name(step)
        faults = verify(folder, world)
        if not faults:
            return folder
        world.log0(f"checkpoint of step {step} skipped: {faults[0]}" + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""))
    if candidates:
        raise ResumeError(f"{root}: none of its {len(candidates)} checkpoints verifies; restore one, or start anew under another name=")
    return None


def named_faults(wanted: str) -> list[str]:
    """What is wrong with the checkpoint named by --resume, as far as a look shows; nothing for `auto` and `never`."""
    if wanted in ("auto", "never"):
        return []
    try:
        folder = place(wanted)
    except PlaceError as error:
        return [f"--resume {error}"]
    if not folder.is_dir():
        return [f"--resume {wanted}: no such folder; a checkpoint is a folder like runs/NAME/checkpoints/step_000500"]
    if not (folder / MANIFEST).is_file():
        return [f"--resume {wanted}: no {MANIFEST} in it: not a checkpoint of this trainer, or only part of one; copy it again"]
    return []


def steps_in(root: Path) -> dict[int, Path]:
    """Published folders by step, whether they verify or not."""
    if not root.is_dir():
        return {}
    found = {int(m.group(1)): p for p in root.iterdir() if (m := STEP.match(p.name)) and p.is_dir()}
    if is_remote(root):  # a store has no rename: until the manifest is there, nothing is
        found = {step: p for step, p in found.items() if (p / MANIFEST).is_file()}
    return found


def put_back_replaced(root: Path) -> None:
    """A save that died between its two renames left a step without its name: the older save, whole, gets it back."""
    for left in [] if is_remote(root) else root.glob(f"step_*{REPLACED}"):
        final = left.with_name(left.name.removesuffix(REPLACED))
        if not final.exists():
            os.rename(left, final)
