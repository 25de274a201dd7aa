"""What can be exported: a checkpoint of ours, any Hugging Face folder, a folder DeepSpeed's engine saved. Opened without reading the weights."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from train.checkpoint.layout import MANIFEST, MASTER, STATE, TRAINER, TRAINER_INDEX, rank_file
from train.checkpoint.manifest import faults_of
from train.export.merge import aligned
from train.foreign.torch_save import folder as torch_folder
from train.foreign.torch_save.file import StoredTensor
from train.model_files.dtypes import FP32, DType
from train.model_files.folder import HARMLESS, read_folder
from train.model_files.header import Entry, SafetensorsError, read_header
from train.model_files.shapes import Described
from train.model_files.stream import Extent, RangeReader, Tensor
from train.world.places import is_remote, resolved

Stored = TypeVar("Stored", Entry, StoredTensor)


class ExportError(ValueError):
    """The checkpoint cannot be exported; nothing was made visible."""


@dataclass(frozen=True)
class Opened:
    """An opened model.

    Args:
        stored: the dtype each tensor has on disk. digests: sha256 of files, where a manifest tells it.
        identity: what must be the same for an interrupted export to go on. reader: to be verified and closed at the end.
    """

    folder: Path
    kind: str
    tensors: dict[str, Tensor]
    reader: RangeReader
    identity: dict[str, object]
    stored: dict[str, DType] = field(default_factory=dict)
    digests: dict[Path, str] = field(default_factory=dict)

    def tensors_by_file(self) -> dict[Path, list[str]] | None:
        """File → its tensors in order, when every tensor lies whole in one file."""
        files: dict[Path, list[tuple[int, str]]] = {}
        for name, tensor in self.tensors.items():
            if not tensor.extents or len(tensor.extents) != 1:
                return None
            files.setdefault(tensor.extents[0].file, []).append((tensor.extents[0].start, name))
        return {file: [name for _, name in sorted(rows)] for file, rows in files.items()}


def open_model(folder: Path, wanted: DType, tag: str | None = None) -> Opened:
    """The tensors of a model; with wanted=fp32 they come from the fp32 masters where there are some.

    Raises:
        ExportError, WeightsError, SafetensorsError, and what train.foreign.deepspeed.folder raises: damaged, or not a model folder.
    """
    if not folder.is_dir():
        raise ExportError(f"{folder}: no such folder; a checkpoint is a folder like runs/NAME/checkpoints/step_000500")
    if tag is None and ((folder / STATE).is_file() or (folder / MANIFEST).is_file()):
        return _ours(folder, wanted)
    from train.foreign.deepspeed import folder as ds_folder

    if is_remote(folder) and (tag is not None or (folder / "latest").is_file()):
        raise ExportError(f"{folder}: a folder that DeepSpeed saved is read from a disk only; copy it to one first")
    if not is_remote(folder) and (tag is not None or ds_folder.looks_like(folder)):
        tensors = ds_folder.tensors_of(folder, tag, wanted)
        place = ds_folder.find(folder, tag)
        return Opened(folder, "DeepSpeed folder", tensors, RangeReader(), _stamp(place, place.rglob("*.pt")))
    if not is_remote(folder) and not any(folder.glob("*.safetensors")) and (files := torch_folder.weight_files(folder)):
        return _of_torch_files(folder, files)
    entries = _of_the_model(read_folder(folder))
    reader = RangeReader()
    return Opened(
        folder,
        "Hugging Face folder",
        {n: reader.tensor(e.shape, [extent_of(e)]) for n, e in entries.items()},
        reader,
        _stamp(folder, {e.file for e in entries.values()}),
        {n: e.dtype for n, e in entries.items()},
    )


def _of_torch_files(folder: Path, files: list[Path]) -> Opened:
    """A model saved before there was safetensors; nothing of its files is unpickled."""
    tensors = _of_the_model(torch_folder.tensors_in(files))
    reader = RangeReader()
    return Opened(
        folder,
        "folder of torch files",
        {n: reader.tensor(t.shape, [t.extent(0, t.numel)]) for n, t in tensors.items()},
        reader,
        _stamp(folder, files),
    )


def _ours(folder: Path, wanted: DType) -> Opened:
    # a part beyond the last file: sizes and the manifest are checked now, contents while they are read
    if faults := faults_of(resolved(folder), (sys.maxsize, sys.maxsize)):
        raise ExportError(f"{folder}: damaged, not exported:\n" + "\n".join(f"  - {f}" for f in faults[:10]))
    manifest = (folder / MANIFEST).read_bytes()
    recorded = {name: str(v["sha256"]) for name, v in json.loads(manifest)["files"].items()}
    for name in sorted(n for n in recorded if not n.endswith(".safetensors")):
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != recorded[name]:
            raise ExportError(f"{folder}: damaged, not exported:\n  - {name}: its content has changed since it was written")
    entries = _of_the_model(read_folder(folder))
    if wanted is FP32 and TRAINER_INDEX in recorded and any(e.dtype != wanted for e in entries.values()):
        pieces = _masters(folder, entries)
    else:
        pieces = {name: [entry] for name, entry in entries.items()}
    used = {entry.file for rows in pieces.values() for entry in rows}
    if unknown := sorted(str(f.relative_to(folder)) for f in used if str(f.relative_to(folder)) not in recorded):
        raise ExportError(f"{folder}: damaged, not exported:\n  - {unknown[0]}: not in the manifest")
    digests = {f: recorded[str(f.relative_to(folder))] for f in used}
    reader = RangeReader(digests)
    return Opened(
        folder,
        "checkpoint",
        {n: reader.tensor(entries[n].shape, map(extent_of, rows)) for n, rows in pieces.items()},
        reader,
        {"path": str(resolved(folder)), "manifest": hashlib.sha256(manifest).hexdigest()},
        {n: rows[0].dtype for n, rows in pieces.items()},
        digests,
    )


def _masters(folder: Path, entries: dict[str, Entry]) -> dict[str, list[Entry]]:
    """Each tensor's fp32 slices in rank order, as the trainer's files hold them."""
    size = json.loads((folder / TRAINER_INDEX).read_text())["world_size"]
    ranks = [read_header(folder / rank_file(r, size)) for r in range(size)]
    found = {}
    for name, entry in entries.items():
        rows = [rank[f"{MASTER}/{name}"] for rank in ranks if f"{MASTER}/{name}" in rank]
        if len(rows) != size or sum(r.numel for r in rows) != entry.numel or any(r.dtype is not FP32 for r in rows):
            raise SafetensorsError(
                f"{folder}/{TRAINER}: the fp32 masters of {name} are not complete; export --dtype bf16, or take another step"
            )
        found[name] = rows
    return found


def _of_the_model(entries: dict[str, Stored]) -> dict[str, Stored]:
    kept = {n: e for n, e in entries.items() if not HARMLESS.search(n)}
    for name, entry in kept.items():
        if not entry.dtype.is_floating_point:
            raise ExportError(f"{entry.file}: {name} is {entry.dtype}; quantized weights cannot be exported, take the original ones")
    return kept


def extent_of(entry: Entry) -> Extent:
    return Extent(entry.file, entry.start, entry.numel, entry.dtype)


def _stamp(folder: Path, files: Iterable[Path]) -> dict[str, object]:
    """Sizes and times of files that nothing vouches for."""
    rows = {str(f.relative_to(folder)): [f.stat().st_size, int(f.stat().st_mtime * 1e9)] for f in sorted(files)}
    return {"path": str(resolved(folder)), "files": rows}


def fit(opened: Opened, model: Described) -> dict[str, Tensor]:
    """The tensors by the names the config gives them, in the order in which they lie; a shared one once.

    Raises:
        ExportError: all missing, unexpected and misshapen tensors in one message; or two different ones where the config wants one.
    """
    faults, found = [], {}
    for name, tensor in opened.tensors.items():
        target = model.tied.get(name, name)
        if target not in model.shapes:
            faults.append(f"{name}: unexpected, the config describes no such tensor")
        elif tuple(tensor.shape) != model.shapes[target]:
            faults.append(f"{name}: shape {list(tensor.shape)}, the config wants {list(model.shapes[target])}")
        elif target != name and target in opened.tensors:
            if not _equal(tensor, opened.tensors[target]):
                raise ExportError(
                    f"{opened.folder}: config.json ties {name} to {target}, but the files hold two different tensors; "
                    "set tie_word_embeddings to false in the config given with --config"
                )
        else:
            found[target] = tensor
    faults += [f"{name}: missing" for name in model.shapes if name not in opened.tensors and name not in found]
    if faults:
        shown = "\n".join(f"  - {f}" for f in faults[:20]) + (f"\n  - and {len(faults) - 20} more" if len(faults) > 20 else "")
        raise ExportError(f"{opened.folder}: {len(faults)} tensors do not fit config.json; nothing was made\n{shown}")
    return found


def _equal(one: Tensor, other: Tensor) -> bool:
    if one is other or (one.extents is not None and one.extents == other.extents):
        return True
    return all(np.array_equal(a, b) for a, b in zip(aligned(one), aligned(other), strict=True))
