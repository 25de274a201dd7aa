"""Where a DeepSpeed run's trained values lie: each parameter's fp32 masters as byte ranges in the ranks' optimizer files.

Stages 1 and 2: a parameter group is one flat vector cut into equal partitions, parameters end to end (each followed by its
alignment padding where there is one); the vector's end may be padded. Stage 3: each rank holds ceil(numel / ranks) elements of
every parameter, one after the other, over its sub-groups. (Facts of DeepSpeed's utils/zero_to_fp32.py; moments are never read.)
"""

from __future__ import annotations

import bisect
import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.foreign.torch_save.file import Foreign, StoredTensor, read_torch_file
from train.model_files.stream import Extent, RangeReader

Shapes = dict[str, tuple[int, ...]]
_STAGES = {"disabled": 0, "optimizer_states": 1, "gradients": 2, "weights": 3}  # names of DeepSpeed's ZeroStageEnum


class DsFolderError(ValueError):
    """A DeepSpeed checkpoint that is incomplete, contradictory, or of a kind not read; nothing was made of it."""


@dataclass(frozen=True)
class Partition:
    """What one rank's optimizer file says of the masters."""

    file: Path
    stage: int
    ranks: int  # how many partitions there are
    groups: list[StoredTensor]
    paddings: list[list[int]] | None  # per group and parameter, stages 1 and 2 of newer versions
    step: float | None


class Tape:
    """Tensors laid end to end as one vector."""

    def __init__(self, tensors: list[StoredTensor]):
        self.tensors = tensors
        self.ends = list(itertools.accumulate(t.numel for t in tensors))
        self.numel = self.ends[-1] if tensors else 0

    def extents(self, first: int, stop: int) -> list[Extent]:
        """The elements [first, stop) as byte ranges."""
        found, i = [], bisect.bisect_right(self.ends, first)
        while first < stop:
            begin = self.ends[i] - self.tensors[i].numel
            end = min(stop, self.ends[i])
            if end > first:
                found.append(self.tensors[i].extent(first - begin, end - begin))
            first, i = end, i + 1
        return found


def read_partition(path: Path, home: Path, reader: RangeReader) -> Partition:
    """One rank's optimizer file.

    Raises:
        DsFolderError, TorchFileError: damaged, or not an optimizer file of ZeRO.
    """
    contents = read_torch_file(path, home)
    state = contents.get("optimizer_state_dict") if isinstance(contents, dict) else None
    if not isinstance(state, dict):
        raise DsFolderError(f"{path}: holds no optimizer_state_dict; not a ZeRO optimizer file, fetch it again")
    stage = _stage(path, state.get("zero_stage"))
    key = "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"
    groups, ranks = state.get(key), state.get("partition_count")
    counts = ranks if isinstance(ranks, list) and ranks else [ranks]
    if not isinstance(groups, list) or any(not isinstance(g, StoredTensor) or len(g.shape) != 1 for g in groups):
        raise DsFolderError(f"{path}: holds no {key}; the masters are elsewhere (swapped to NVMe?), save again with them in memory")
    if any(type(n) is not int or n != counts[0] or n < 1 for n in counts):
        raise DsFolderError(f"{path}: partition_count is {ranks}; groups with different numbers of ranks (experts) are not read")
    paddings = state.get("param_alignment_paddings")
    if paddings is not None and not (isinstance(paddings, list) and all(_whole_numbers(p) for p in paddings)):
        raise DsFolderError(f"{path}: param_alignment_paddings not understood; fetch the file again")
    return Partition(path, stage, counts[0], groups, paddings, _step(state, reader))


def place_of(shapes: list[Shapes], partitions: list[Partition]) -> dict[str, list[Extent]]:
    """Each trained parameter's masters.

    Args:
        shapes: per group, in saved order. partitions: by rank.
    Raises:
        DsFolderError: ranks that contradict each other, or numbers that do not add up.
    """
    first = partitions[0]
    for rank, part in enumerate(partitions):
        if part.ranks != len(partitions) or part.stage != first.stage:
            raise DsFolderError(
                f"{part.file}: says stage {part.stage} on {part.ranks} ranks, {len(partitions)} ranks' files of stage {first.stage} are here;"
                " files of two runs are mixed or some are missing: copy the folder again"
            )
        if part.step != first.step:
            raise DsFolderError(
                f"{part.file}: is of optimizer step {part.step:g}, {first.file.name} of {first.step:g}; files of two saves are mixed: copy one tag again"
                if part.step is not None and first.step is not None
                else f"{part.file}: has another optimizer state than {first.file.name}; files of two saves are mixed: copy one tag again"
            )
        if len(part.groups) != len(first.groups) or part.paddings != first.paddings:
            raise DsFolderError(f"{part.file}: has other parameter groups than {first.file.name}; files of two runs are mixed: copy again")
        if {g.dtype for g in part.groups} - {g.dtype for g in first.groups} or any(not g.dtype.is_floating_point for g in part.groups):
            raise DsFolderError(
                f"{part.file}: masters are {part.groups[0].dtype}, rank 0's {first.groups[0].dtype}; rank {rank} is of another run"
            )
    return _sliced(shapes, partitions) if first.stage == 3 else _flat(shapes, partitions)


def _sliced(shapes: list[Shapes], partitions: list[Partition]) -> dict[str, list[Extent]]:
    tapes, size = [Tape(p.groups) for p in partitions], len(partitions)
    flat = {name: shape for group in shapes for name, shape in group.items()}
    each = {name: -(-math.prod(shape) // size) for name, shape in flat.items()}
    wanted = sum(each.values())
    for part, tape in zip(partitions, tapes, strict=True):
        if tape.numel != wanted:
            raise DsFolderError(
                f"{part.file}: holds {tape.numel} master values, the parameters' shapes want {wanted}; files of two runs are mixed"
            )
    found, offset = {}, 0
    for name, shape in flat.items():
        extents, left = [], math.prod(shape)
        for tape in tapes:
            here = min(each[name], left)
            extents += tape.extents(offset, offset + here)
            left -= here
        found[name] = extents
        offset += each[name]
    return found


def _flat(shapes: list[Shapes], partitions: list[Partition]) -> dict[str, list[Extent]]:
    first, size = partitions[0], len(partitions)
    if len(shapes) != len(first.groups) or (first.paddings is not None and [len(p) for p in first.paddings] != [len(s) for s in shapes]):
        raise DsFolderError(
            f"{first.file}: has {len(first.groups)} parameter groups, the model states {len(shapes)}; files of two runs are mixed"
        )
    found = {}
    for i, group in enumerate(shapes):
        tape, offset = Tape([p.groups[i] for p in partitions]), 0
        places = []
        for j, (name, shape) in enumerate(group.items()):
            places.append((name, offset, offset + math.prod(shape)))
            offset += math.prod(shape) + (first.paddings[i][j] if first.paddings is not None else 0)
        # the vector is padded to a multiple of 2 x ranks, and only the last rank's padding is taken off again
        align = 2 * size
        if places and (places[-1][2] > tape.numel or -(-offset // align) != -(-tape.numel // align)):
            raise DsFolderError(
                f"{first.file}: parameter group {i} has {tape.numel} master values over {size} ranks, its parameters want {offset};"
                " files of two runs are mixed: copy one tag again"
            )
        for name, begin, end in places:
            found[name] = tape.extents(begin, end)
    return found


def _stage(path: Path, value: Any) -> int:
    """The stage: a number, an enum's stand-in, or nothing (the bf16 optimizer of stage 1)."""
    if isinstance(value, Foreign) and len(value.args) == 1:
        value = _STAGES.get(value.args[0], value.args[0]) if isinstance(value.args[0], (str, int)) else None
    stage = 1 if value is None else value
    if type(stage) is not int or stage not in (1, 2, 3):
        raise DsFolderError(f"{path}: ZeRO stage {str(value)[:40]} is not one of 1, 2, 3")
    return stage


def _step(state: dict, reader: RangeReader) -> float | None:
    """The optimizer's step, whichever of the places it is kept in; None where it is not."""
    if isinstance(state.get("base_optimizer_state_step"), (int, float)):
        return float(state["base_optimizer_state_step"])
    inner = state.get("base_optimizer_state", state.get("optimizer_state_dict"))
    if isinstance(inner, dict):
        states, groups = inner.get("state"), inner.get("param_groups")
        entries = [*(states.values() if isinstance(states, dict) else []), *(groups if isinstance(groups, list) else [])]
    else:
        entries = inner if isinstance(inner, list) else []
    for entry in entries:
        step = entry.get("step") if isinstance(entry, dict) else None
        if isinstance(step, StoredTensor) and step.numel == 1:
            return float(next(reader.parts([step.extent(0, 1)]))[0])
        if type(step) in (int, float):
            return float(step)
    return None


def _whole_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(type(n) is int and n >= 0 for n in values)
