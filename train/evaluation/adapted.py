"""An adapter's folder, as a model to talk to or to evaluate: its base is loaded, and A and B are added to its weights in memory.

adapter's folder → its base, where it says that it lies → the base's bits summed, where the adapter says what they add up to → W + scale * B A,
in fp32, rounded once to what the model is held in: the weights that `export_hf.py --merge-adapter` writes
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from train.model_files import adapter as adapter_files
from train.model_files.adapter import AdapterError
from train.model_files.bit_sums import checksum, fingerprint
from train.model_files.fetch import base_of_adapter
from train.model_files.folder import read_folder
from train.model_files.header import Entry
from train.model_files.reader import read_range
from train.model_files.shapes import Described, described
from train.model_files.stream import Extent, RangeReader


def require_base(folder: Path) -> Path:
    """Where the adapter's base lies.

    Raises:
        AdapterError: it is not here, or it is not what the adapter was trained on.
    """
    base = base_of_adapter(folder)
    was = (adapter_files.base_of(folder) or {}).get("fingerprint")
    if was and (found := _fingerprint(base)) != was:
        raise AdapterError(
            f"{folder}: was trained on weights with fingerprint {was}, those of {base} add up to {found}; put its own base back there"
        )
    return base


def _fingerprint(base: Path) -> str:
    model, entries = described(base / "config.json"), read_folder(base)
    rows, reader = [], RangeReader()
    try:
        for name in model.shapes:
            entry = entries.get(name) or next((entries[a] for a, target in model.tied.items() if target == name and a in entries), None)
            if entry is None:
                raise AdapterError(f"{base}: has no tensor {name}; copy the model again")
            total, at = 0, 0
            for part in reader.parts([Extent(entry.file, entry.start, entry.numel, entry.dtype)]):
                total += checksum(part, at)
                at += len(part)
            rows.append((name, entry.shape, entry.dtype.name, total % (1 << 64)))
    finally:
        reader.close()
    return fingerprint(rows)


@torch.no_grad()
def add(model: Any, folder: Path, base: Path) -> None:
    """Make a loaded base the adapter's model.

    Raises:
        AdapterError: the two do not fit.
    """
    of: Described = described(base / "config.json")
    found = adapter_files.read(folder, of)
    adapter_files.require_alike(found)
    weights = dict(model.named_parameters())
    for name, format in adapter_files.quantized(folder, of).items():
        held = torch.from_numpy(format.held(weights[name].float().cpu().reshape(-1).numpy()))
        weights[name].copy_(held.view(weights[name].shape))
    for name, key in found.whole.items():
        weights[name].copy_(_values(found.entries[key]))
    for name, (a, b) in found.low.items():
        product = _values(found.entries[b]) @ _values(found.entries[a])
        change = (product.T if name in found.embedded else product) * found.spec.scale(name.removesuffix(".weight"))
        value = weights[name].float() + change.to(weights[name].device)
        if key := found.magnitudes.get(name):
            lengths = _values(found.entries[key]).view(-1, 1).to(value.device)
            value *= lengths / torch.linalg.norm(value, dim=1, keepdim=True)
        weights[name].copy_(value)


def _values(entry: Entry) -> torch.Tensor:
    """The whole tensor, fp32."""
    value = torch.empty(entry.numel)
    for at, piece in read_range(entry, 0, entry.numel):
        value[at : at + piece.numel()] = piece
    if not bool(torch.isfinite(value).all()):
        raise AdapterError(f"{entry.file}: {entry.name} holds values that are not finite; take an earlier save of this adapter")
    return value.view(entry.shape)
