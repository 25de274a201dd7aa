"""An adapter, ours or one that peft wrote → its own folder again, or merged into its base: W + scale * B A, in fp32, rounded once.

adapter's folder → verified against its manifest, where it has one → its base found, by name or by --base → each tensor of the base streamed,
its bits summed on the way: what does not add up to the weights the adapter was trained on is not published
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from train.checkpoint.layout import MANIFEST
from train.checkpoint.manifest import faults_of
from train.export.merge import ELEMENTS, aligned
from train.export.source import ExportError, Opened, extent_of, fit, open_model
from train.foreign.torch_save import folder as torch_folder
from train.model_files import adapter as adapter_files
from train.model_files.adapter import Folder
from train.model_files.bit_sums import checksum, fingerprint
from train.model_files.companions import companion_names
from train.model_files.dtypes import BF16, FP32, cast
from train.model_files.quantized import Format
from train.model_files.shapes import Described
from train.model_files.stream import RangeReader, Tensor
from train.world.places import resolved

TORCH_FILE = "adapter_model.bin"


@dataclass(frozen=True)
class Merged:
    """A base and its adapter as one. check: raises ExportError where the base that was streamed is not the adapter's."""

    opened: Opened
    tensors: dict[str, Tensor]
    adapter: Folder
    check: Callable[[], None]


def require_whole(folder: Path) -> None:
    """Raises ExportError where an adapter's manifest tells of damage; small as it is, all of it is hashed."""
    if (folder / MANIFEST).is_file() and (faults := faults_of(resolved(folder))):
        raise ExportError(f"{folder}: damaged, not exported:\n" + "\n".join(f"  - {f}" for f in faults[:10]))


def copied(folder: Path, into: Path) -> Path:
    """An adapter's folder on an object store, on this disk: all but the trainer's state."""
    into.mkdir()
    own = (adapter_files.CONFIG, adapter_files.WEIGHTS, adapter_files.BASE, TORCH_FILE)
    for name in (*companion_names(folder), *(n for n in own if (folder / n).is_file())):
        (into / name).parent.mkdir(exist_ok=True)
        (into / name).write_bytes((folder / name).read_bytes())
    return into


def read(folder: Path, model: Described) -> tuple[Folder, RangeReader, dict[str, Tensor]]:
    """The adapter, and its tensors by their names in the file."""
    reader = RangeReader()
    if not (folder / adapter_files.WEIGHTS).is_file() and (folder / TORCH_FILE).is_file():
        stored: Any = torch_folder.tensors_in([folder / TORCH_FILE])
        tensors = {name: reader.tensor(t.shape, [t.extent(0, t.numel)]) for name, t in stored.items()}
        return adapter_files.read(folder, model, stored), reader, tensors
    found = adapter_files.read(folder, model)
    return found, reader, {name: reader.tensor(e.shape, [extent_of(e)]) for name, e in found.entries.items()}


def merged(folder: Path, base: Path, model: Described) -> Merged:
    """The base's tensors with the adapter added, to be streamed.

    Raises:
        ExportError, AdapterError, WeightsError and their like: the two do not fit.
    """
    adapter, reader, stored = read(folder, model)
    opened = open_model(base, BF16)  # weights as they stand in its files, as they were trained on
    sums: dict[str, int] = {}
    fitted = {name: _summed(tensor, name, sums) for name, tensor in fit(opened, model).items()}
    for name, keys in adapter.twins.items():
        adapter_files.require_same(adapter, name, *(stored[key] for key in keys))
    coarse = adapter_files.quantized(folder, model)
    tensors = {}
    for name, tensor in fitted.items():
        tensor = _held(tensor, coarse[name]) if name in coarse else tensor
        below = _instead(tensor, stored[adapter.whole[name]]) if name in adapter.whole else tensor
        if name in adapter.low:
            a, b = (_whole(stored[key], f"{folder}: {key}") for key in adapter.low[name])
            scale = adapter.spec.scale(name.removesuffix(".weight"))
            tensors[name] = _added(below, a, b, scale, name in adapter.embedded)
            if key := adapter.magnitudes.get(name):
                tensors[name] = _lengthened(tensors[name], _whole(stored[key], f"{folder}: {key}"))
        else:
            tensors[name] = below
    was = (adapter_files.base_of(folder) or {}).get("fingerprint")

    def check() -> None:
        for name, tensor in fitted.items():
            if was and name not in sums:  # in a file that is kept from an interrupted export
                for _ in tensor.parts():
                    pass
        found = fingerprint((name, t.shape, t.dtype.name, sums[name]) for name, t in fitted.items()) if was else None
        if was != found:
            raise ExportError(
                f"{base}: its weights add up to fingerprint {found}, the adapter was trained on {was}; nothing was made. "
                "Give the base it belongs to with --base DIR"
            )

    also = {"adapter": identity(adapter)}
    return Merged(
        Opened(base, "base and its adapter", {}, _Both(opened.reader, reader), {**opened.identity, **also}), tensors, adapter, check
    )


class _Both:
    """Two readers, verified and closed as one."""

    def __init__(self, *readers: RangeReader):
        self.readers = readers

    def verify(self) -> None:
        for reader in self.readers:
            reader.verify()

    def close(self) -> None:
        for reader in self.readers:
            reader.close()


def identity(adapter: Folder) -> dict[str, object]:
    """What must be the same for an interrupted export to go on."""
    hashed = hashlib.sha256()
    for file in sorted({entry.file for entry in adapter.entries.values()}):
        hashed.update(file.read_bytes())
    return {"sha256": hashed.hexdigest(), "config": adapter.config}


def _summed(tensor: Tensor, name: str, sums: dict[str, int]) -> Tensor:
    """The same, whose bits are summed while they pass."""

    def parts() -> Iterator[np.ndarray]:
        total, at = 0, 0
        for part in tensor.parts():
            total += checksum(part, at)
            at += len(part)
            yield part
        sums[name] = total % (1 << 64)

    return Tensor(tensor.shape, tensor.dtype, parts)


def _instead(tensor: Tensor, other: Tensor) -> Tensor:
    """The other one; this one passes by, to be summed."""

    def parts() -> Iterator[np.ndarray]:
        for _ in tensor.parts():
            pass
        yield from other.parts()

    return Tensor(other.shape, other.dtype, parts)


def _held(tensor: Tensor, format: Format) -> Tensor:
    """What the run computed with, whose base was quantized."""

    def parts() -> Iterator[np.ndarray]:
        for part in aligned(tensor):  # whole blocks
            yield format.held(part)

    return Tensor(tensor.shape, FP32, parts)


def _added(tensor: Tensor, a: Callable[[], np.ndarray], b: Callable[[], np.ndarray], scale: float, embedded: bool) -> Tensor:
    """W + scale * B A. The product is made by torch as a whole, so that it is, bit by bit, what torch gives for these matrices."""

    def parts() -> Iterator[np.ndarray]:
        import torch

        low, high = torch.from_numpy(a()), torch.from_numpy(b())
        product = (high @ low).mul_(scale)
        change = (product.T if embedded else product).reshape(-1).numpy()
        at = 0
        for part in aligned(tensor):  # each valid until the next alone: what is yielded has to last longer
            yield part + change[at : at + len(part)]
            at += len(part)

    return Tensor(tensor.shape, FP32, parts)


def _lengthened(tensor: Tensor, lengths: Callable[[], np.ndarray]) -> Tensor:
    """Each row as long as DoRA has it (Liu et al., arXiv 2402.09353); the matrix is held whole."""

    def parts() -> Iterator[np.ndarray]:
        rows = np.concatenate([part.copy() for part in tensor.parts()]).reshape(tensor.shape)
        rows *= lengths().reshape(-1, 1) / np.linalg.norm(rows, axis=1, keepdims=True)
        yield from np.split(rows.reshape(-1), range(ELEMENTS, rows.size, ELEMENTS))

    return Tensor(tensor.shape, FP32, parts)


def _whole(tensor: Tensor, name: str) -> Callable[[], np.ndarray]:
    """Gives all of it, in fp32; raises ExportError where it is not finite."""

    def read() -> np.ndarray:
        found, at = np.empty(tensor.numel, np.float32), 0
        for part in tensor.parts():
            cast(part, tensor.dtype, FP32, found[at : at + len(part)])
            at += len(part)
        if not np.isfinite(found).all():
            raise ExportError(f"{name}: holds values that are not finite; take an earlier save of this adapter")
        return found.reshape(tensor.shape)

    return read


def companions_of(folder: Path, base: Path, into: Path) -> None:
    """Config of the base; tokenizer, chat template and generation config of the adapter where it has them: what goes along with the merged model."""
    own = companion_names(folder)
    if not any(name.startswith(("tokenizer.", "vocab")) for name in own):
        own = []  # a tokenizer is taken whole or not at all
    names = {name: base for name in companion_names(base) if not own or name in ("config.json", "generation_config.json")}
    names |= {name: folder for name in own if name != "config.json"}
    for name, source in names.items():
        (into / name).parent.mkdir(exist_ok=True)
        (into / name).write_bytes((source / name).read_bytes())
