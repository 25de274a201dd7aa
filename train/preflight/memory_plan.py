"""Whether a run fits its machines, before anything is allocated.

1. memory_items.py adds up what one rank holds: at load, in a step, in a save;
2. train/world/machine.py asks the machine what there is;
3. `require` compares, on every rank alike: it returns the plan in lines, or refuses with what would make the run fit.

A run is refused for what is sure alone, and warned of what may be.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from train.preflight.memory_items import PHASES, Plan, Shape, plan
from train.recipe.vocabulary import Recipe
from train.world.machine import FreeBytes, what_there_is

SMALL = 1 << 20  # not worth a line
REMEDIES: tuple[dict[str, Any], ...] = (
    {"model.activation_checkpointing": "full"},
    {"micro_batch": 1},
    {"model.activation_checkpointing": "full", "micro_batch": 1},
    {"deepspeed": "ds_configs/zero3.json"},
    {"deepspeed": "ds_configs/zero3.json", "model.activation_checkpointing": "full"},
    {"model.quantize": "int8"},
    {"model.quantize": "nf4"},
    {"model.quantize": "nf4", "model.activation_checkpointing": "full", "micro_batch": 1},
    {"deepspeed": "ds_configs/zero3_offload_optimizer.json"},
    {"deepspeed": "ds_configs/zero3_offload_optimizer.json", "model.activation_checkpointing": "full", "micro_batch": 1},
    {"deepspeed": "ds_configs/zero3_offload_all.json", "model.activation_checkpointing": "full", "micro_batch": 1},
)


class MemoryPlanError(ValueError):
    """A run that cannot fit: what it needs, what there is, what would make it fit."""


def lines(p: Plan, shape: Shape) -> list[str]:
    """The plan as a table, one line an item."""
    trained = f", {shape.trained:,} of them and of its adapter trained," if shape.frozen else ""
    text = [f"memory plan for {shape.parameters:,} parameters{trained} over {p.ranks} ranks, {p.local_ranks} a node"]
    for where in ("device", "host"):
        if not any(i.where == where for i in p.items):
            continue
        for i in p.items:
            if i.where == where and i.nbytes >= SMALL:
                text.append(f"  {where:<6} {i.when:<6} {_gib(i.nbytes):>11}  {'' if i.sure else 'up to: '}{i.what}")
        phases = [f"{w} {_span(p.need(where, w), p.need(where, w, sure=False))}" for w in PHASES]
        node = f"; a node {_gib(p.local_ranks * p.need(where, sure=False))}" if where == "host" else ""
        text.append(f"  {where:<6} a rank: {', '.join(phases)}{node}")
    text.append(
        f"  disk   checkpoint {p.checkpoint_bytes / 1e9:.2f} GB, up to {p.checkpoints} at once {p.checkpoints * p.checkpoint_bytes / 1e9:.2f} GB"
    )
    return text


def is_item(line: str) -> bool:
    """Whether it tells of one thing that is held: for the log, where the screen shows the sums."""
    return any(line.startswith(f"  {where:<6} {when:<6} ") for where in ("device", "host") for when in ("held", *PHASES))


def _span(low: float, high: float) -> str:
    return _gib(high) if high - low < SMALL else f"{_gib(low)} to {_gib(high)}"


def _gib(nbytes: float) -> str:
    return f"{nbytes / 2**30:.2f} GiB" if nbytes >= 2**30 else f"{nbytes / 2**20:.1f} MiB"


# -- does it fit ------------------------------------------------------------------------------------------------------


def require(recipe: Recipe, shape: Shape, world: Any) -> list[str]:
    """The plan's lines, to be printed before anything is allocated; every rank calls it, all return or raise alike.

    Args:
        world: train.world.ranks.World, connected.
    Raises:
        MemoryPlanError: it cannot fit.
    """
    from train.engine.deepspeed_json import merged_config

    on_cuda = world.device.type == "cuda"
    p = plan(recipe, shape, world.size, world.local_size, merged_config(recipe, world.size, on_cuda)["zero_optimization"], on_cuda)
    there = FreeBytes.least(world.gather(what_there_is(world.device, recipe.runs)))
    if recipe.checkpoint.to:  # not on this disk
        there = dataclasses.replace(there, disk=math.inf)
    if faults := short_of(p, there):
        raise MemoryPlanError(refusal(recipe, shape, p, there, on_cuda, faults))
    return [*lines(p, shape), *(f"  may not fit: {w}" for w in short_of(p, there, sure=False))]


def short_of(p: Plan, there: FreeBytes, sure: bool = True) -> list[str]:
    """What does not fit, in words."""
    found = []
    if there.device is not None and (need := p.need("device", sure=sure)) > there.device:
        found.append(f"a rank needs {_gib(need)} on its device, there are {_gib(there.device)}")
    if (need := p.local_ranks * p.need("host", sure=sure)) > there.host:
        found.append(f"a node's {p.local_ranks} ranks need {_gib(need)} of main memory, there are {_gib(there.host)}")
    if sure and p.checkpoint_bytes > there.disk:
        found.append(f"one checkpoint takes {p.checkpoint_bytes / 1e9:.2f} GB, the disk has {there.disk / 1e9:.2f} GB free")
    if not sure and p.checkpoints * p.checkpoint_bytes > there.disk:
        found.append(
            f"{p.checkpoints} checkpoints take {p.checkpoints * p.checkpoint_bytes / 1e9:.2f} GB, the disk has {there.disk / 1e9:.2f} GB free"
            "; lower checkpoint.keep_last or keep_every"
        )
    return found


def refusal(recipe: Recipe, shape: Shape, p: Plan, there: FreeBytes, on_cuda: bool, faults: list[str]) -> str:
    """One message: what is needed, what there is, what would make it fit."""
    text = [f"{recipe.name}: {shape.parameters:,} parameters over {p.ranks} ranks do not fit", *(f"  - {f}" for f in faults)]
    text += [f"      {_gib(i.nbytes):>11}  {i.where}, {i.when}: {i.what}" for i in sorted(p.items, key=lambda i: -i.nbytes)[:5] if i.sure]
    fits = list(what_would_fit(recipe, shape, p, there, on_cuda))
    if p.checkpoint_bytes > there.disk:
        text.append(f"free {(p.checkpoint_bytes - there.disk) / 1e9:.2f} GB, or put runs= on a larger disk")
    elif fits:
        text += ["what would fit:", *(f"  - {f}" for f in fits)]
    else:
        text.append("nothing this trainer has makes it fit on such machines; take a smaller model or larger ones")
    return "\n".join(text)


def what_would_fit(
    recipe: Recipe, shape: Shape, p: Plan, there: FreeBytes, on_cuda: bool, judged: Callable[[Plan], bool] = lambda p: True
) -> Iterator[str]:
    """Changes, each of which is enough: in the recipe, then in the number of ranks. judged: whether a plan that fits by what is sure will do."""
    from train.engine.deepspeed_json import merged_config

    def fits(candidate: Recipe, ranks: int) -> bool:
        zero = merged_config(candidate, ranks, on_cuda)["zero_optimization"]
        candidates = plan(candidate, shape, ranks, p.local_ranks, zero, on_cuda)
        return not short_of(candidates, there) and judged(candidates)

    enough: list[dict[str, Any]] = []
    for change in REMEDIES:
        if "deepspeed" in change and (not on_cuda or recipe.optim.kernel not in ("auto", "cpu")):
            continue
        if (
            change.get("deepspeed") == str(recipe.deepspeed)
            or change.get("deepspeed", "").endswith("/zero3.json")
            and "offload" not in str(recipe.deepspeed)
        ):
            continue
        if "model.quantize" in change and recipe.adapter is None:
            continue
        if any(e.items() <= change.items() for e in enough):
            continue  # less is enough
        if fits(_changed(recipe, change), p.ranks):
            enough.append(change)
            yield " ".join(f"{k}={v}" for k, v in change.items())
    for nodes in range(p.ranks // p.local_ranks + 1, 1025):
        if fits(recipe, nodes * p.local_ranks):
            yield f"{nodes * p.local_ranks} ranks on {nodes} nodes like these, the recipe as it is"
            return


def _changed(recipe: Recipe, change: dict[str, Any]) -> Recipe:
    model = {k.removeprefix("model."): v for k, v in change.items() if k.startswith("model.")}
    top = {k: Path(v) if k == "deepspeed" else v for k, v in change.items() if "." not in k}
    return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, **model), **top)
