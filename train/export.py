"""A checkpoint, or several → a Hugging Face folder in bf16 or fp32, in one pass over the bytes, nothing visible until it is whole.

1 open: `export_source` says where each tensor lies; config, tokenizer and generation config are checked, nothing is read yet
2 combine: `merge` makes a weighted sum, or the mean of steps
3 stream: a thread reads ahead, hashes what a manifest vouches for, casts and looks for values that are not finite; this one writes;
  another hashes what is written. Files whose tensors all have the wanted dtype already are copied as they are and hashed once.
4 verify: hashes of what was read, headers of what was written against the config
5 publish: `export_stage` records every file's hash and renames
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from train import export_companions, merge, weights
from train.checkpoint import STEP, folder_name
from train.export_source import ExportError, Source, fit, open_source
from train.export_stage import Stage
from train.model_shapes import Described, described
from train.safetensors_io import read_header
from train.safetensors_writer import Writer
from train.tensor_stream import Ahead, ReadError, Tensor

MAX_SHARD_BYTES = 5 << 30
VERSION = 1  # of what an export does to its source: a change makes interrupted exports start over


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for.

    Args:
        config: folder whose config and tokenizer go along, instead of the checkpoint's. tag: which of a DeepSpeed folder's saves.
        merge: other models and their weights; the checkpoint gets what is left of 1. average: steps of the checkpoint's run, instead of it alone.
    """

    checkpoint: Path
    out: Path
    dtype: torch.dtype
    config: Path | None = None
    tag: str | None = None
    merge: tuple[tuple[Path, float], ...] = ()
    average: tuple[int, ...] = ()


@dataclass(frozen=True)
class Made:
    tensors: int
    bytes: int  # of weights
    kept: int  # files taken over from an interrupted export
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Shard:
    """One file to write; `copy_of`: the file it is a copy of, byte for byte."""

    name: str
    tensors: tuple[str, ...]
    bytes: int
    copy_of: Path | None = None


@dataclass(frozen=True)
class Prepared:
    """All that is known before the first byte is read."""

    companions: Path
    model: Described
    sources: tuple[Source, ...]
    tensors: dict[str, Tensor]
    shards: list[Shard]
    made_of: list[str]
    remarks: list[str]

    def close(self) -> None:
        for source in self.sources:
            source.files.close()


def export(
    request: Request, progress: Callable[[int], None] = lambda n: None, judge: Callable[[Path], object] = lambda folder: None
) -> Made:
    """Make OUT, or go on making it.

    Args:
        progress: called with bytes written. judge: called with the finished folder before it is published; raises to keep it from that.
    Raises:
        ExportError and its like: nothing was made, and the same command would say the same. OSError: finished files are kept for the same command.
    """
    if request.out.exists():
        raise ExportError(f"{request.out}: exists already; give another folder, or remove it first")
    ready = prepare(request)
    try:
        with Stage(request.out, _identity(request, ready)) as stage:
            try:
                return _make(request, ready, stage, progress, judge)
            except ValueError:
                stage.discard()
                raise
            except OSError as error:
                raise _explained(error, stage, ready) from error
    finally:
        ready.close()


def prepare(request: Request) -> Prepared:
    """Open and check everything.

    Raises:
        ExportError, WeightsError, SafetensorsError, ConfigError: and nothing was written.
    """
    several = bool(request.merge or request.average)
    # sums are made of fp32 masters where there are some, and rounded once
    wanted = torch.float32 if several else request.dtype
    folders = _steps(request) if request.average else [request.checkpoint]
    if sum(weight for _, weight in request.merge) > 1 or any(not 0 < weight <= 1 for _, weight in request.merge):
        raise ExportError(f"--merge: weights are {[w for _, w in request.merge]}; each lies above 0, and together they are at most 1")
    sources = [open_source(folder, wanted, request.tag) for folder in folders]
    sources += [open_source(folder, wanted) for folder, _ in request.merge]
    companions = request.config or folders[-1]
    if not (companions / "config.json").is_file():
        raise ExportError(f"{companions}: has no config.json; give the model's with --config DIR")
    model = described(companions / "config.json")
    remarks = export_companions.check(companions, model)
    fitted = [fit(source, model) for source in sources]
    made_of: list[str] = []
    tensors, own = fitted[0], len(folders)
    if own > 1:
        tensors = merge.mean(fitted[:own])
        made_of = [f"1/{own} of {folder.name}" for folder in folders]
    if request.merge:
        shares = [1.0 - sum(weight for _, weight in request.merge), *(weight for _, weight in request.merge)]
        tensors = merge.linear(list(zip(shares, [tensors, *fitted[own:]], strict=True)))
        made_of = [f"{shares[0]:g} × {line}" for line in made_of] or [f"{shares[0]:g} of {folders[0].name}"]
        made_of += [f"{share:g} of {folder.name}" for share, (folder, _) in zip(shares[1:], request.merge, strict=True)]
    shards = (None if several else _copies(sources[0], tensors, request.dtype)) or _planned(tensors, request.dtype)
    return Prepared(companions, model, tuple(sources), tensors, shards, made_of, remarks)


def _steps(request: Request) -> list[Path]:
    """The folders of --average STEP…, whose CHECKPOINT is a run's checkpoints folder or one step in it."""
    root = request.checkpoint.parent if STEP.match(request.checkpoint.resolve().name) else request.checkpoint
    steps = sorted(set(request.average))
    there = sorted(int(m.group(1)) for p in root.glob("step_*") if (m := STEP.match(p.name)) and p.is_dir())
    if missing := [s for s in steps if s not in there]:
        raise ExportError(f"{root}: has no step {', '.join(map(str, missing))}; there are {', '.join(map(str, there)) or 'none'}")
    if len(steps) < 2:
        raise ExportError(
            f"--average {' '.join(map(str, request.average))}: the mean of one step is that step; name two or more of {there}"
        )
    return [root / folder_name(step) for step in steps]


def _copies(source: Source, tensors: dict[str, Tensor], dtype: torch.dtype) -> list[Shard] | None:
    """One copy of each file, when files and wanted dtype are alike; else None."""
    layout = source.layout()
    if layout is None or set(source.stored.values()) != {dtype} or set(tensors) != set(source.tensors):
        return None
    if any(set(read_header(file)) != set(names) for file, names in layout.items()):
        return None  # holds more than goes out
    count = len(layout)
    return [
        Shard(f"model-{i + 1:05d}-of-{count:05d}.safetensors", tuple(names), sum(tensors[n].numel for n in names) * dtype.itemsize, file)
        for i, (file, names) in enumerate(layout.items())
    ]


def _planned(tensors: dict[str, Tensor], dtype: torch.dtype) -> list[Shard]:
    """Files of at most MAX_SHARD_BYTES, in the tensors' order."""
    groups: list[tuple[list[str], int]] = [([], 0)]
    for name, tensor in tensors.items():
        names, held = groups[-1]
        nbytes = tensor.numel * dtype.itemsize
        if names and held + nbytes > MAX_SHARD_BYTES:
            groups.append(([name], nbytes))
        else:
            names.append(name)
            groups[-1] = (names, held + nbytes)
    count = len(groups)
    return [Shard(f"model-{i + 1:05d}-of-{count:05d}.safetensors", tuple(n), b) for i, (n, b) in enumerate(groups)]


def _identity(request: Request, ready: Prepared) -> dict[str, object]:
    """What must be the same for an interrupted export to go on."""
    return {
        "version": VERSION,
        "dtype": str(request.dtype).removeprefix("torch."),
        "sources": [source.identity for source in ready.sources],
        "merge": [weight for _, weight in request.merge],
        "average": sorted(set(request.average)),
        "config": export_companions.fingerprints(ready.companions),
        "max_shard_bytes": MAX_SHARD_BYTES,
    }


def _make(request: Request, ready: Prepared, stage: Stage, progress: Callable[[int], None], judge: Callable[[Path], object]) -> Made:
    kept = [s for s in ready.shards if s.name in stage.done]
    left = [s for s in ready.shards if s.name not in stage.done]
    _require_space(stage.folder, sum(s.bytes for s in left))
    progress(sum(s.bytes for s in kept))
    _write_shards(left, ready, request.dtype, stage, progress)
    copied = {s.copy_of for s in ready.shards}
    for source in ready.sources:
        if not copied >= set(source.digests):  # a copy was hashed while it was written
            source.files.verify()
    card = export_companions.model_card(request.checkpoint, request.dtype, ready.made_of)
    small = export_companions.copy(ready.companions, stage.folder, request.dtype, card)
    nbytes = sum(s.bytes for s in ready.shards)
    index = {"metadata": {"total_size": nbytes}, "weight_map": {n: s.name for s in ready.shards for n in s.tensors}}
    (stage.folder / weights.INDEX).write_text(json.dumps(index, indent=2) + "\n")
    _read_back(stage.folder, ready.model, request.dtype)
    judge(stage.folder)
    stage.publish([*small, weights.INDEX], {"made_of": ready.made_of or [s.kind for s in ready.sources]})
    return Made(len(ready.tensors), nbytes, len(kept), tuple(ready.remarks))


def _write_shards(shards: list[Shard], ready: Prepared, dtype: torch.dtype, stage: Stage, progress: Callable[[int], None]) -> None:
    """Write the files one after another; each is synced and recorded while the next one is written."""
    stream = (_cast(ready.tensors[name], name, dtype) for shard in shards for name in shard.tensors)
    finishing: list[Future] = []
    with ThreadPoolExecutor(1, "finish") as finisher, Ahead(stream) as ahead:
        for shard in shards:
            header = _header_bytes(shard.copy_of) if shard.copy_of else None
            shapes = {name: (dtype, ready.tensors[name].shape) for name in shard.tensors}
            writer = Writer(stage.partial(shard.name), shapes, header=header)
            for name in shard.tensors:
                writer.stream(name, ahead.take())
                progress(ready.tensors[name].numel * dtype.itemsize)
            for earlier in finishing:
                earlier.result()  # at most one file is being synced while another is written
            finishing = [finisher.submit(_finish, writer, shard, ready.sources[0], stage)]
        for last in finishing:
            last.result()


def _finish(writer: Writer, shard: Shard, source: Source, stage: Stage) -> None:
    nbytes, digest = writer.close()
    known = source.digests.get(shard.copy_of) if shard.copy_of else None
    if known not in (None, digest):
        raise ReadError(
            f"{shard.copy_of}: its content has changed since it was written (sha256 {digest[:12]}…, not {known[:12]}…); "
            "restore the file from a copy, or take another checkpoint"
        )
    stage.record(shard.name, nbytes, digest)


def _header_bytes(path: Path) -> bytes:
    with path.open("rb") as f:
        length = f.read(8)
        return length + f.read(int.from_bytes(length, "little"))


def _cast(tensor: Tensor, name: str, dtype: torch.dtype) -> Tensor:
    def parts() -> Iterator[torch.Tensor]:
        for part in tensor.parts():
            yield _finite(part.to(dtype), name)

    return Tensor(tensor.shape, parts)


def _finite(part: torch.Tensor, name: str) -> torch.Tensor:
    # a sum is finite only when all it adds is, and reads the part once; only when it is not, each value is looked at
    if not bool(part.sum().isfinite()) and not bool(part.isfinite().all()):
        raise ExportError(f"{name}: holds values that are not finite; this checkpoint must not be published, take an earlier one")
    return part


def _read_back(folder: Path, model: Described, dtype: torch.dtype) -> None:
    """Open what was written as any reader would, and hold it against the config.

    Raises:
        OSError: it is not what was written.
    """
    entries = weights.read_folder(folder)
    shapes = {name: tuple(entry.shape) for name, entry in entries.items()}
    if shapes != model.shapes or {e.dtype for e in entries.values()} != {dtype}:
        raise OSError(
            errno.EIO, f"what was written does not read back as {len(model.shapes)} tensors of {dtype}; check the disk", str(folder)
        )


def _require_space(folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise OSError(errno.ENOSPC, f"{wanted / 1e9:.2f} GB are still to be written, {free / 1e9:.2f} GB are free", str(folder))


def _explained(error: OSError, stage: Stage, ready: Prepared) -> OSError:
    """The error with what to do about it; what is half written gives its space back."""
    for path in stage.folder.glob("*.part"):
        path.unlink(missing_ok=True)
    kept = sum(1 for s in ready.shards if s.name in stage.done)
    text = f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        wanted = sum(s.bytes for s in ready.shards if s.name not in stage.done)
        text += f"; free {wanted / 1e9:.2f} GB on the disk of {stage.out.parent} (or raise the quota)"
    text += f"; {kept} of {len(ready.shards)} files are finished in {stage.folder}: the same command goes on from there"
    explained = OSError(f"{stage.out}: not made: {text}")
    explained.errno = error.errno
    return explained
