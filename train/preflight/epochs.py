"""A run's length in epochs → in steps, as the plans of its rows have it.

An epoch is one pass over the source with the largest weight, while the others are read in proportion; without weights it is every
document once. A source that `max_repeats` has used up gives its share to the others. The last step is filled from the next pass.
The steps follow from shards, weights, packing and batch alone, so that a resumed run has the same.
"""

from __future__ import annotations

import dataclasses

from data_tools.shards.reader import Shards
from train.data.mixture import MixtureError, SourceSpec
from train.data.plans import DataSettings, Plans
from train.recipe.checks import cross_faults
from train.recipe.vocabulary import Recipe, RecipeError


def settled(recipe: Recipe, where: str) -> tuple[Recipe, str]:
    """The recipe with its length in steps, and what was settled in words; one whose length is not in epochs as it stands.

    Raises:
        ShardError: shards that are not here, or damaged.
        RecipeError: the sources give fewer passes, or what the recipe says does not go with so many steps.
    """
    if recipe.epochs is None:
        return recipe, ""
    plans = Plans([Shards.open(source.path, verify="size") for source in recipe.data.sources.values()], data_settings(recipe))
    try:
        rows = plans.rows_of_passes(recipe.epochs)
        steps = _steps(plans, rows, recipe)
    except MixtureError as error:
        raise RecipeError(where, [str(error)]) from None
    finally:
        plans.close()
    known = dataclasses.replace(recipe, epochs=None, steps=steps)
    if faults := cross_faults(known, ()):
        raise RecipeError(f"{where}, epochs={recipe.epochs:g}", faults)
    return known, f"epochs={recipe.epochs:g}: {passes(recipe)} = {rows:,} rows = {steps:,} steps"


def _steps(plans: Plans, rows: int, recipe: Recipe) -> int:
    """Whole steps: the last is filled from the next pass, or left out where `max_repeats` allows no more."""
    steps = -(-rows // recipe.rows_per_step)
    while steps > 1:
        try:
            plans.require_tokens(steps * recipe.tokens_per_step)
            break
        except MixtureError:
            steps -= 1
    return max(1, steps)


def passes(recipe: Recipe) -> str:
    """`2 passes over astro`."""
    named = max(recipe.data.sources.items(), key=lambda item: item[1].weight or 0)
    over = named[0] if named[1].weight is not None or len(recipe.data.sources) == 1 else "all documents"
    return f"{recipe.epochs:g} pass{'es' * (recipe.epochs != 1)} over {over}"


def data_settings(recipe: Recipe) -> DataSettings:
    """How the recipe's documents become rows and rows become steps."""
    d = recipe.data
    return DataSettings(
        specs=[SourceSpec(n, s.weight, s.max_repeats) for n, s in d.sources.items()], seq_len=d.seq_len, packing=d.packing, long_documents=d.long_documents,
        seed=d.seed, rows_per_step=recipe.rows_per_step, micro_batch_rows=recipe.micro_batch, workers=d.workers,
    )  # fmt: skip
