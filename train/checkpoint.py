"""A checkpoint is a Hugging Face model folder that can also be trained on, at any world size, without pickle.

step_000500/  config, tokenizer, model-0000i-of-0000n.safetensors + index   → transformers loads it as it stands
              trainer/rank_00000_of_00002.safetensors, trainer/index.json   → fp32 masters and Adam's moments, flat slices
              state.json, manifest.json (last; every file's size and hash)

Written into step_000500.tmp-…, synced, agreed by all ranks, vouched for by the manifest, renamed; then `latest`.
A folder without a manifest that verifies is not a checkpoint.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from train import shard_files, weights
from train.engine import Engine
from train.safetensors_io import Entry, read_header, read_range
from train.safetensors_writer import Writer
from train.world import World

FORMAT = 1
MANIFEST, STATE, LATEST = "manifest.json", "state.json", "latest"
MOMENTS = ("exp_avg", "exp_avg_sq")
STEP = re.compile(r"step_(\d{6,})$")
# what a model folder needs besides weights, so that transformers opens a checkpoint and chat templates travel along
COMPANIONS = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "chat_template.json", "vocab.json", "merges.txt",
)  # fmt: skip


class CheckpointError(RuntimeError):
    """A save that failed on some rank; the previous checkpoints are untouched."""


class ResumeError(ValueError):
    """A folder that cannot be resumed from, and why."""


def folder_name(step: int) -> str:
    return f"step_{step:06d}"


def predicted_bytes(total_parameters: int, weight_bytes: int, trainer_state: bool) -> int:
    """Size of a checkpoint: the weights, and 12 bytes a parameter of master and moments."""
    return total_parameters * (weight_bytes + (12 if trainer_state else 0))


# -- save -----------------------------------------------------------------------------------------------------------


def save(
    engine: Engine,
    root: Path,
    state: dict[str, Any],
    companions: Path,
    trainer_state: bool,
    world: World,
    instead: dict[str, str] | None = None,
) -> Path:
    """Publish one checkpoint; every rank calls it.

    Args:
        root: the run's checkpoints folder. state: what state.json holds; has `step`. companions: folder whose config and tokenizer go along.
        instead: name → text of files that take the place of the companions'.
    Raises:
        CheckpointError: on every rank, with the rank, file and cause, when any rank failed; nothing new is visible then.
    """
    name = folder_name(state["step"])
    tmp = root / str(world.broadcast(f"{name}.tmp-{secrets.token_hex(4)}"))  # one name for all ranks
    hashes: dict[str, tuple[int, str]] = {}

    def prepare() -> None:
        if world.rank == 0:
            root.mkdir(parents=True, exist_ok=True)
            _require_space(root, predicted_bytes(engine.total_parameters, _dtype(engine).itemsize, trainer_state))
            for left in root.glob("*.tmp-*"):
                shutil.rmtree(left)
            (tmp / "trainer").mkdir(parents=True)

    _together(prepare, tmp, world)
    # a rank whose disk fails must keep taking part in the gathers, or the others wait for it: errors are kept until all are done
    _together(lambda: hashes.update(_save_weights(engine, tmp, world)), tmp, world)
    if trainer_state:
        _together(lambda: hashes.update(_save_trainer(engine, tmp, world)), tmp, world)

    def small_files() -> None:
        if world.rank == 0:
            for companion in COMPANIONS:
                if (companions / companion).is_file():
                    shutil.copyfile(companions / companion, tmp / companion)
            for file, text in (instead or {}).items():
                (tmp / file).write_text(text, encoding="utf-8")
            fix_config(tmp, _dtype(engine))
            if trainer_state:
                index = {
                    "format": FORMAT,
                    "world_size": world.size,
                    "adam_step": engine.adam_step,
                    "parameters": {n: p.ds_numel for n, p in engine.parameters.items()},
                }
                (tmp / "trainer" / "index.json").write_text(json.dumps(index) + "\n")
            else:
                (tmp / "trainer").rmdir()
            (tmp / STATE).write_text(json.dumps({"format": FORMAT, **state}, indent=1) + "\n")
            for path in sorted(p for p in tmp.rglob("*") if p.is_file() and p.suffix != ".safetensors"):
                sync(path)
                hashes[str(path.relative_to(tmp))] = (path.stat().st_size, _sha256(path))

    _together(small_files, tmp, world)
    everything = {k: v for part in world.gather(hashes) for k, v in part.items()}

    def publish() -> None:
        if world.rank == 0:
            for file, (nbytes, _) in everything.items():
                if (tmp / file).stat().st_size != nbytes:
                    raise OSError(errno.EIO, f"{file} is not the size that was written; is {root} the same folder on every node?")
            manifest = {
                "format": FORMAT,
                "step": state["step"],
                "files": {f: {"bytes": b, "sha256": h} for f, (b, h) in sorted(everything.items())},
            }
            write_durably(tmp / MANIFEST, json.dumps(manifest, indent=1) + "\n")
            sync(tmp / "trainer") if trainer_state else None
            sync(tmp)
            final = root / name
            if final.exists():  # an older save of this step, damaged or from before a fallback: replaced as a whole
                os.rename(final, root / f"{name}.tmp-replaced-{secrets.token_hex(4)}")
            os.rename(tmp, final)
            sync(root)
            write_durably(root / LATEST, name + "\n")
            for left in root.glob(f"{name}.tmp-replaced-*"):
                shutil.rmtree(left)

    _together(publish, tmp, world)
    return root / name


def _together(action: Callable[[], None], tmp: Path, world: World) -> None:
    """Run an action that may fail on some rank, then agree: all go on, or all raise the same error."""
    fault = ""
    try:
        action()
    except OSError as error:
        fault = f"rank {world.rank}: {error.strerror or error}{f' ({error.filename})' if error.filename else ''}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            fault += f"; free space or quota on the disk of {tmp.parent}, or lower checkpoint.keep_last"
    faults = [f for f in world.gather(fault) if f]
    if faults:
        if world.rank == 0:
            shutil.rmtree(tmp, ignore_errors=True)
        raise CheckpointError(
            f"{tmp.parent}: the checkpoint was not written: {'; '.join(faults[:4])}. Earlier checkpoints are as they were"
        )


def _require_space(root: Path, wanted: int) -> None:
    free = shutil.disk_usage(root).free
    if free < wanted * 1.01:
        raise OSError(errno.ENOSPC, f"a checkpoint takes {wanted / 1e9:.2f} GB, {root} has {free / 1e9:.2f} GB free")


def _dtype(engine: Engine) -> torch.dtype:
    return next(iter(engine.parameters.values())).ds_tensor.dtype


def _save_weights(engine: Engine, tmp: Path, world: World) -> dict[str, tuple[int, str]]:
    return shard_files.save(engine.parameters, tmp, world)


def _save_trainer(engine: Engine, tmp: Path, world: World) -> dict[str, tuple[int, str]]:
    """This rank's masters and moments, without padding, a slice at a time."""
    shapes = {}
    for name, p in engine.parameters.items():
        first, stop = weights.slice_range(p.ds_numel, world.rank, world.size)
        for key in ("master", *MOMENTS):
            shapes[f"{key}/{name}"] = (torch.float32, (stop - first,))
    file = f"trainer/rank_{world.rank:05d}_of_{world.size:05d}.safetensors"
    writer = Writer(tmp / file, shapes)
    for name, p in engine.parameters.items():
        first, stop = weights.slice_range(p.ds_numel, world.rank, world.size)
        for key in ("master", *MOMENTS):
            value = engine.get_master(p) if key == "master" else engine.get_moment(p, key)
            writer.stream(f"{key}/{name}", [value.reshape(-1)[: stop - first].float()])
    return {file: writer.close()}


def fix_config(folder: Path, dtype: torch.dtype) -> None:
    """The config says the dtype the weights have here."""
    config = json.loads((folder / "config.json").read_text())
    config.pop("torch_dtype", None)
    config["dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def write_durably(path: Path, text: str) -> None:
    """Replace a small file atomically, synced."""
    tmp = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    tmp.write_text(text)
    sync(tmp)
    os.replace(tmp, path)
    sync(path.parent)


def sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


# -- find and verify ------------------------------------------------------------------------------------------------


def faults_of(folder: Path, part: tuple[int, int] = (0, 1)) -> list[str]:
    """What is wrong with a checkpoint folder: sizes of all files, hashes of files k, k+n, … for part (k, n). Empty: nothing."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        files = {name: (int(v["bytes"]), str(v["sha256"])) for name, v in manifest["files"].items()}
        assert manifest["format"] == FORMAT, f"format {manifest['format']}"
    except FileNotFoundError:
        return [f"{MANIFEST}: missing, the save was never finished"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        return [f"{MANIFEST}: not readable ({error})"]
    found = []
    if f"{folder.name}" != folder_name(int(manifest.get("step", -1))):
        found.append(f"{MANIFEST}: of step {manifest.get('step')}, in folder {folder.name}")
    for name, (nbytes, _) in files.items():
        path = folder / name
        if ".." in Path(name).parts or Path(name).is_absolute() or path.is_symlink():
            found.append(f"{name}: outside the folder or a link")
        elif not path.is_file():
            found.append(f"{name}: missing")
        elif path.stat().st_size != nbytes:
            found.append(f"{name}: {path.stat().st_size} bytes, {nbytes} were written")
    if found:
        return found
    unknown = sorted(str(p.relative_to(folder)) for p in folder.rglob("*.safetensors") if str(p.relative_to(folder)) not in files)
    found += [f"{name}: not in the manifest" for name in unknown]
    mine = sorted(files)[part[0] :: part[1]]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for name, digest in zip(mine, pool.map(lambda n: _sha256(folder / n), mine), strict=True):
            if digest != files[name][1]:
                found.append(f"{name}: its content has changed since it was written (sha256 {digest[:12]}…, not {files[name][1][:12]}…)")
    return found


def verify(folder: Path, world: World) -> list[str]:
    """faults_of, the hashing shared among the ranks; the same answer on all."""
    return sorted({f for faults in world.gather(faults_of(folder, (world.rank, world.size))) for f in faults})


def steps_in(root: Path) -> dict[int, Path]:
    """Published folders by step, whether they verify or not."""
    return {int(m.group(1)): p for p in root.glob("step_*") if p.is_dir() and (m := STEP.match(p.name))} if root.is_dir() else {}


def find(root: Path, wanted: str, world: World) -> Path | None:
    """The checkpoint to resume from: the newest that verifies (`auto`), none (`never`), or the one named.

    Raises:
        ResumeError: the named one does not verify; or none of several does; or `never` in a run that has some.
    """
    if wanted == "never":
        if world.broadcast(bool(steps_in(root))):
            raise ResumeError(
                f"{root}: holds checkpoints, and --resume never would start over them; give the run another name=, or move them away"
            )
        return None
    if wanted != "auto":
        folder = Path(wanted)
        if not folder.is_dir():
            raise ResumeError(f"--resume {wanted}: no such folder; a checkpoint is a folder like runs/NAME/checkpoints/step_000500")
        if faults := verify(folder, world):
            raise ResumeError(f"{folder}: not resumed from, it is damaged:\n" + "\n".join(f"  - {f}" for f in faults[:10]))
        return folder
    candidates = world.broadcast(sorted(steps_in(root).items(), reverse=True))
    for step, folder in candidates:
        faults = verify(folder, world)
        if not faults:
            return folder
        world.log0(f"checkpoint of step {step} skipped: {faults[0]}" + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""))
    if candidates:
        raise ResumeError(f"{root}: none of its {len(candidates)} checkpoints verifies; restore one, or start anew under another name=")
    return None


def read_state(folder: Path) -> dict[str, Any]:
    state = json.loads((folder / STATE).read_text())
    if state.get("format") != FORMAT:
        raise ResumeError(f"{folder}/{STATE}: format {state.get('format')}, this trainer reads {FORMAT}; use the version that wrote it")
    return state


# -- load -----------------------------------------------------------------------------------------------------------


def load_trainer(engine: Engine, folder: Path, world: World) -> None:
    """Masters and moments into this rank's slices, from however many ranks wrote them.

    Raises:
        ResumeError: weights only, or another model.
    """
    if not (folder / "trainer" / "index.json").is_file():
        raise ResumeError(
            f"{folder}: holds weights but no trainer state (checkpoint.trainer_state was false); use it as model.path of a new run"
        )
    index = json.loads((folder / "trainer" / "index.json").read_text())
    mine = {n: p.ds_numel for n, p in engine.parameters.items()}
    if index["parameters"] != mine:
        other = sorted(set(index["parameters"].items()) ^ set(mine.items()))[:3]
        raise ResumeError(f"{folder}/trainer/index.json: of another model (differs in {other})")
    size = index["world_size"]
    ranks = [read_header(folder / "trainer" / f"rank_{r:05d}_of_{size:05d}.safetensors") for r in range(size)]
    if index["adam_step"] > 0:
        engine.create_adam_state(index["adam_step"])
    engine.release()
    for name, p in engine.parameters.items():
        for key in ("master", *MOMENTS) if index["adam_step"] > 0 else ("master",):
            entries = [r[f"{key}/{name}"] for r in ranks]
            value = _slice_from(entries, p.ds_numel, weights.slice_range(p.ds_numel, world.rank, world.size), p.ds_tensor.numel())
            if key == "master":
                engine.set_master(p, value)
            else:
                engine.set_moment(p, key, value.to(engine.get_moment(p, key).device))


def _slice_from(entries: list[Entry], numel: int, wanted: tuple[int, int], padded: int) -> torch.Tensor:
    """(padded,) fp32: the elements [wanted) of a parameter whose slices lie in one entry a writing rank."""
    value = torch.zeros(padded, dtype=torch.float32)
    for rank, entry in enumerate(entries):
        have = weights.slice_range(numel, rank, len(entries))
        first, stop = max(wanted[0], have[0]), min(wanted[1], have[1])
        if first < stop:
            for at, piece in read_range(entry, first - have[0], stop - have[0]):
                start = at + have[0] - wanted[0]
                value[start : start + piece.numel()] = piece
    return value


# -- retention ------------------------------------------------------------------------------------------------------


def to_delete(steps: dict[int, float | None], keep_last: int, keep_every: int, keep_best: int) -> list[int]:
    """Which steps go, given each step's mean held-out loss (None: not evaluated)."""
    kept = set(sorted(steps)[-keep_last:])
    kept |= {s for s in steps if keep_every and s % keep_every == 0}
    judged = sorted((loss, s) for s, loss in steps.items() if loss is not None and loss == loss)
    kept |= {s for _, s in judged[:keep_best]}
    return sorted(set(steps) - kept)


def retain(root: Path, keep_last: int, keep_every: int, keep_best: int, newest: Path, world: World) -> list[int]:
    """Delete what the rules let go, after the newest checkpoint has been read back and verifies."""

    def heldout_loss(folder: Path) -> float | None:
        try:
            return json.loads((folder / STATE).read_text()).get("heldout_loss")
        except (OSError, ValueError):
            return None

    known = {step: heldout_loss(folder) for step, folder in steps_in(root).items()} if world.rank == 0 else {}
    doomed = world.broadcast(to_delete(known, keep_last, keep_every, keep_best))
    if doomed and not (faults := verify(newest, world)):
        if world.rank == 0:
            for step in doomed:
                gone = root / f"{folder_name(step)}.tmp-deleted"
                os.rename(root / folder_name(step), gone)  # half a deleted folder must not look like a checkpoint
                shutil.rmtree(gone)
        world.barrier()
        return doomed
    if doomed:
        raise CheckpointError(
            f"{newest}: does not verify after it was written ({faults[0]}); no older checkpoint was deleted. Check the disk"
        )
    return []
