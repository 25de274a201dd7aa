"""The files of one DeepSpeed tag, and what its model states say: names, shapes, frozen values, shared parameters, buffers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.foreign.deepspeed.masters import DsFolderError, Shapes
from train.foreign.torch_save.file import StoredTensor, read_torch_file

_MODEL = re.compile(r"(?:zero_pp_rank_(?P<rank>\d+)_)?mp_rank_(?P<mp>\d+)_model_states\.pt")
_OPTIM = re.compile(r"(?:bf16_|fp16_)?zero_pp_rank_(?P<rank>\d+)_mp_rank_(?P<mp>\d+)_optim_states\.pt")


def is_states_file(name: str) -> bool:
    """Whether a file's name is one DeepSpeed gives to model or optimizer states."""
    return bool(_MODEL.fullmatch(name) or _OPTIM.fullmatch(name))


@dataclass(frozen=True)
class TagFiles:
    models: list[Path]  # by rank; a single mp_rank_00 file for stages 0 to 2
    optims: list[Path]  # by rank


def list_files(place: Path) -> TagFiles:
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
    return TagFiles(shared or [found["model"][r] for r in sorted(found["model"])], [found["optim"][r] for r in sorted(found["optim"])])


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


def read_states(place: Path, files: TagFiles) -> States:
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
