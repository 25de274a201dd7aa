"""What an export will read and write, settled before the first byte is read: sources opened and checked, files planned."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from train.checkpoint.find import steps_in
from train.export import companions as export_companions
from train.export import lora, merge
from train.export.card import Release
from train.export.source import ExportError, Opened, fit, open_model
from train.model_files import adapter as adapter_files
from train.model_files.adapter import is_adapter
from train.model_files.dtypes import FP32, DType
from train.model_files.fetch import base_of_adapter
from train.model_files.folder import plan_files
from train.model_files.header import read_header
from train.model_files.shapes import Described, described
from train.model_files.stream import Tensor
from train.world.places import is_remote, resolved

MAX_FILE_BYTES = 5 << 30
VERSION = 1  # of what an export does to its source: a change makes interrupted exports start over


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for.

    Args:
        config: folder whose config and tokenizer go along, instead of the checkpoint's. tag: which of a DeepSpeed folder's saves.
        merge: other models and their weights; the checkpoint gets what is left of 1. average: steps of the checkpoint's run, instead of it alone.
        merge_adapter: the checkpoint is an adapter, and its model is wanted. base: where an adapter's base lies, if not where it says.
        license: its identifier on the card; None: that of the model it was trained from, where a card or its name tells.
        results: folders with evaluations of the checkpoint, for the card. release: it is made to be published.
    """

    checkpoint: Path
    out: Path
    dtype: DType
    config: Path | None = None
    tag: str | None = None
    merge: tuple[tuple[Path, float], ...] = ()
    average: tuple[int, ...] = ()
    license: str | None = None
    results: tuple[Path, ...] = ()
    release: Release | None = None
    merge_adapter: bool = False
    base: Path | None = None


@dataclass(frozen=True)
class FileToWrite:
    """One file to write; `copy_of`: the file it is a copy of, byte for byte."""

    name: str
    tensors: tuple[str, ...]
    bytes: int
    copy_of: Path | None = None


@dataclass(frozen=True)
class Prepared:
    """All that is known before the first byte is read."""

    own: tuple[Path, ...]  # the checkpoint, or the steps that are averaged
    companions: Path
    model: Described
    opened: tuple[Opened, ...]
    tensors: dict[str, Tensor]
    files: list[FileToWrite]
    made_of: list[str]
    remarks: list[str]
    check: Callable[[], None] = lambda: None  # whether what was read is what it was taken for; raises ExportError
    texts: dict[str, str] = field(default_factory=dict)  # further small files
    adapter: bool = False  # no model: an adapter's folder
    scratch: tempfile.TemporaryDirectory | None = None

    def close(self) -> None:
        if self.scratch:
            self.scratch.cleanup()
        for one in self.opened:
            one.reader.close()


def prepare(request: Request) -> Prepared:
    """Open and check everything.

    Raises:
        ExportError, WeightsError, SafetensorsError, ConfigError: and nothing was written.
    """
    if is_adapter(request.checkpoint):
        return _of_adapter(request)
    if request.merge_adapter or request.base:
        flag = "--merge-adapter" if request.merge_adapter else "--base"
        instead = "leave it out" if not (below := adapter_files.nested(request.checkpoint)) else "give that folder"
        raise ExportError(f"{flag}: {request.checkpoint} is no adapter (it has no {adapter_files.CONFIG}{below}); {instead}")
    several = bool(request.merge or request.average)
    # sums are made of fp32 masters where there are some, and rounded once
    wanted = FP32 if several else request.dtype
    folders = _steps(request) if request.average else [request.checkpoint]
    if sum(weight for _, weight in request.merge) > 1 + 1e-9 or any(not 0 < weight <= 1 for _, weight in request.merge):
        raise ExportError(f"--merge: weights are {[w for _, w in request.merge]}; each lies above 0, and together they are at most 1")
    if adapter := next((folder for folder in (*folders, *(one for one, _ in request.merge)) if is_adapter(folder)), None):
        raise ExportError(
            f"{adapter}: an adapter, whose tensors are no model's; merge each into its base first (--merge-adapter), then sum those"
        )
    opened = [open_model(folder, wanted, request.tag) for folder in folders]
    opened += [open_model(folder, wanted) for folder, _ in request.merge]
    companions = request.config or folders[-1]
    if request.config is None and not (companions / "config.json").is_file() and (companions.parent / "config.json").is_file():
        companions = companions.parent  # a DeepSpeed tag's folder lies in the one that HF's Trainer puts the config into
    if not (companions / "config.json").is_file():
        raise ExportError(f"{companions}: has no config.json; give the model's with --config DIR")
    model = described(companions / "config.json")
    remarks = export_companions.check(companions, model)
    fitted = [fit(one, model) for one in opened]
    made_of: list[str] = []
    tensors, own = fitted[0], len(folders)
    if own > 1:
        tensors = merge.mean(fitted[:own])
        made_of = [f"1/{own} of {folder.name}" for folder in folders]
    if request.merge:
        shares = [max(0.0, 1.0 - sum(weight for _, weight in request.merge)), *(weight for _, weight in request.merge)]
        tensors = merge.linear(list(zip(shares, [tensors, *fitted[own:]], strict=True)))
        made_of = [f"{shares[0]:g} × {line}" for line in made_of] or [f"{shares[0]:g} of {folders[0].name}"]
        made_of += [f"{share:g} of {folder.name}" for share, (folder, _) in zip(shares[1:], request.merge, strict=True)]
    files = (None if several else _copies(opened[0], tensors, request.dtype)) or _planned(tensors, request.dtype)
    return Prepared(tuple(folders), companions, model, tuple(opened), tensors, files, made_of, remarks)


def _of_adapter(request: Request) -> Prepared:
    """An adapter's folder as it is, or merged into its base."""
    scratch = tempfile.TemporaryDirectory(prefix="adapter-")
    try:
        return _in_scratch(request, scratch)
    except BaseException:
        scratch.cleanup()
        raise


def _in_scratch(request: Request, scratch: tempfile.TemporaryDirectory) -> Prepared:
    folder = request.checkpoint
    if request.merge or request.average or request.tag:
        raise ExportError(f"{folder}: an adapter; merge it into its base first (--merge-adapter), then sum that model with others")
    lora.require_whole(folder)
    if is_remote(folder):
        folder = lora.copied(folder, Path(scratch.name) / "adapter")
    config_of = request.config or (folder if (folder / "config.json").is_file() else request.base or base_of_adapter(folder))
    if not request.merge_adapter:
        model = described(config_of / "config.json")
        adapter, reader, tensors = lora.read(folder, model)
        opened = Opened(folder, "low-rank adapter", {}, reader, lora.identity(adapter))
        numels = sum(t.numel for t in tensors.values())
        files = [FileToWrite(adapter_files.WEIGHTS, tuple(tensors), numels * request.dtype.itemsize)]
        texts = {n: (folder / n).read_text() for n in (adapter_files.CONFIG, adapter_files.BASE) if (folder / n).is_file()}
        shapes = Described({name: tuple(t.shape) for name, t in tensors.items()})
        return Prepared(
            (request.checkpoint,), config_of, shapes, (opened,), tensors, files, [], [], texts=texts, adapter=True, scratch=scratch
        )
    base = request.base or base_of_adapter(folder)
    if not (base / "config.json").is_file():
        raise ExportError(f"{base}: has no config.json, so it is no base; give the folder of the model with --base DIR")
    model = described(base / "config.json")
    made = lora.merged(folder, base, model)
    own = Path(scratch.name) / "companions"
    own.mkdir()
    lora.companions_of(folder, base, own)
    companions = request.config or own
    remarks = export_companions.check(companions, model)
    if adapter_files.base_of(folder) is None:
        remarks.append(
            f"{request.checkpoint}: does not say which weights it was trained on; names and shapes of {base} were compared, nothing more"
        )
    remarks.append(f"{base} and its adapter {folder.name}: {made.adapter.spec.words()}")
    files = _planned(made.tensors, request.dtype)
    return Prepared((request.checkpoint,), companions, model, (made.opened,), made.tensors, files, [], remarks, made.check, scratch=scratch)


def _steps(request: Request) -> list[Path]:
    """The folders of --average STEP…, whose CHECKPOINT is a run's checkpoints folder or one step in it."""
    there = steps_in(request.checkpoint) or steps_in(resolved(request.checkpoint).parent)
    steps = sorted(set(request.average))
    if missing := [s for s in steps if s not in there]:
        known = ", ".join(map(str, sorted(there))) or "none"
        raise ExportError(f"{request.checkpoint}: its run has no step {', '.join(map(str, missing))}; there are {known}")
    if len(steps) < 2:
        raise ExportError(
            f"--average {' '.join(map(str, request.average))}: the mean of one step is that step; name two or more of {sorted(there)}"
        )
    return [there[step] for step in steps]


def _copies(opened: Opened, tensors: dict[str, Tensor], dtype: DType) -> list[FileToWrite] | None:
    """One copy of each file, when files and wanted dtype are alike; else None."""
    layout = opened.tensors_by_file()
    if layout is None or set(opened.stored.values()) != {dtype} or set(tensors) != set(opened.tensors):
        return None
    if any(set(read_header(file)) != set(names) for file, names in layout.items()):
        return None  # holds more than goes out
    count = len(layout)
    return [
        FileToWrite(
            f"model-{i + 1:05d}-of-{count:05d}.safetensors", tuple(names), sum(tensors[n].numel for n in names) * dtype.itemsize, file
        )
        for i, (file, names) in enumerate(layout.items())
    ]


def _planned(tensors: dict[str, Tensor], dtype: DType) -> list[FileToWrite]:
    """Files of at most MAX_FILE_BYTES, in the tensors' order."""
    numels = {name: tensor.numel for name, tensor in tensors.items()}
    files = plan_files(numels, dtype.itemsize, 1, MAX_FILE_BYTES)
    return [FileToWrite(f.name, f.tensors, sum(numels[n] for n in f.tensors) * dtype.itemsize) for f in files]


def identity(request: Request, ready: Prepared) -> dict[str, object]:
    """What must be the same for an interrupted export to go on."""
    return {
        "version": VERSION,
        "dtype": request.dtype.name,
        "sources": [one.identity for one in ready.opened],
        "merge": [weight for _, weight in request.merge],
        "average": sorted(set(request.average)),
        "merge_adapter": request.merge_adapter,
        "config": export_companions.fingerprints(ready.companions),
        "max_shard_bytes": MAX_FILE_BYTES,
    }
