"""Whether a quantized base still is the model it was, before the first step: its loss beside that of the weights in its files.

The run's first rows, a micro-batch a rank, are scored twice, as the base is held and with its own weights, which come from the files once
more, a tensor at a time. That costs a second reading of the model, and no memory beyond a tensor.
"""

from __future__ import annotations

from train.data.batch import PackedBatch
from train.data.loader import Loader
from train.engine.packed import with_own_weights
from train.engine.zero3 import Engine
from train.model_files.folder import WeightsError
from train.recipe.vocabulary import Recipe
from train.run.start_weights import BaseModel
from train.world.ranks import World

# nats a token that it may cost: SmolLM2-135M, the smallest model of use, loses 0.21 by nf4 and 0.001 by int8, and larger ones less
# (arXiv 2305.14314, table 3); weights that are unpacked wrongly cost several
MOST = {"nf4": 0.5, "int8": 0.1}


def compare(recipe: Recipe, base: BaseModel, engine: Engine, loader: Loader, world: World) -> str:
    """What quantizing costs, in words. Every rank calls it before the first step.

    Raises:
        WeightsError: on every rank, more than MOST, where the recipe does not say by model.max_start_loss what is too much.
    """
    how = recipe.model.quantize
    world.log0(f"comparing the base in {how} with the weights of its files")
    before, left_out = loader.position, loader.left_out
    batch = loader.next_step()[0].to(world.device)
    loader.seek(before, left_out)
    coarse = _loss(engine, batch, world)
    with with_own_weights(engine.model, engine.parameters, base.weights, world):
        fine = _loss(engine, batch, world)
    said = f"loss of the first rows: {coarse:.4f} nats a token in {how}, {fine:.4f} with the weights of {base.weights}"
    if not abs(coarse - fine) <= MOST[how] and not _judged_by_the_recipe(recipe):
        raise WeightsError(
            f"model.quantize={how}: {said}; more than {MOST[how]:g} apart, this model does not bear it. Take model.quantize out, "
            "or set model.max_start_loss to what its held-out loss may be, with heldout.sources"
        )
    return said


def _judged_by_the_recipe(recipe: Recipe) -> bool:
    return recipe.model.max_start_loss is not None and bool(recipe.heldout.sources)


def _loss(engine: Engine, batch: PackedBatch, world: World) -> float:
    loss, _ = engine.losses(batch)
    total, count = world.sum([float(loss), float(batch.supervised)])
    return total / max(count, 1)
