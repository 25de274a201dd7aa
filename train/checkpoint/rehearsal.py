"""The whole save, rehearsed before step 1: with the real config, names, shapes and folder, on every rank, without weights.

A run that has trained for days must not die in its first save, or leave a folder that transformers refuses. Each rank
makes its own files at their full size but empty (sparse: no memory, no disk), rank 0 the small ones and the manifest;
then the folder is opened as its users will open it, and deleted.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from train.checkpoint import folder as checkpoint
from train.checkpoint import layout, manifest, trainer_state
from train.checkpoint.folder import Extras
from train.checkpoint.trainer_state import Slices
from train.model_files import adapter as adapter_files
from train.model_files.adapter import Spec
from train.model_files.companions import companion_files, generation_faults, write_companions
from train.model_files.dtypes import FP32, known
from train.model_files.folder import read_folder
from train.model_files.header import read_header
from train.model_files.shapes import described, read_config
from train.model_files.writer import Writer
from train.world.places import as_os_errors, is_remote, remove
from train.world.ranks import World


class RehearsalError(ValueError):
    """A checkpoint of this run could not be saved or opened; nothing was trained. Names every fault."""


def run(root: Path, extras: Extras, dtype: torch.dtype, world: World, adapter: Spec | None = None) -> None:
    """Save nothing, the way everything will be saved.

    Args:
        extras: of the first checkpoint; its state needs no truth. adapter: where the one that is trained stands; None: the model is trained.
    Raises:
        RehearsalError: on every rank, with all faults of the model folder's small files.
        CheckpointError: on every rank, when the folder cannot be written or the disk is too small.
    """
    faults = world.broadcast(sorted(_faults_of_companions(extras)) if world.rank == 0 else None)
    if faults:
        raise RehearsalError(
            f"{extras.companions}: a checkpoint with these files could not be used, so nothing was started\n"
            + "\n".join(f"  - {f}" for f in faults)
        )

    def unused(*_: str) -> torch.Tensor:
        raise AssertionError("a rehearsal has no values")

    model = described(extras.companions / "config.json")
    shapes, stored = (adapter.shapes(model), adapter.in_file(model)) if adapter else (model.shapes, None)
    slices = Slices(shapes, dtype, 1, unused, unused, stored)
    made = [] if is_remote(root) else [p for p in (root, *root.parents) if not p.exists()]
    tmp = root / str(world.broadcast(f"rehearsal.tmp-{secrets.token_hex(4)}"))
    hashes: dict[str, tuple[int, str]] = {}
    checkpoint.together(lambda: checkpoint.prepare(slices, root, tmp, extras.trainer_state), tmp, world, on_rank_0=True)
    checkpoint.together(lambda: _empty_files(slices, tmp, extras.trainer_state, world), tmp, world)
    checkpoint.together(lambda: hashes.update(checkpoint.small_files(slices, tmp, extras, world.size)), tmp, world, on_rank_0=True)

    def open_and_delete() -> None:
        manifest.write(tmp, 0, hashes)
        if not is_remote(tmp):
            _open_as_users_do(tmp, slices)
            assert not adapter or adapter_files.read(tmp, model).spec == adapter, adapter
        with as_os_errors(tmp):
            remove(tmp, first=layout.MANIFEST)
            for folder in made:  # nothing stays of a run that does not start
                folder.rmdir()

    checkpoint.together(open_and_delete, tmp, world, on_rank_0=True)


def _empty_files(slices: Slices, tmp: Path, with_trainer: bool, world: World) -> None:
    """This rank's weight files and slices: header, then a hole. On an object store, which has no holes, one small object."""
    if is_remote(tmp):
        (tmp / f"rank_{world.rank:05d}").write_bytes(b"rehearsal")
        return
    for f in (f for f in slices.files(world.size) if f.owner == world.rank):
        Writer(tmp / f.name, slices.entries(f)).leave_empty()
    if with_trainer:
        Writer(tmp / layout.rank_file(world.rank, world.size), trainer_state.own_shapes(slices, world)).leave_empty()


def _open_as_users_do(folder: Path, slices: Slices) -> None:
    """Names, shapes and dtype of the folder against the config in it."""
    entries = read_folder(folder)
    found = {slices.parameter(n): e.shape for n, e in entries.items()}
    assert found == slices.shapes, sorted(set(found.items()) ^ set(slices.shapes.items()))[:3]
    assert {e.dtype for e in entries.values()} == {known(slices.dtype)}
    assert all(read_header(p) for p in (folder / layout.TRAINER).glob("rank_*"))
    assert slices.stored is not None or described(folder / "config.json").shapes == slices.shapes


def _faults_of_companions(extras: Extras) -> Iterator[str]:
    """What transformers would refuse, or generate wrongly with, in the small files of a checkpoint."""
    import tempfile

    folder = extras.companions
    if not (folder / "config.json").is_file():
        yield "config.json: missing"
        return
    with tempfile.TemporaryDirectory() as made:
        copy = Path(made)
        try:
            write_companions(companion_files(folder, extras.instead, FP32), copy)
            config = json.loads((copy / "config.json").read_text())
        except ValueError as error:
            yield str(error).removeprefix(f"{folder}/")
            return
        vocabulary = config.get("vocab_size")
        if "quantization_config" in config:
            yield "config.json: has a quantization_config, and the checkpoint's weights will not be quantized; take it out"
        if "auto_map" in config:
            yield "config.json: auto_map wants foreign code to be run; take it out, and use a model that transformers knows"
        yield from _ids_in_range(config, vocabulary, "config.json")
        yield from _generation_faults(copy, vocabulary)
        yield from _tokenizer_faults(copy, vocabulary)


def _ids_in_range(values: dict[str, Any], vocabulary: int, file: str) -> Iterator[str]:
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = values.get(key)
        for one in value if isinstance(value, list) else [value]:
            if one is not None and not (isinstance(one, int) and -1 <= one < vocabulary):
                yield f"{file}: {key}={one} is not one of the model's {vocabulary} ids"


def _generation_faults(folder: Path, vocabulary: int) -> Iterator[str]:
    file = folder / "generation_config.json"
    if not file.is_file():
        return
    try:
        values = read_config(file)
    except ValueError as error:
        yield f"{file.name}: {str(error).removeprefix(f'{file}: ')}"
        return
    yield from generation_faults(file)
    yield from _ids_in_range(values, vocabulary, file.name)


def _tokenizer_faults(folder: Path, vocabulary: int) -> Iterator[str]:
    import jinja2
    from transformers import AutoTokenizer

    try:
        settings = folder / "tokenizer_config.json"
        if settings.is_file() and "auto_map" in json.loads(settings.read_text()):
            yield "tokenizer_config.json: auto_map wants foreign code to be run; take it out, and use a tokenizer that transformers knows"
            return
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        tokenizer.save_pretrained(folder / "again")
    except Exception as error:  # a broken tokenizer ends in whatever its library raises; all of it is told
        said = " ".join(str(error).split())
        yield f"tokenizer: transformers does not open it ({type(error).__name__}: {said[:300]}); fetch the model's tokenizer files again"
        return
    if len(tokenizer) > vocabulary:
        yield (
            f"tokenizer: {len(tokenizer)} ids, the model has rows for {vocabulary}; use the tokenizer the model was made with, "
            "without added tokens"
        )
    if tokenizer.chat_template:
        try:
            tokenizer.apply_chat_template([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], tokenize=False)
        except (jinja2.TemplateError, ValueError, TypeError) as error:
            yield f"chat template: does not render a question and its answer ({type(error).__name__}: {error}); mend or remove it"
