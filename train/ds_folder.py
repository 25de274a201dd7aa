"""DeepSpeed's own checkpoint folders → tensors by name, streamed from byte ranges, nothing unpickled.

    tensors = tensors_of(Path("checkpoint-500"), None, torch.bfloat16)

A checkpoint is a folder with `latest` and one folder a tag (`global_step500/`), as the engine, HF Trainer, LMFlow and axolotl leave
it. A tag's folder holds the ranks' model states (names, shapes, frozen values) and optimizer states (fp32 masters, moments).
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from train.ds_masters import DsFolderError, Partition, Shapes, Tape, place_of, read_partition
from train.tensor_stream import Tensor
from train.torch_files import Reader, Run, StoredTensor, TorchFileError, read_torch_file
from train.weights import HARMLESS

_MODEL = re.compile(r"(?:zero_pp_rank_(?P<rank>\d+)_)?mp_rank_(?P<mp>\d+)_model_states\.pt")
_OPTIM = re.compile(r"(?:bf16_|fp16_)?zero_pp_rank_(?P<rank>\d+)_mp_rank_(?P<mp>\d+)_optim_states\.pt")
_TAG = re.compile(r"[^/\\\0]{1,255}")


def looks_like(folder: Path) -> bool:
    """Whether a folder is a DeepSpeed checkpoint, one of its tags, or a universal one; says nothing about its health."""
    if not folder.is_dir():
        return False
    return (
        _is_tag(folder)
        or any((folder / name).is_file() and _tags(folder) for name in ("latest", "latest_universal"))
        or bool(_tags(folder))
    )


def tensors_of(folder: Path, tag: str | None, wanted: torch.dtype) -> dict[str, Tensor]:
    """Every tensor of a checkpoint by its Hugging Face name, in the dtype it is kept in: fp32 masters where there are some.

    A name that shares another's values is the very same Tensor object.

    Args:
        tag: which of the folder's tags (default: the one `latest` names). wanted: the dtype it will be written in; 16-bit weights
            without masters are taken for the same 16-bit dtype only.
    Raises:
        DsFolderError, TorchFileError: something is missing, cut short, contradictory, or would run code; before anything is read.
    """
    place = find(folder, tag)
    reader = Reader()
    files = _list(place)
    states = _read_states(place, files, reader)
    if (place / "zero").is_dir():
        from train.ds_universal import universal_runs

        trained = universal_runs(place, states.shapes, states.module)
    elif files.optims:
        trained = place_of(states.shapes, _read_partitions(place, files, states, reader))
    else:
        trained = _without_masters(place, states, wanted)
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
            with (folder / name).open("rb") as f:
                said = f.read(300).decode("utf-8", "replace").strip()
            if not _TAG.fullmatch(said) or said in (".", "..") or said not in tags:
                raise DsFolderError(
                    f"{folder / name}: names {said[:80]!r}, which is not a checkpoint here; {there}; give one of them as the tag"
                )
            return folder / said
    if len(tags) == 1:
        return folder / tags[0]
    raise DsFolderError(f"{folder}: has no `latest`; {there}; give one of them as the tag")


def _is_tag(folder: Path) -> bool:
    return any(_MODEL.fullmatch(p.name) or _OPTIM.fullmatch(p.name) for p in folder.glob("*_states.pt")) or any(
        folder.glob("zero/*/fp32.pt")
    )


def _tags(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and _is_tag(p))


@dataclass(frozen=True)
class Files:
    models: list[Path]  # by rank; a single mp_rank_00 file for stages 0 to 2
    optims: list[Path]  # by rank


def _list(place: Path) -> Files:
    """The files of a tag, complete by their names.

    Raises:
        DsFolderError: a rank's file missing, two runs' files mixed, or parallel in a way not read.
    """
    found: dict[str, dict[int, Path]] = {"model": {}, "optim": {}}
    shared: list[Path] = []
    for path in sorted(place.glob("*_states.pt")):
        kind, match = ("model", m) if (m := _MODEL.fullmatch(path.name)) else ("optim", _OPTIM.fullmatch(path.name))
        if match is None:
            what = "expert" if "exp" in path.name else "pipeline" if path.name.startswith("layer_") else "unknown"
            raise DsFolderError(f"{path}: is of an {what} kind; checkpoints of experts, pipeline or tensor parallelism are not read")
        if int(match["mp"]) != 0:
            raise DsFolderError(f"{path}: one of several model-parallel ranks; tensor- and pipeline-parallel checkpoints are not read")
        if match["rank"] is None:
            shared.append(path)
        elif int(match["rank"]) in found[kind]:
            other = found[kind][int(match["rank"])]
            raise DsFolderError(
                f"{path}: rank {match['rank']} is in {other.name} too; two runs saved under one tag: remove the older files"
            )
        else:
            found[kind][int(match["rank"])] = path
    if shared and found["model"]:
        raise DsFolderError(f"{place}: holds {shared[0].name} and {found['model'][min(found['model'])].name}; two runs saved under one tag")
    for kind, by_rank in found.items():
        if missing := sorted(set(range(len(by_rank))) - set(by_rank)):
            raise DsFolderError(
                f"{place}: the {kind}_states file of rank {missing[0]} is missing, rank {max(by_rank)}'s is there; copy it from where it was saved"
            )
    if not shared and not found["model"]:
        raise DsFolderError(f"{place}: has no *_model_states.pt, which holds the names and shapes; copy it from where it was saved")
    return Files(shared or [found["model"][r] for r in sorted(found["model"])], [found["optim"][r] for r in sorted(found["optim"])])


# -- model states ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class States:
    """What the model states say, checked for form."""

    file: Path
    stage3: bool
    ranks: int | None  # data-parallel ranks at the save
    module: dict[str, StoredTensor]  # full tensors in stages 0 to 2, placeholders in stage 3
    buffers: list[str]
    shapes: list[Shapes] | None  # trained parameters per group; None without ZeRO
    frozen: Shapes
    fragments: list[dict[str, StoredTensor]]  # per file
    shared: dict[str, str]


def _read_states(place: Path, files: Files, reader: Reader) -> States:
    all_states = [read_torch_file(path, place) for path in files.models]
    for path, state in zip(files.models, all_states, strict=True):
        if not isinstance(state, dict) or "buffer_names" not in state or not isinstance(state.get("module"), dict):
            raise DsFolderError(f"{path}: holds no module and buffer_names; not a model-states file, or pipeline-parallel")
        if state.get("num_experts") or state.get("ds_autoep_layers") or state.get("autoep_layers"):
            raise DsFolderError(f"{path}: a mixture of experts; such checkpoints are not read")
        if state.get("mp_world_size", 1) != 1:
            raise DsFolderError(f"{path}: saved with {state['mp_world_size']} model-parallel ranks; such checkpoints are not read")
        for key in ("global_steps", "dp_world_size", "param_shapes", "frozen_param_shapes", "ds_version"):
            if state.get(key) != all_states[0].get(key):
                shown = (
                    f" ({state.get(key)} and {all_states[0].get(key)})" if key in ("global_steps", "dp_world_size", "ds_version") else ""
                )
                raise DsFolderError(
                    f"{path}: {key} differs from {files.models[0].name}'s{shown}; files of two saves are mixed: copy one tag again"
                )
    first, path = all_states[0], files.models[0]
    stage3 = path.name.startswith("zero_pp_rank_")
    ranks = first.get("dp_world_size")
    if stage3 and ranks is not None and ranks != len(files.models):
        raise DsFolderError(f"{place}: saved by {ranks} ranks, model states of {len(files.models)} are here; copy the others too")
    shapes = first.get("param_shapes")
    module = first["module"]
    frozen = first.get("frozen_param_shapes") or {}
    shared = first.get("shared_params") or {}
    fragments = [s.get("frozen_param_fragments") or {} for s in all_states]
    plain = (
        all(isinstance(k, str) and isinstance(v, StoredTensor) for part in [module, *fragments] for k, v in part.items())
        and (shapes is None or (isinstance(shapes, list) and all(_is_shapes(g) for g in shapes)))
        and _is_shapes(frozen)
        and isinstance(shared, dict)
        and all(isinstance(n, str) for n in [*shared, *shared.values()])
    )
    if not plain:
        raise DsFolderError(f"{path}: its names and shapes are not of the form DeepSpeed writes; fetch the file again")
    return States(path, stage3, ranks, module, list(first["buffer_names"]), shapes, frozen, fragments, shared)


def _is_shapes(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(k, str) and isinstance(v, tuple) and all(type(n) is int and n >= 0 for n in v) for k, v in value.items()
    )


def _read_partitions(place: Path, files: Files, states: States, reader: Reader) -> list[Partition]:
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


def _without_masters(place: Path, states: States, wanted: torch.dtype) -> dict[str, list[Run]]:
    """Trained parameters of a run whose optimizer files are not there: the engine's own weights, where they say the same."""
    if states.shapes is None:
        return {}  # no ZeRO: the module is all there is
    names = [n for group in states.shapes for n in group]
    kept = {states.module[n].dtype for n in names if n in states.module}
    if states.stage3 or not kept <= {wanted, torch.float32}:
        raise DsFolderError(
            f"{place}: has no *_optim_states.pt, which hold the fp32 masters; copy them from where they were saved"
            + ("" if states.stage3 else f", or ask for the dtype of the weights that are here ({', '.join(map(str, kept))})")
        )
    return {}


# -- assembling -----------------------------------------------------------------------------------------------------


def _assemble(place: Path, states: States, trained: dict[str, list[Run]], reader: Reader) -> dict[str, Tensor]:
    """Each tensor's shape and runs; complete, or an error."""
    shapes = {n: s for group in states.shapes or [] for n, s in group.items()} | states.frozen
    runs = {**trained, **_frozen(states)}
    for name, stored in states.module.items():
        if name in runs or name in states.shared or (states.stage3 and name not in states.buffers):
            continue
        if not HARMLESS.search(name) or name not in states.buffers:
            runs[name] = [stored.run(0, stored.numel)]
            shapes.setdefault(name, stored.shape)
    for name, target in states.shared.items():
        if target not in runs:
            raise DsFolderError(f"{states.file}: {name} shares {target}, which is nowhere in the checkpoint")
    for name, parts in runs.items():
        stored = states.module.get(name)
        have = sum(r.count for r in parts)
        if have != math.prod(shapes[name]) or (stored is not None and stored.numel and not states.stage3 and stored.shape != shapes[name]):
            raise DsFolderError(f"{place}: {name} should be {list(shapes[name])}, {have} values are there; files of two runs are mixed")
        if not all(r.dtype.is_floating_point for r in parts) and name not in states.shared:
            raise DsFolderError(f"{place}: {name} is {parts[0].dtype}; a buffer of no Llama-like model, not exported")
    lost = [n for n in [*shapes, *states.module] if n not in runs and n not in states.shared and not HARMLESS.search(n)]
    if lost:
        raise DsFolderError(f"{place}: no values for {len(lost)} tensors, e.g. {lost[0]}; the checkpoint is incomplete")
    tensors = {
        name: Tensor(shapes[name], functools.partial(_parts, reader, parts)) for name, parts in runs.items() if parts or not shapes[name]
    }
    tensors |= {name: tensors[target] for name, target in states.shared.items()}
    order = [*(n for n in states.module if n in tensors), *(n for n in tensors if n not in states.module)]
    return {renamed: tensors[name] for name, renamed in _plain_names(place, order).items() if not HARMLESS.search(name)}


def _parts(reader: Reader, runs: list[Run]) -> Iterator[torch.Tensor]:
    return reader.pieces(runs)


def _frozen(states: States) -> dict[str, list[Run]]:
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
        found[name] = Tape(parts).runs(0, numel)
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
