"""An adapter's first values → this rank's slices: random and zero, or those of an adapter's folder, read by byte range."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from train.engine.weights import slice_range
from train.model import lora
from train.model_files import adapter as adapter_files
from train.model_files.adapter import AdapterError
from train.model_files.header import Entry
from train.model_files.reader import read_range
from train.model_files.shapes import Described
from train.world.ranks import World


def fill(
    trained: dict[str, nn.Parameter],
    set_master: Callable[[nn.Parameter, torch.Tensor], None],
    model: Described,
    start: Path | None,
    seed: int,
    world: World,
) -> None:
    """Masters and slices of A and B, and of what is trained whole where the folder has it.

    Args:
        trained: what has masters, by name. set_master: sets a slice of padded length, and the weight that follows from it.
        model: the base. start: the folder to start from; None: A random, of the seed and each name alone, and B zero.
    Raises:
        AdapterError: on every rank, the folder does not fit the model, or holds values that are not finite.
    """
    values: dict[str, Entry] = {}
    if start is not None:
        folder = adapter_files.read(start, model)
        values |= {name: folder.entries[key] for name, key in folder.whole.items()}
        for weight, (a, b) in folder.low.items():
            module = weight.removesuffix(".weight")
            values |= {f"{module}{adapter_files.A}": folder.entries[a], f"{module}{adapter_files.B}": folder.entries[b]}
    broken: set[str] = set()
    for name, parameter in trained.items():
        world.beat.mark()
        first, stop = slice_range(parameter.ds_numel, world.rank, world.size)
        value = torch.zeros(parameter.ds_tensor.numel(), dtype=torch.float32)
        if name in values:
            for at, piece in read_range(values[name], first, stop):
                value[at - first : at - first + piece.numel()] = piece
                broken |= set() if bool(torch.isfinite(piece).all()) else {values[name].name}
        elif lora.is_adapter(name):
            value[: stop - first] = lora.start_value(name, tuple(parameter.ds_shape), seed)[first:stop]
        else:
            continue  # the base's own, loaded with it
        set_master(parameter, value)
    everywhere = sorted(set().union(*world.gather(broken)))
    if everywhere:
        raise AdapterError(
            f"{start}: not finite: {', '.join(everywhere[:5])} ({len(everywhere)} in all); take an earlier save of this adapter"
        )
