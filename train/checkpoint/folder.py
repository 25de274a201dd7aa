"""A checkpoint is a Hugging Face model folder that can also be trained on, at any world size, without pickle.

step_000500/  config, tokenizer, model-0000i-of-0000n.safetensors + index   → transformers loads it as it stands
              trainer/rank_00000_of_00002.safetensors, trainer/index.json   → fp32 masters and Adam's moments, flat slices
              trainer/probe.safetensors                                     → logits of the engine on a few tokens, to check an export with
              state.json, manifest.json (last; every file's size and hash)

Of an adapter on a frozen base: adapter_model.safetensors, adapter_config.json and base_model.json in place of the model's weights, and peft
loads it as it stands; trainer/ has what is trained alone.

1. prepare: room on the disk, leftovers of dead saves away, a folder aside (on an object store: the folder itself);
2. every rank writes its files, synced and hashed as they are written;
3. all ranks agree that all is well, or all raise the same error;
4. publish: manifest, rename, `latest`. An object store cannot rename: there the manifest alone makes the folder count.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from train.checkpoint import manifest, trainer_state, weight_files
from train.checkpoint.find import steps_in
from train.checkpoint.layout import LATEST, MANIFEST, PROBE, REPLACED, STATE, STEP, TRAINER, TRAINER_INDEX, folder_name
from train.checkpoint.state import as_text
from train.checkpoint.trainer_state import Slices
from train.model_files.companions import companion_files
from train.model_files.dtypes import known
from train.model_files.folder import INDEX, index_text
from train.model_files.writer import Writer
from train.world.places import as_os_errors, free_bytes, is_remote, remove, sync, write_durably, write_small
from train.world.ranks import World


class CheckpointError(RuntimeError):
    """A save that failed on some ranks; the previous checkpoints are untouched."""

    def __init__(self, text: str, ranks: tuple[int, ...] = ()):
        super().__init__(text)
        self.ranks = ranks


@dataclass(frozen=True)
class Extras:
    """What goes into a checkpoint besides this rank's slices."""

    state: dict[str, Any]  # state.json; has `step`
    companions: Path  # folder whose config and tokenizer go along
    instead: dict[str, str] = field(default_factory=dict)  # name → text of files that take the place of the companions'
    probe: dict[str, torch.Tensor] = field(default_factory=dict)  # `tokens` (T,) int64 and `logits` (T, vocabulary) fp32, on rank 0
    trainer_state: bool = True


def predicted_bytes(total_parameters: int, weight_bytes: int, trainer_state: bool) -> int:
    """Size of a checkpoint: the weights, and 12 bytes a parameter of master and moments."""
    return total_parameters * (weight_bytes + (12 if trainer_state else 0))


def save(slices: Slices, root: Path, extras: Extras, world: World) -> Path:
    """Publish one checkpoint; every rank calls it.

    Args:
        root: the run's checkpoints folder.
    Raises:
        CheckpointError: on every rank, with the rank, file and cause, when any rank failed; nothing new is visible then.
    """
    name = folder_name(extras.state["step"])
    # one name for all ranks
    tmp = root / (name if is_remote(root) else str(world.broadcast(f"{name}.tmp-{secrets.token_hex(4)}")))
    hashes: dict[str, tuple[int, str]] = {}
    together(lambda: prepare(slices, root, tmp, extras.trainer_state), tmp, world, on_rank_0=True)
    together(lambda: hashes.update(weight_files.save(slices, tmp, world)), tmp, world)
    if extras.trainer_state:
        together(lambda: hashes.update(trainer_state.save(slices, tmp, world)), tmp, world)
    together(lambda: hashes.update(small_files(slices, tmp, extras, world.size)), tmp, world, on_rank_0=True)
    everything = {k: v for part in world.gather(hashes) for k, v in part.items()}
    together(lambda: _publish(root, tmp, extras.state["step"], everything), tmp, world, on_rank_0=True)
    return root / name


def prepare(slices: Slices, root: Path, tmp: Path, with_trainer: bool) -> None:
    """Room on the disk, leftovers away, an empty folder to write into."""
    if not is_remote(root):  # a store's folders come with their files
        root.mkdir(parents=True, exist_ok=True)
    clear_leftovers(root)
    require_space(root, predicted_bytes(sum(slices.numels.values()), slices.dtype.itemsize, with_trainer))
    if is_remote(root):
        if tmp.is_dir():  # an older save of this step, damaged or from before a fallback: replaced as a whole
            remove(tmp, first=MANIFEST)
    else:
        (tmp / TRAINER).mkdir(parents=True)


def clear_leftovers(root: Path) -> None:
    """Delete what saves that died have left: on a disk `*.tmp-*`, on a store step folders without a manifest."""
    if not root.is_dir():
        return
    if is_remote(root):
        published = {p.name for p in steps_in(root).values()}
        for left in (p for p in root.iterdir() if STEP.match(p.name) and p.name not in published or ".tmp-" in p.name):
            remove(left, first=MANIFEST)
    else:
        for left in root.glob("*.tmp-*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def small_files(slices: Slices, tmp: Path, extras: Extras, size: int) -> dict[str, tuple[int, str]]:
    """Everything but weights and slices; returns {file: (bytes, sha256)}."""
    texts = companion_files(extras.companions, extras.instead, known(slices.dtype))
    texts[STATE] = as_text(extras.state).encode()
    if extras.trainer_state:
        texts[TRAINER_INDEX] = trainer_state.index_text(slices, size).encode()
    if slices.stored is None:
        nbytes = sum(slices.numels.values()) * slices.dtype.itemsize
        texts[INDEX] = index_text({f.name: f.tensors for f in slices.files(size)}, nbytes).encode()
    folders = {(tmp / name).parent for name in texts} - {tmp}
    for inner in folders:
        inner.mkdir(exist_ok=True)
    hashes = {name: write_small(tmp / name, content) for name, content in texts.items()}
    for inner in () if is_remote(tmp) else folders:
        sync(inner)
    if extras.probe:
        writer = Writer(tmp / PROBE, {n: (known(t.dtype), tuple(t.shape)) for n, t in extras.probe.items()})
        for n, t in extras.probe.items():
            writer.stream(n, [t.reshape(-1)])
        hashes[PROBE] = writer.close()
    return hashes


def _publish(root: Path, tmp: Path, step: int, files: dict[str, tuple[int, str]]) -> None:
    for file, (nbytes, _) in files.items():
        if (tmp / file).stat().st_size != nbytes:
            raise OSError(errno.EIO, f"{file} is not the size that was written; is {root} the same folder on every node?")
    name = folder_name(step)
    manifest.write(tmp, step, files)
    if is_remote(root):
        write_durably(root / LATEST, name + "\n")
        return
    for folder in (tmp / TRAINER, tmp):
        sync(folder)
    final, replaced = root / name, root / f"{name}{REPLACED}"
    if final.exists():  # an older save of this step, damaged or from before a fallback: replaced as a whole
        os.rename(final, replaced)
    try:
        os.rename(tmp, final)
        sync(root)
        write_durably(root / LATEST, name + "\n")
    finally:
        if not final.exists():
            if replaced.exists():
                os.rename(replaced, final)
        else:
            shutil.rmtree(replaced, ignore_errors=True)


def together(action: Callable[[], None], tmp: Path, world: World, on_rank_0: bool = False) -> None:
    """Run an action that may fail on some rank, then agree: all go on, or all raise the same error.

    Args:
        on_rank_0: the action is that rank's alone; the others only agree.
    Raises:
        CheckpointError: on every rank, naming the ranks that failed and why; the folder aside is gone.
    """
    fault = ""
    try:
        if world.rank == 0 or not on_rank_0:
            with as_os_errors(tmp):
                action()
    except OSError as error:
        fault = f"rank {world.rank}: {error.strerror or error}{f' ({error.filename})' if error.filename else ''}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            fault += f"; free space or quota on the disk of {tmp.parent}, or lower checkpoint.keep_last"
        elif error.errno == errno.EROFS:
            fault += f"; the disk of {tmp.parent} has turned read-only: mount it for writing, or move the run"
    of_rank = {r: f for r, f in enumerate(world.gather(fault)) if f}
    if of_rank:
        faults = list(of_rank.values())
        if world.rank == 0:
            _discard(tmp)
        raise CheckpointError(
            f"{tmp.parent}: the checkpoint was not written: {'; '.join(faults[:4])}. Earlier checkpoints are as they were",
            tuple(of_rank),
        )


def _discard(tmp: Path) -> None:
    if not is_remote(tmp):
        shutil.rmtree(tmp, ignore_errors=True)
        return
    try:
        with as_os_errors(tmp):
            remove(tmp, first=MANIFEST)
    except OSError:
        pass  # the store is out of reach: without a manifest the folder counts for nothing, and the next save clears it


def require_space(root: Path, wanted: int) -> None:
    free = free_bytes(root)
    if free is not None and free < wanted * 1.01:
        raise OSError(errno.ENOSPC, f"a checkpoint takes {wanted / 1e9:.2f} GB, {root} has {free / 1e9:.2f} GB free")
