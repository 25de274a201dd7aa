"""Safetensors folders → ZeRO-3 slices: load and verify. (Saving is in checkpoint/weight_files.py.)

ZeRO-3 gives rank r of w the elements [r * ceil(n/w), (r+1) * ceil(n/w)) of each flattened parameter (`ds_tensor`),
padded at the end. So a rank reads just those bytes of each tensor from the files: no full copy, no message.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from train.engine.bit_sums import checksum
from train.engine.packed import blocks_of
from train.model import quantized
from train.model_files.bit_sums import fingerprint
from train.model_files.dtypes import in_torch
from train.model_files.folder import HARMLESS, WeightsError, read_folder
from train.model_files.header import Entry, header_bytes
from train.model_files.reader import Wanted, read_ahead
from train.world.ranks import World

PART = 1 << 20  # elements verified at a time


def slice_range(numel: int, rank: int, size: int) -> tuple[int, int]:
    """The elements [start, stop) of a flattened parameter that a rank owns, without padding."""
    each = -(-numel // size)
    return min(rank * each, numel), min((rank + 1) * each, numel)


# -- load -----------------------------------------------------------------------------------------------------------


@dataclass
class Loaded:
    """What a load put into memory: enough to verify later that it is still there."""

    fingerprint: str  # sha256 over every tensor's name, shape, dtype and checksum; the same at any world size
    as_loaded: dict[str, int] = field(default_factory=dict)  # checksum of this rank's slice, as it waits in memory
    waiting: dict[str, torch.dtype] = field(default_factory=dict)  # slices that hold the file's own bits until settle()
    low_bits: dict[str, torch.Tensor] = field(default_factory=dict)  # of fp32 values whose high bits wait in the slice
    bytes_read: int = 0  # by this rank, headers too
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
        elif tuple(entry.shape) != quantized.shape_of(parameter):
            faults.append(f"{name}: shape {list(entry.shape)} in {entry.file.name}, the config wants {list(quantized.shape_of(parameter))}")
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
    """Fill this rank's slices from a model folder; every rank reads only its own byte ranges, once, in file order.

    Where the files hold more than a bf16 slice can (LLaMA-2 is published in fp16), the fp32 masters must have it. They do not exist
    yet, so the slice holds the file's own bits until `settle`: of fp16 all, of fp32 the high half, and the low half waits beside it.
    """
    entries = read_folder(folder)
    found = match(parameters, entries, tied, folder)
    extra = {a: entries[a] for a, t in tied.items() if a in entries and found[t].name != a}
    loaded = Loaded("", skipped=sorted(n for n in entries if HARMLESS.search(n)))
    sums = dict.fromkeys([*parameters, *extra], 0)
    loaded.as_loaded = dict.fromkeys(parameters, 0)
    ranges = {n: slice_range(p.ds_numel, world.rank, world.size) for n, p in parameters.items()}
    packed = {n: blocks for n, p in parameters.items() if (blocks := blocks_of(p, *ranges[n]))}
    wanted = [_wanted(n, e, parameters.get(n), world) for n, e in _in_file_order(found | extra)]
    with world.progress("loading weights", sum((w.stop - w.first) * w.entry.dtype.itemsize for w in wanted), "B") as advance:
        for what, at, piece in read_ahead(wanted):
            world.beat.mark()
            loaded.bytes_read += piece.nbytes
            if blocks := packed.get(what.name):
                blocks.put(piece, at, parameters[what.name].ds_tensor.detach(), what.name)
                skip = max(0, blocks.own - at)  # weights that another rank counts
                sums[what.name] += checksum(piece[skip:], at + skip)
                advance(piece.nbytes)
                continue
            in_file = checksum(piece, at)
            sums[what.name] += in_file
            if what.name in parameters:
                loaded.as_loaded[what.name] += _keep(piece, in_file, what, at, parameters[what.name], loaded)
            advance(piece.nbytes)
    for name, parameter in parameters.items():
        first, stop = ranges[name]
        parameter.ds_tensor[stop - first :].zero_()
        if name in packed:
            loaded.as_loaded[name] = checksum(parameter.ds_tensor.detach()[: stop - first], first)
    loaded.bytes_read += sum(header_bytes(f) for f in {e.file for e in entries.values()})
    totals = _add_up({n: s % (1 << 64) for n, s in sums.items()}, world)
    for alias in extra:
        if totals[alias] != totals[tied[alias]]:
            raise WeightsError(
                f"{folder}: config.json ties {alias} to {tied[alias]}, but the files hold two different tensors; set tie_word_embeddings to false"
            )
    loaded.fingerprint = fingerprint((n, found[n].shape, found[n].dtype.name, totals[n]) for n in parameters)
    return loaded


def _in_file_order(entries: dict[str, Entry]) -> list[tuple[str, Entry]]:
    return sorted(entries.items(), key=lambda item: (item[1].file.name, item[1].start))


def _wanted(name: str, entry: Entry, parameter: nn.Parameter | None, world: World) -> Wanted:
    """What this rank reads of a tensor: straight into the slice where that is the same bits on the same device."""
    first, stop = slice_range(entry.numel, world.rank, world.size)
    into = None
    if parameter is not None and (blocks := blocks_of(parameter, *slice_range(parameter.ds_numel, world.rank, world.size))):
        return Wanted(name, entry, *blocks.wanted)
    if parameter is not None and not parameter.ds_tensor.is_cuda:
        if in_torch(entry.dtype) == parameter.ds_tensor.dtype or _waits(in_torch(entry.dtype), parameter) == "bits":
            into = parameter.ds_tensor.detach()[: stop - first].view(in_torch(entry.dtype))
    return Wanted(name, entry, first, stop, into)


def _waits(in_file: torch.dtype, parameter: nn.Parameter) -> str | None:
    """How a slice holds the file's precision until the masters exist; None: it is the value, exactly, or rounded as masters and frozen ones are."""
    in_slice = parameter.ds_tensor.dtype
    if in_file == in_slice or in_slice == torch.float32 or not parameter.requires_grad:
        return None
    return "bits" if in_file.itemsize == in_slice.itemsize else "halves"


def _keep(piece: torch.Tensor, in_file: int, what: Wanted, at: int, parameter: nn.Parameter, loaded: Loaded) -> int:
    """Put a piece into its parameter's slice; returns the checksum it is verified by later."""
    target = parameter.ds_tensor.detach()[at - what.first :][: piece.numel()]
    how = _waits(piece.dtype, parameter)
    if how == "halves":
        whole = piece.float()
        halves = whole.view(torch.int16).view(-1, 2)  # little-endian: low half first
        if what.name not in loaded.low_bits:
            loaded.low_bits[what.name] = torch.empty(what.stop - what.first, dtype=torch.int16)
        loaded.low_bits[what.name][at - what.first :][: piece.numel()] = halves[:, 0]
        target.view(torch.int16).copy_(halves[:, 1])
        loaded.waiting[what.name] = torch.float32
        return in_file if piece.dtype == torch.float32 else checksum(whole, at)
    if how == "bits":
        loaded.waiting[what.name] = piece.dtype
        target = target.view(piece.dtype)
    if what.into is None:
        target.copy_(piece)
    return in_file if target.dtype == piece.dtype else checksum(target, at)


def _add_up(sums: dict[str, int], world: World) -> dict[str, int]:
    if world.size == 1:
        return sums
    signed = [s - (1 << 64) if s >= 1 << 63 else s for s in sums.values()]
    total = torch.tensor(signed, dtype=torch.int64, device=world.device)
    dist.all_reduce(total)  # int64 wraps, as the checksum does
    return {name: value % (1 << 64) for name, value in zip(sums, total.tolist(), strict=True)}


def settle(
    parameters: dict[str, nn.Parameter],
    loaded: Loaded,
    world: World,
    get_master: Callable[[nn.Parameter], torch.Tensor],
    set_master: Callable[[nn.Parameter, torch.Tensor], None],
) -> None:
    """After the engine has been built: waiting slices become masters and weights, then every slice and master is what the files hold.

    Args:
        set_master: sets a master's slice (padded length) and the slice of the weight that follows from it.
    Raises:
        WeightsError: on every rank, naming the tensors, when one is not.
    """
    wrong = []
    for name, parameter in parameters.items():
        world.beat.mark()
        first, stop = slice_range(parameter.ds_numel, world.rank, world.size)
        in_file = loaded.waiting.get(name)
        if in_file is not None:
            set_master(parameter, _waited(parameter.ds_tensor, loaded.low_bits.pop(name, None), in_file, stop - first))
        if blocks_of(parameter, first, stop):  # bytes, not numbers
            if checksum(parameter.ds_tensor.detach()[: stop - first], first) != loaded.as_loaded[name]:
                wrong.append(name)
            continue
        weight, master = parameter.ds_tensor.detach()[: stop - first], get_master(parameter).detach().view(-1)[: stop - first]
        if fault := _fault(name, weight, master, in_file, loaded.as_loaded[name], first):
            wrong.append(fault)
    everywhere = [f"{n} on rank {r}" for r, names in enumerate(world.gather(wrong)) for n in names]
    if everywhere:
        raise WeightsError(
            f"after loading, {len(everywhere)} tensors are not what their files hold: {', '.join(everywhere[:5])}; nothing was trained"
        )


def _waited(slice_: torch.Tensor, low: torch.Tensor | None, in_file: torch.dtype, count: int) -> torch.Tensor:
    """(padded,) fp32 values of a slice that holds the file's bits."""
    value = torch.zeros(slice_.numel(), dtype=torch.float32, device=slice_.device if low is None else "cpu")
    if low is None:
        value[:count] = slice_.detach()[:count].view(in_file)
    else:
        halves = value.view(torch.int16).view(-1, 2)
        halves[:count, 0], halves[:count, 1] = low, slice_.detach()[:count].view(torch.int16).cpu()
    return value


def _fault(name: str, weight: torch.Tensor, master: torch.Tensor, in_file: torch.dtype | None, wanted: int, first: int) -> str | None:
    """The name of a slice that is wrong, and which part of it; None: it is right. in_file: the dtype in which the master holds what was read."""
    total, agree, finite = 0, True, True
    for at in range(0, weight.numel(), PART):
        w, m = weight[at : at + PART], master[at : at + PART]
        total += checksum(w if in_file is None else m.to(in_file), first + at)
        agree &= m.data_ptr() == w.data_ptr() or torch.equal(m.to(w.device).to(w.dtype), w)
        finite &= bool(torch.isfinite(w).all())
    if total % (1 << 64) != wanted % (1 << 64):
        return name
    if not agree:
        return f"{name} (fp32 master)"
    return None if finite else f"{name} (not finite)"
