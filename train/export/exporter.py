"""A checkpoint, or several → a Hugging Face folder in bf16 or fp32, in one pass over the bytes, nothing visible until it is whole.

1 open: source.py says where each tensor lies; config, tokenizer and generation config are checked, nothing is read yet
2 combine: merge.py makes a weighted sum, or the mean of steps; plan.py settles what goes into which file
3 stream: a thread reads ahead, hashes what a manifest vouches for, casts and looks for values that are not finite; this one writes;
  another hashes what is written. Files whose tensors all have the wanted dtype already are copied by copier.py.
4 verify: hashes of what was read, headers of what was written against the config
5 publish: stage.py records every file's hash and renames
"""

from __future__ import annotations

import errno
import itertools
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from train.export import companions
from train.export.card import Parts, model_card
from train.export.copier import Copier
from train.export.plan import FileToWrite, Prepared, Request, identity, prepare
from train.export.source import ExportError
from train.export.stage import Stage
from train.model_files import stream
from train.model_files.dtypes import DType, cast, is_finite
from train.model_files.folder import INDEX, index_text, read_folder
from train.model_files.shapes import Described
from train.model_files.stream import RING, Ahead, ReadError, Tensor
from train.model_files.writer import Writer
from train.world.places import as_os_errors

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Made:
    tensors: int
    of: str  # the kinds of folders it was made from
    bytes: int  # of weights
    kept: int  # files taken over from an interrupted export
    remarks: tuple[str, ...]


def export(request: Request, progress: Progress = lambda nbytes, of: None, judge: Callable[[Path], object] = lambda folder: None) -> Made:
    """Make OUT, or go on making it.

    Args:
        progress: called with bytes just written, and those of all weights.
        judge: called with the finished folder before it is published; raises to keep it from that.
    Raises:
        ExportError and its like: nothing was made, and the same command would say the same.
        OSError: finished files are kept for the same command.
    """
    if request.out.exists():
        raise ExportError(f"{request.out}: exists already; give another folder, or remove it first")
    with as_os_errors(request.checkpoint):
        ready = prepare(request)
    try:
        with Stage(request.out, identity(request, ready)) as stage:
            try:
                return _make(request, ready, stage, progress, judge)
            except ValueError:
                stage.discard()
                raise
            except OSError as error:
                raise _explained(error, stage, ready) from error
    finally:
        ready.close()


def _make(request: Request, ready: Prepared, stage: Stage, progress: Progress, judge: Callable[[Path], object]) -> Made:
    kept = [f for f in ready.files if f.name in stage.done]
    left = [f for f in ready.files if f.name not in stage.done]
    _require_space(stage.folder, sum(f.bytes for f in left))
    nbytes = sum(f.bytes for f in ready.files)
    progress(sum(f.bytes for f in kept), nbytes)
    if ready.files[0].copy_of:
        _copy_files(left, ready, request.dtype, stage, progress)
    else:
        _write_files(left, ready, request.dtype, stage, progress)
        for one in ready.opened:
            one.reader.verify()
    ready.check()
    made = Parts(
        ready.own, [folder for folder, _ in request.merge], ready.made_of, request.license, request.results, request.release, ready.adapter
    )
    beside = companions.of_release(ready.companions, request.release.licensed(made)) if request.release else {}
    small = companions.copy(ready.companions, stage.folder, request.dtype, model_card(made, request.dtype), beside)
    texts = ready.texts if ready.adapter else {INDEX: index_text({f.name: f.tensors for f in ready.files}, nbytes)}
    for name, text in texts.items():
        (stage.folder / name).write_text(text)
    _read_back(stage.folder, ready.model, request.dtype)
    judge(stage.folder)
    asked = {"release": request.release.asked(request.license, request.results)} if request.release else {}
    stage.publish([*small, *texts], {"made_of": ready.made_of or [one.kind for one in ready.opened], **asked})
    return Made(len(ready.tensors), ", ".join(dict.fromkeys(one.kind for one in ready.opened)), nbytes, len(kept), tuple(ready.remarks))


def _write_files(files: list[FileToWrite], ready: Prepared, dtype: DType, stage: Stage, progress: Progress) -> None:
    """Write the files one after another, one thread reading, one casting; each is synced and recorded while the next one is written."""
    most = stream.CHUNK_BYTES // 2  # elements of a part: none has less than 2 bytes
    ring = itertools.cycle([np.empty(most, dtype.array) for _ in range(RING)])
    wanted = {name: ready.tensors[name] for file in files for name in file.tensors}
    finishing: list[Future] = []
    nbytes = sum(f.bytes for f in ready.files)
    with (
        ThreadPoolExecutor(1, "finish") as finisher,
        Ahead(wanted.values()) as raw,
        Ahead(_cast(tensor, raw, name, dtype, ring) for name, tensor in wanted.items()) as ahead,
    ):
        for file in files:
            shapes = {name: (dtype, ready.tensors[name].shape) for name in file.tensors}
            writer = Writer(stage.partial(file.name), shapes)
            for name in file.tensors:
                writer.stream(name, ahead.take())
                progress(ready.tensors[name].numel * dtype.itemsize, nbytes)
            for earlier in finishing:
                earlier.result()  # at most one file is being synced while another is written
            finishing = [finisher.submit(lambda w, name: stage.record(name, *w.close()), writer, file.name)]
        for last in finishing:
            last.result()


def _copy_files(files: list[FileToWrite], ready: Prepared, dtype: DType, stage: Stage, progress: Progress) -> None:
    """Copy files whose tensors all have the wanted dtype; each copy is looked at, and held against the manifest where there is one."""
    nbytes, digests = sum(f.bytes for f in ready.files), ready.opened[0].digests
    with Copier([(file.copy_of, stage.partial(file.name)) for file in files]) as copier:
        for file in files:
            begins = [0, *(ready.tensors[name].extents[0].start for name in file.tensors)]

            def look(part: int, piece: np.ndarray, names: tuple[str, ...] = file.tensors) -> None:
                if part:  # 0 is the header
                    _require_finite(piece.view(dtype.array), dtype, names[part - 1])
                    progress(len(piece), nbytes)

            size, digest = copier.follow(begins, look)
            if (known := digests.get(file.copy_of, digest)) != digest:
                raise ReadError(
                    f"{file.copy_of}: its content has changed since it was written (sha256 {digest[:12]}…, not {known[:12]}…); "
                    "restore the file from a copy, or take another checkpoint"
                )
            stage.record(file.name, size, digest)


def _cast(tensor: Tensor, raw: Ahead, name: str, dtype: DType, ring: Iterator[np.ndarray]) -> Tensor:
    """The next tensor that is read, in another dtype; its parts lie in memory that is used again after RING of them."""

    def parts() -> Iterator[np.ndarray]:
        for part in raw.take():
            rounded = part if tensor.dtype is dtype else cast(part, tensor.dtype, dtype, next(ring)[: len(part)])
            _require_finite(rounded, dtype, name)
            yield rounded

    return Tensor(tensor.shape, dtype, parts)


def _require_finite(values: np.ndarray, dtype: DType, name: str) -> None:
    if not is_finite(values, dtype):
        raise ExportError(f"{name}: holds values that are not finite; this checkpoint must not be published, take an earlier one")


def _read_back(folder: Path, model: Described, dtype: DType) -> None:
    """Open what was written as any reader would, and hold it against the config.

    Raises:
        OSError: it is not what was written.
    """
    entries = read_folder(folder)
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
    kept = sum(1 for f in ready.files if f.name in stage.done)
    text = f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        wanted = sum(f.bytes for f in ready.files if f.name not in stage.done)
        text += f"; free {wanted / 1e9:.2f} GB on the disk of {stage.out.parent} (or raise the quota)"
    text += f"; {kept} of {len(ready.files)} files are finished in {stage.folder}: the same command goes on from there"
    explained = OSError(f"{stage.out}: not made: {text}")
    explained.errno = error.errno
    return explained
