"""What is here and would end a run before its first step, or at a save: each a fault with its remedy, for a dry run to tell."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from data_tools.shards.fingerprint import tokenizer_fingerprints
from data_tools.shards.format import ShardError
from train.model_files.adapter import CONFIG, is_adapter, nested
from train.model_files.folder import WeightsError, read_folder
from train.model_files.header import SafetensorsError
from train.model_files.shapes import read_config
from train.preflight import installed
from train.preflight.memory_items import Plan
from train.recipe.vocabulary import Recipe
from train.world.places import PlaceError, is_remote, place


def unready(recipe: Recipe, memory: Plan | None, elsewhere: bool) -> Iterator[str]:
    """Faults, in words.

    Args:
        memory: the run's plan, None where the model's sizes are not known.
        elsewhere: the run will start on another machine: this one's packages and disks say nothing of it.
    """
    yield from _model(Path(recipe.model.path).expanduser())
    if recipe.adapter and recipe.adapter.path and not is_adapter(recipe.adapter.path):
        yield f"adapter.path={recipe.adapter.path}: no {CONFIG} in it{nested(recipe.adapter.path)}; give the folder of an adapter, of ours or of peft"
    yield from _store(recipe)
    if not elsewhere:
        yield from installed.absent(recipe)
        yield from _runs(recipe, memory)


def _model(folder: Path) -> Iterator[str]:
    try:
        if folder.is_file() and folder.suffix != ".gguf":
            yield f"model.path={folder}: a file; give the folder it lies in, a .gguf file, or a Hub name"
        elif folder.is_dir():
            if is_adapter(folder):
                yield f"model.path={folder}: an adapter, not a model; give its base as model.path and this folder as adapter.path"
                return
            if not (folder / "config.json").is_file():
                yield f"model.path={folder}: no config.json in it; give a folder with config.json, tokenizer files and *.safetensors"
                return
            read_folder(folder)
            tokenizer_fingerprints(folder)
    except (WeightsError, SafetensorsError, ShardError) as error:
        yield f"model.path={error}"
    except OSError as error:
        yield f"model.path={error.filename or folder}: cannot be read ({error.strerror}); give yourself the right to it, or copy it again"


def beyond_positions(folder: Path, seq_len: int) -> str:
    """A warning, where rows are longer than the texts the model has seen; "" where not, or where its config does not say."""
    if not (folder / "config.json").is_file():
        return ""
    most = read_config(folder / "config.json").get("max_position_embeddings")
    if not isinstance(most, int) or seq_len <= most:
        return ""
    return (
        f"data.seq_len={seq_len}: longer than the {most} positions of the model's config (max_position_embeddings), beyond which it has "
        f"seen no text; lower it, or set that and rope_scaling in config.json to what the model is to have"
    )


def _store(recipe: Recipe) -> Iterator[str]:
    try:
        place(recipe.checkpoints)
    except PlaceError as error:
        yield f"checkpoint.to={error}"


def _runs(recipe: Recipe, memory: Plan | None) -> Iterator[str]:
    there = nearest(recipe.run_dir)
    try:
        tempfile.TemporaryFile(dir=there).close()  # permissions alone do not tell
    except OSError as error:
        yield f"runs={recipe.runs}: {there} cannot be written ({error.strerror}); give another folder by runs="
        return
    if memory is None or is_remote(_where(recipe)):
        return
    one, count, free = memory.checkpoint_bytes, memory.checkpoints, shutil.disk_usage(there).free
    if count * one <= free:
        return
    lacks = f"{count} checkpoints at once take {count * one / 1e9:,.2f} GB" if count > 1 else f"a checkpoint takes {one / 1e9:,.2f} GB"
    fewer = ", lower checkpoint.keep_last, keep_best or keep_every" if one <= free and count > 1 else ""
    yield (
        f"runs={recipe.runs}: {lacks}, the disk of {there} has {free / 1e9:,.2f} GB free; free {(count * one - free) / 1e9:,.2f} GB{fewer}, "
        "or put runs= on a larger disk (or checkpoint.to= on an object store); for a run that will start on another machine say --elsewhere"
    )


def _where(recipe: Recipe) -> Path:
    """Where checkpoints go, if that can be opened."""
    try:
        return place(recipe.checkpoints)
    except PlaceError:
        return recipe.run_dir


def nearest(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    there = Path(os.path.abspath(folder))
    while not there.exists():
        there = there.parent
    return there
