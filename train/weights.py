"""Safetensors folders → ZeRO-3 slices: load and verify. (Saving is in shard_files.py.)

ZeRO-3 gives rank r of w the elements [r * ceil(n/w), (r+1) * ceil(n/w)) of each flattened parameter (`ds_tensor`),
padded at the end. So a rank reads just those bytes of each tensor from the files: no full copy, no message.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from train.safetensors_io import Entry, SafetensorsError, read_header, read_range
from train.world import World

INDEX = "model.safetensors.index.json"
# buffers that old LLaMA files carry and no model wants; anything else left over is a fault
HARMLESS = re.compile(r"rotary_emb\.inv_freq$")


class WeightsError(ValueError):
    """Files and model do not match; says which tensor, where, and what to do."""


def slice_range(numel: int, rank: int, size: int) -> tuple[int, int]:
    """The elements [start, stop) of a flattened parameter that a rank owns, without padding."""
    each = -(-numel // size)
    return min(rank * each, numel), min((rank + 1) * each, numel)


def read_folder(folder: Path) -> dict[str, Entry]:
    """Every tensor of a model folder, by name.

    Raises:
        WeightsError, SafetensorsError: no safetensors, files missing, a tensor twice or in another file than the index says.
    """
    index = folder / INDEX
    if index.is_file():
        try:
            weight_map = json.loads(index.read_text())["weight_map"]
        except (ValueError, KeyError, TypeError):
            raise WeightsError(f"{index}: not an index with a weight_map; fetch the file again") from None
        files = sorted(set(weight_map.values()))
        if any("/" in name or name.startswith(".") for name in files):
            raise WeightsError(f"{index}: names files outside its folder ({files[0]}); fetch it from a source you trust")
    else:
        weight_map, files = None, sorted(p.name for p in folder.glob("*.safetensors"))
    if not files:
        other = sorted(p.name for p in folder.glob("*.bin"))[:1] + sorted(p.name for p in folder.glob("*.pth"))[:1]
        remedy = (
            f"convert it once with: python launch/meta_to_hf.py {folder} OUT"
            if other and other[0].startswith("consolidated.")
            else "convert it to safetensors first"
        )
        why = f"only {other[0]}, which can run foreign code when read; {remedy}" if other else "no *.safetensors files"
        raise WeightsError(f"{folder}: {why}")
    entries: dict[str, Entry] = {}
    for name in files:
        if not (folder / name).is_file():
            raise WeightsError(f"{folder / name}: missing, the index names it; fetch it again")
        for tensor, entry in read_header(folder / name).items():
            if tensor in entries:
                raise WeightsError(f"{folder / name}: tensor {tensor} is in {entries[tensor].file.name} too; which one is right?")
            entries[tensor] = entry
    if weight_map is not None:
        for tensor, name in weight_map.items():
            if tensor not in entries or entries[tensor].file.name != name:
                raise WeightsError(f"{folder / name}: tensor {tensor} is missing, the index says it is there; fetch the file again")
    return entries


# -- checksums ----------------------------------------------------------------------------------------------------

_CHUNK = 1 << 16
_INT = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@functools.cache
def _multipliers(device: torch.device) -> torch.Tensor:
    """(chunk,) odd pseudo-random int64 (splitmix64 of the position)."""
    import numpy as np

    z = (np.arange(1, _CHUNK + 1, dtype=np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return torch.from_numpy(((z ^ (z >> np.uint64(31))) | np.uint64(1)).view(np.int64)).to(device)


def checksum(flat: torch.Tensor, first: int) -> int:
    """Position-dependent sum of a slice's bits, modulo 2^64: the sums of all slices of a tensor add up to the tensor's.

    Element i counts bits(i) * P[i mod 65536] * Q[i div 65536] with odd pseudo-random P and Q, so that a value changed,
    moved or exchanged with another changes the sum. It guards against mistakes, not against an adversary.

    Args:
        flat: 1-D slice. first: the index of its first element in the flattened tensor.
    """
    multipliers = _multipliers(flat.device)
    bits = flat.contiguous().view(_INT[flat.element_size()])
    total, at = 0, 0
    while at < bits.numel():
        chunk, inside = divmod(first + at, _CHUNK)
        count = min(_CHUNK - inside, bits.numel() - at)
        part = int((bits[at : at + count].long() * multipliers[inside : inside + count]).sum())
        total += part * ((chunk * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) | 1)
        at += count
    return total % (1 << 64)


# -- load -----------------------------------------------------------------------------------------------------------


@dataclass
class Loaded:
    """What a load put into memory: enough to verify later that it is still there."""

    fingerprint: str  # sha256 over every tensor's name, shape, dtype and checksum; the same at any world size
    as_loaded: dict[str, int] = field(default_factory=dict)  # this rank's slice, in the compute dtype
    exact_masters: bool = False  # files hold more precision than the compute dtype: masters must come from them
    skipped: list[str] = field(default_factory=list)


def match(parameters: dict[str, nn.Parameter], entries: dict[str, Entry], tied: dict[str, str], folder: Path) -> dict[str, Entry]:
    """Each parameter's entry.

    Args:
        tied: alias name -> name of the parameter it shares; a file may hold either or both.
    Raises:
        WeightsError: all missing, unexpected and misshapen tensors in one message.
    """
    found, faults = {}, []
    for name, parameter in parameters.items():
        entry = entries.get(name) or next((entries[a] for a, target in tied.items() if target == name and a in entries), None)
        if entry is None:
            faults.append(f"{name}: missing")
        elif tuple(entry.shape) != tuple(parameter.ds_shape):
            faults.append(f"{name}: shape {list(entry.shape)} in {entry.file.name}, the config wants {list(parameter.ds_shape)}")
        elif not entry.dtype.is_floating_point:
            faults.append(f"{name}: {entry.dtype} in {entry.file.name}; quantized weights cannot be trained, fetch the original ones")
        else:
            found[name] = entry
    for name in sorted(set(entries) - set(parameters) - set(tied)):
        if not HARMLESS.search(name):
            faults.append(f"{name}: unexpected, in {entries[name].file.name}; the model has no such parameter")
    if faults:
        shown = "\n".join(f"  - {f}" for f in faults[:20]) + (f"\n  - and {len(faults) - 20} more" if len(faults) > 20 else "")
        raise WeightsError(f"{folder}: {len(faults)} tensors do not fit its config.json; nothing was loaded\n{shown}")
    return found


def load(parameters: dict[str, nn.Parameter], tied: dict[str, str], folder: Path, world: World) -> Loaded:
    """Fill this rank's slices from a model folder; every rank reads only its own byte ranges."""
    entries = read_folder(folder)
    found = match(parameters, entries, tied, folder)
    sums, as_loaded, exact = {}, {}, False
    for name, parameter in parameters.items():
        entry, target = found[name], parameter.ds_tensor
        first, stop = slice_range(entry.numel, world.rank, world.size)
        in_file = loaded = 0
        target.zero_()
        for at, piece in read_range(entry, first, stop):
            kept = target[at - first : at - first + piece.numel()]
            kept.copy_(piece)
            in_file += checksum(piece, at)
            if entry.dtype != target.dtype:
                loaded += checksum(kept, at)
        sums[name] = in_file % (1 << 64)
        as_loaded[name] = (loaded if entry.dtype != target.dtype else in_file) % (1 << 64)
        exact |= entry.dtype != target.dtype
    extra = {a: entries[a] for a, t in tied.items() if a in entries and found[t].name != a}
    for alias, entry in extra.items():
        first, stop = slice_range(entry.numel, world.rank, world.size)
        sums[alias] = sum(checksum(piece, at) for at, piece in read_range(entry, first, stop)) % (1 << 64)
    totals = _add_up(sums, world)
    for alias in extra:
        if totals[alias] != totals[tied[alias]]:
            raise WeightsError(
                f"{folder}: config.json ties {alias} to {tied[alias]}, but the files hold two different tensors; set tie_word_embeddings to false"
            )
    lines = "".join(f"{n} {list(found[n].shape)} {found[n].dtype} {totals[n]:016x}\n" for n in sorted(parameters))
    skipped = sorted(n for n in entries if HARMLESS.search(n))
    return Loaded(hashlib.sha256(lines.encode()).hexdigest()[:32], as_loaded, exact, skipped)


def load_masters(
    parameters: dict[str, nn.Parameter],
    tied: dict[str, str],
    folder: Path,
    world: World,
    set_master: Callable[[nn.Parameter, torch.Tensor], None],
) -> None:
    """Give the fp32 masters the files' own precision (LLaMA-2 is published in fp16, which bf16 would round)."""
    found = match(parameters, read_folder(folder), tied, folder)
    for name, parameter in parameters.items():
        first, stop = slice_range(found[name].numel, world.rank, world.size)
        value = torch.zeros(parameter.ds_tensor.numel(), dtype=torch.float32)
        for at, piece in read_range(found[name], first, stop):
            value[at - first : at - first + piece.numel()] = piece
        set_master(parameter, value)


def _add_up(sums: dict[str, int], world: World) -> dict[str, int]:
    if world.size == 1:
        return sums
    signed = [s - (1 << 64) if s >= 1 << 63 else s for s in sums.values()]
    total = torch.tensor(signed, dtype=torch.int64, device=world.device)
    dist.all_reduce(total)  # int64 wraps, as the checksum does
    return {name: value % (1 << 64) for name, value in zip(sums, total.tolist(), strict=True)}


def verify_in_memory(
    parameters: dict[str, nn.Parameter], loaded: Loaded, world: World, get_master: Callable[[nn.Parameter], torch.Tensor]
) -> None:
    """After the engine has been built: every slice is still what was loaded, and every master agrees with it.

    Raises:
        WeightsError: on every rank, naming the tensors, when one does not.
    """
    wrong = []
    for name, parameter in parameters.items():
        first, stop = slice_range(parameter.ds_numel, world.rank, world.size)
        here = parameter.ds_tensor[: stop - first]
        if checksum(here, first) != loaded.as_loaded[name]:
            wrong.append(name)
        elif not torch.equal(get_master(parameter)[: stop - first].to(here.device).to(here.dtype), here):
            wrong.append(f"{name} (fp32 master)")
        elif not bool(torch.isfinite(here).all()):
            wrong.append(f"{name} (not finite)")
    everywhere = [f"{n} on rank {r}" for r, names in enumerate(world.gather(wrong)) for n in names]
    if everywhere:
        raise WeightsError(
            f"after loading, {len(everywhere)} tensors are not what their files hold: {', '.join(everywhere[:5])}; nothing was trained"
        )


__all__ = [
    "INDEX",
    "Loaded",
    "SafetensorsError",
    "WeightsError",
    "load",
    "load_masters",
    "read_folder",
    "slice_range",
    "verify_in_memory",
]
