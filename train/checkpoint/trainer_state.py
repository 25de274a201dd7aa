"""fp32 masters and Adam's moments on disk: flat slices a rank owned, read back at any world size.

trainer/rank_00000_of_00002.safetensors   `master/NAME`, `exp_avg/NAME`, `exp_avg_sq/NAME`, without padding
trainer/index.json                        world size, Adam's step, elements of each parameter
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from train.checkpoint.find import ResumeError
from train.checkpoint.layout import FORMAT, MASTER, MOMENTS, TRAINER_INDEX, rank_file
from train.engine import weights
from train.engine.zero3 import Engine
from train.model_files import adapter
from train.model_files.dtypes import FP32, known
from train.model_files.folder import WeightFile, plan_files
from train.model_files.header import Entry, read_header
from train.model_files.reader import read_range
from train.model_files.writer import Shapes, Writer
from train.world.places import as_os_errors
from train.world.ranks import World


@dataclass(frozen=True)
class Slices:
    """This rank's part of what a checkpoint holds, live in the engine or copied aside."""

    shapes: dict[str, tuple[int, ...]]  # of the whole parameters, in model order
    dtype: torch.dtype  # of the weights
    adam_step: int
    weight: Callable[[str], torch.Tensor]  # name → (padded slice,) in dtype
    state: Callable[[str, str], torch.Tensor]  # key, name → (padded slice,) fp32
    stored: dict[str, str] | None = None  # of an adapter: name in its one file → parameter; None: a model's files, by its parameters' names

    def files(self, ranks: int) -> list[WeightFile]:
        """Which file holds which weights, and the rank that writes it."""
        if self.stored is not None:
            return [WeightFile(adapter.WEIGHTS, 0, tuple(self.stored))]
        return plan_files(self.numels, self.dtype.itemsize, ranks)

    def parameter(self, name: str) -> str:
        """What stands in a file under a name."""
        return name if self.stored is None else self.stored[name]

    def entries(self, file: WeightFile) -> Shapes:
        return {name: (known(self.dtype), self.shapes[self.parameter(name)]) for name in file.tensors}

    @property
    def numels(self) -> dict[str, int]:
        return {n: torch.Size(s).numel() for n, s in self.shapes.items()}

    @property
    def keys(self) -> tuple[str, ...]:
        """What there is to save; Adam has no moments before its first update."""
        return (MASTER, *MOMENTS) if self.adam_step > 0 else (MASTER,)


def live(engine: Engine) -> Slices:
    """Slices read from the engine when they are asked for."""
    parameters = engine.trained

    def state(key: str, name: str) -> torch.Tensor:
        p = parameters[name]
        return (engine.get_master(p) if key == MASTER else engine.get_moment(p, key)).reshape(-1)

    whole = engine.stored is not None  # an adapter is written as its masters are: it is small, and is added to the base in fp32
    return Slices(
        {n: tuple(p.ds_shape) for n, p in parameters.items()},
        torch.float32 if whole else next(iter(parameters.values())).ds_tensor.dtype,
        engine.adam_step,
        lambda name: state(MASTER, name) if whole else parameters[name].ds_tensor.detach(),
        state,
        engine.stored,
    )


def own_shapes(slices: Slices, world: World) -> Shapes:
    """Entries of this rank's file, in the order they are written."""
    own = {n: b - a for n, numel in slices.numels.items() for a, b in [weights.slice_range(numel, world.rank, world.size)]}
    return {f"{key}/{n}": (FP32, (count,)) for n, count in own.items() for key in slices.keys}


def save(slices: Slices, folder: Path, world: World) -> dict[str, tuple[int, str]]:
    """Write this rank's file, a slice at a time; returns {file: (bytes, sha256)}."""
    shapes, file = own_shapes(slices, world), rank_file(world.rank, world.size)
    with as_os_errors(folder / file):
        writer = Writer(folder / file, shapes)
        for entry, (_, (count,)) in shapes.items():
            key, _, name = entry.partition("/")
            writer.stream(entry, [slices.state(key, name)[:count].float()])
        return {file: writer.close()}


def index_text(slices: Slices, size: int) -> str:
    content = {"format": FORMAT, "world_size": size, "adam_step": slices.adam_step, "parameters": slices.numels}
    return json.dumps(content) + "\n"


def load(engine: Engine, folder: Path, world: World) -> None:
    """Masters and moments into this rank's slices, from however many ranks wrote them.

    Raises:
        ResumeError: weights only, or another model.
    """
    if not (folder / TRAINER_INDEX).is_file():
        key = "adapter.path" if adapter.is_adapter(folder) else "model.path"
        raise ResumeError(
            f"{folder}: holds weights but no trainer state (checkpoint.trainer_state was false); use it as {key} of a new run"
        )
    index = json.loads((folder / TRAINER_INDEX).read_text())
    mine = {n: p.ds_numel for n, p in engine.trained.items()}
    if index["parameters"] != mine:
        other = sorted(set(index["parameters"].items()) ^ set(mine.items()))[:3]
        raise ResumeError(f"{folder}/{TRAINER_INDEX}: of another model (differs in {other})")
    size = index["world_size"]
    ranks = [read_header(folder / rank_file(r, size)) for r in range(size)]
    if index["adam_step"] > 0 or engine.adam_step > 0:
        engine.create_adam_state(index["adam_step"])
    engine.release()
    for name, p in engine.trained.items():
        world.beat.mark()
        for key in (MASTER, *MOMENTS) if index["adam_step"] > 0 else (MASTER,):
            entries = [r[f"{key}/{name}"] for r in ranks]
            value = _slice_from(entries, p.ds_numel, weights.slice_range(p.ds_numel, world.rank, world.size), p.ds_tensor.numel())
            if key == MASTER:
                engine.set_master(p, value)
            else:
                engine.set_moment(p, key, value.to(engine.get_moment(p, key).device))


def _slice_from(entries: list[Entry], numel: int, wanted: tuple[int, int], padded: int) -> torch.Tensor:
    """(padded,) fp32: the elements [wanted) of a parameter whose slices lie in one entry a writing rank."""
    value = torch.zeros(padded, dtype=torch.float32)
    for rank, entry in enumerate(entries):
        have = weights.slice_range(numel, rank, len(entries))
        first, stop = max(wanted[0], have[0]), min(wanted[1], have[1])
        if first < stop:
            for at, piece in read_range(entry, first - have[0], stop - have[0]):
                start = at + have[0] - wanted[0]
                value[start : start + piece.numel()] = piece
    return value
