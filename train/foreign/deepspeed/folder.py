"""DeepSpeed's own checkpoint folders → tensors by name, streamed from byte ranges, nothing unpickled.

    >>> from train.model_files.dtypes import BF16
    >>> tensors = tensors_of(Path("checkpoint-500"), None, BF16)
    >>> tensors["model.norm.weight"].shape, str(tensors["model.norm.weight"].dtype)
    ((64,), 'float32')

A checkpoint is a folder with `latest` and one folder a tag (`global_step500/`), as the engine, HF Trainer, LMFlow and axolotl leave
it. A tag's folder holds the ranks' model states (names, shapes, frozen values) and optimizer states (fp32 masters, moments).
"""

from __future__ import annotations

import functools
import math
import re
from pathlib import Path

import numpy as np

from train.foreign.deepspeed.masters import DsFolderError, Partition, Tape, place_of, read_partition
from train.foreign.deepspeed.states import States, TagFiles, is_states_file, list_files, read_states
from train.foreign.deepspeed.universal import universal_masters
from train.foreign.torch_save.file import TorchFileError
from train.model_files.dtypes import FP32, DType, cast
from train.model_files.folder import HARMLESS
from train.model_files.stream import Extent, RangeReader, Tensor, cut

_PROBE = 64  # elements at either end of a tensor
_TAG = re.compile(r"[^/\\\0]{1,255}")


def looks_like(folder: Path) -> bool:
    """Whether a folder is a DeepSpeed checkpoint, one of its tags, or a universal one; says nothing about its health."""
    if not folder.is_dir():
        return False
    if _is_tag(folder) or _tags(folder) or (folder / "zero_to_fp32.py").is_file():  # the engine puts that script beside `latest`
        return True
    return any(_said(folder / name).startswith("global_step") for name in ("latest", "latest_universal") if (folder / name).is_file())


def tensors_of(folder: Path, tag: str | None, wanted: DType) -> dict[str, Tensor]:
    """Every tensor of a checkpoint by its Hugging Face name, in the dtype it is kept in: fp32 masters where there are some.

    A name that shares another's values is the very same Tensor object.

    Args:
        tag: which of the folder's tags (default: the one `latest` names). wanted: the dtype it will be written in; 16-bit weights
            without masters are taken for the same 16-bit dtype only.
    Raises:
        DsFolderError, TorchFileError: something is missing, cut short, contradictory, or would run code; before anything is read.
    """
    place = find(folder, tag)
    reader = RangeReader()
    files = list_files(place)
    states = read_states(place, files)
    if (place / "zero").is_dir():
        trained = universal_masters(place, states.shapes, states.module)
    elif files.optims:
        trained = place_of(states.shapes, _read_partitions(place, files, states, reader))
    else:
        trained = _without_masters(place, states, wanted)
    _check_agreement(place, states, trained, reader)
    return _assemble(place, states, trained, reader)


# -- which folder ---------------------------------------------------------------------------------------------------


def find(folder: Path, tag: str | None) -> Path:
    """The folder of one tag.

    Raises:
        DsFolderError: none, several, or `latest` names one that is not there.
    """
    if not folder.is_dir():
        raise DsFolderError(f"{folder}: no such folder; a DeepSpeed checkpoint is a folder with `latest` and global_stepN/")
    tags = _tags(folder)
    there = f"tags here: {', '.join(tags[:8]) or 'none'}"
    if tag is not None:
        if tag in tags:
            return folder / tag
        if _is_tag(folder) and folder.resolve().name == tag:
            return folder
        raise DsFolderError(f"{folder}: has no tag {tag!r}; {there}")
    if _is_tag(folder):
        return folder
    for name in ("latest", "latest_universal"):
        if (folder / name).is_file():
            said = _said(folder / name)
            if not _TAG.fullmatch(said) or said in (".", "..") or said not in tags:
                raise DsFolderError(
                    f"{folder / name}: names {said[:80]!r}, which is not a checkpoint here; {there}; give one of them as the tag"
                )
            return folder / said
    if len(tags) == 1:
        return folder / tags[0]
    raise DsFolderError(f"{folder}: has no `latest`; {there}; give one of them as the tag")


def _said(pointer: Path) -> str:
    with pointer.open("rb") as f:
        return f.read(300).decode("utf-8", "replace").strip()


def _is_tag(folder: Path) -> bool:
    return any(is_states_file(p.name) for p in folder.glob("*_states.pt")) or any(folder.glob("zero/*/fp32.pt"))


def _tags(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and _is_tag(p))


def _read_partitions(place: Path, files: TagFiles, states: States, reader: RangeReader) -> list[Partition]:
    if states.ranks is not None and states.ranks != len(files.optims):
        raise DsFolderError(
            f"{place}: saved by {states.ranks} ranks, optimizer states of {len(files.optims)} are here; copy the others too"
        )
    if states.shapes is None:
        raise DsFolderError(f"{states.file}: names no parameter shapes, but there are ZeRO optimizer files; two runs saved under one tag")
    partitions = [read_partition(path, place, reader) for path in files.optims]
    if (partitions[0].stage == 3) != states.stage3:
        raise DsFolderError(
            f"{files.optims[0]}: is of stage {partitions[0].stage}, {states.file.name} is not; two runs saved under one tag"
        )
    return partitions


def _without_masters(place: Path, states: States, wanted: DType) -> dict[str, list[Extent]]:
    """Trained parameters of a run whose optimizer files are not there: the engine's own weights, where they say the same."""
    if states.shapes is None:
        return {}  # no ZeRO: the module is all there is
    names = [n for group in states.shapes for n in group]
    kept = {states.module[n].dtype for n in names if n in states.module}
    if states.stage3 or not kept <= {wanted, FP32}:
        raise DsFolderError(
            f"{place}: has no *_optim_states.pt, which hold the fp32 masters; copy them from where they were saved"
            + ("" if states.stage3 else f", or ask for the dtype of the weights that are here ({', '.join(map(str, kept))})")
        )
    return {}


def _check_agreement(place: Path, states: States, trained: dict[str, list[Extent]], reader: RangeReader) -> None:
    """Where the engine's own weights lie beside the masters (stages 1 and 2), the ends of each tensor must be the masters, rounded.

    Finds optimizer files of another step than the model states, and the universal folders that ds_to_universal scrambles when the
    run had `round_robin_gradients` (its fragment addresses follow the unshuffled order).
    """
    for name, extents in trained.items():
        weight = states.module.get(name)
        if states.stage3 or weight is None or not weight.numel or weight.numel != sum(e.numel for e in extents):
            continue
        near = min(_PROBE, weight.numel)
        for at in {0, weight.numel - near}:
            ours, theirs = _values(reader, cut(extents, at, at + near)), _values(reader, [weight.extent(at, at + near)])
            rounded = cast(cast(ours, extents[0].dtype, weight.dtype), weight.dtype, FP32)
            if not np.array_equal(rounded, cast(theirs, weight.dtype, FP32), equal_nan=True):
                raise DsFolderError(
                    f"{place}: the fp32 master of {name} is not what the engine's weights in {states.file.name} are; files of two saves are"
                    " mixed, or the universal folder was made of a run with round_robin_gradients: export the original folder"
                )


def _values(reader: RangeReader, extents: list[Extent]) -> np.ndarray:
    values = np.empty(sum(e.numel for e in extents), extents[0].dtype.array)
    reader.read_into(extents, values)
    return values


# -- assembling -----------------------------------------------------------------------------------------------------


def _assemble(place: Path, states: States, trained: dict[str, list[Extent]], reader: RangeReader) -> dict[str, Tensor]:
    """Each tensor's shape and place; complete, or an error."""
    shapes = {n: s for group in states.shapes or [] for n, s in group.items()} | states.frozen
    places = {**trained, **_frozen(states)}
    for name, stored in states.module.items():
        if name in places or name in states.shared or HARMLESS.search(name) or (states.stage3 and name not in states.buffers):
            continue
        places[name] = [stored.extent(0, stored.numel)]
        shapes.setdefault(name, stored.shape)
    for name, target in states.shared.items():
        if target not in places:
            raise DsFolderError(f"{states.file}: {name} shares {target}, which is nowhere in the checkpoint")
    for name, parts in places.items():
        stored = states.module.get(name)
        have = sum(e.numel for e in parts)
        if have != math.prod(shapes[name]) or (stored is not None and stored.numel and not states.stage3 and stored.shape != shapes[name]):
            raise DsFolderError(f"{place}: {name} should be {list(shapes[name])}, {have} values are there; files of two runs are mixed")
        if not all(r.dtype.is_floating_point for r in parts) and name not in states.shared:
            raise DsFolderError(f"{place}: {name} is {parts[0].dtype}; a buffer of no Llama-like model, not exported")
    lost = [n for n in [*shapes, *states.module] if n not in places and n not in states.shared and not HARMLESS.search(n)]
    if lost:
        raise DsFolderError(f"{place}: no values for {len(lost)} tensors, e.g. {lost[0]}; the checkpoint is incomplete")
    if adapter := next((n for n in places if ".lora_" in n or n.startswith("base_model.model.")), None):
        raise DsFolderError(
            f"{place}: {adapter} is an adapter's (LoRA); merge it into its model with peft first, whole models are exported"
        )
    tensors = {
        name: Tensor(shapes[name], parts[0].dtype, functools.partial(reader.parts, parts)) for name, parts in places.items() if parts
    }
    tensors |= {name: tensors[target] for name, target in states.shared.items()}
    order = [*(n for n in states.module if n in tensors), *(n for n in tensors if n not in states.module)]
    return {renamed: tensors[name] for name, renamed in _plain_names(place, order).items()}


def _frozen(states: States) -> dict[str, list[Extent]]:
    """Frozen parameters: whole in stages 1 and 2, ceil(numel / ranks) elements a rank in stage 3."""
    found = {}
    for name, shape in states.frozen.items():
        if any(name not in f for f in states.fragments):
            raise DsFolderError(f"{states.file}: the frozen {name} has no values on some rank; the checkpoint is incomplete")
        parts, numel = [f[name] for f in states.fragments], math.prod(shape)
        each = -(-numel // len(parts)) if states.stage3 else numel
        if any(p.numel != each for p in parts):
            raise DsFolderError(
                f"{states.file}: the frozen {name} {list(shape)} has {parts[0].numel} values a rank, not {each}; files are mixed"
            )
        found[name] = Tape(parts).extents(0, numel)
    return found


def _plain_names(place: Path, names: list[str]) -> dict[str, str]:
    """Names as Hugging Face models have them: without the wrappers' `module.` and `_orig_mod.`."""
    plain = {n: n.replace("_orig_mod.", "") for n in names}
    while plain and all(p.startswith("module.") for p in plain.values()):
        plain = {n: p.removeprefix("module.") for n, p in plain.items()}
    if len(set(plain.values())) != len(plain):
        raise DsFolderError(f"{place}: two tensors have one name once the wrappers' prefixes are off")
    return plain


__all__ = ["DsFolderError", "TorchFileError", "find", "looks_like", "tensors_of"]
