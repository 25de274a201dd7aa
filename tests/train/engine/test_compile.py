"""Compiled layers under real ZeRO-3: how many graphs, none of them broken, and the losses and norms of eager."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest

from tests.made import tiny
from tests.made.ranks import run_ranks
from tests.train.engine.test_step import recipe_for
from train.recipe.vocabulary import Adapter, Recipe

pytestmark = pytest.mark.slow

ROW, BATCHES = 192, 14


def asking(folder: Path, **model) -> Recipe:
    recipe = recipe_for(folder)
    return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, **model))


def batches_of_all_lengths(rank: int) -> list:
    """One to fourteen documents a row, the longest of another length in each; a rank's own."""
    rng = np.random.default_rng(rank)
    found = []
    for count in rng.permutation(np.arange(1, BATCHES + 1)):
        cuts = np.sort(rng.choice(np.arange(2, ROW - 2), size=count, replace=False))
        found.append(tiny.pack_by_hand(tiny.random_documents(rng, np.diff([0, *cuts]).tolist()), ROW))
    assert len({b.max_seqlen for b in found}) > BATCHES / 2 and len({len(b.cu_seqlens) for b in found}) == BATCHES
    return found


def without_code_generation() -> None:
    """torch.compile as it is but for the C++ that it would write, which takes its compiler a minute."""
    import torch

    torch.compile = functools.partial(torch.compile, backend="aot_eager")


def fourteen_steps(world, recipe: Recipe) -> tuple[list, dict, dict]:
    """Losses and norms with an evaluation between, and what Dynamo counted."""
    from torch._dynamo.utils import counters

    from train.engine import step
    from train.engine.zero3 import start

    without_code_generation()
    engine, _, said = start(recipe, world, Path(recipe.model.path), 1)
    assert ("layers: compiled" in said) == recipe.model.compile
    numbers = []
    for number, batch in enumerate(batches_of_all_lengths(world.rank)):
        engine.set_lr(1e-3)
        if number in (0, 7):
            engine.losses(batch)
            engine.logits(tiny.pack_by_hand([np.arange(3, 9 + number)], 6 + number))
        totals = step.take(engine, [batch, batch], ["a"], world)
        numbers.append((totals.loss, totals.grad_norm))
    return numbers, dict(counters["stats"]), dict(counters["graph_break"])


@pytest.mark.parametrize("checkpointing", ["none", "full", "selective"])
def test_fourteen_batches_of_different_lengths_take_one_graph_and_give_the_losses_of_eager(checkpointing, tmp_path):
    folder = tiny.save_tiny(tmp_path / "model", num_hidden_layers=3)
    eager, counted, _ = run_ranks(fourteen_steps, 2, asking(folder, activation_checkpointing="none"))[0]
    assert not counted.get("unique_graphs")
    for numbers, counted, breaks in run_ranks(fourteen_steps, 2, asking(folder, compile=True, activation_checkpointing=checkpointing)):
        assert 1 <= counted["unique_graphs"] <= 2 and not breaks, (counted, breaks)
        assert np.allclose(numbers, eager, rtol=1e-6, atol=0), np.abs(np.subtract(numbers, eager)).max()
    assert eager[-1][0] < eager[0][0]


@pytest.mark.soak
@pytest.mark.parametrize("checkpointing", ["none", "full", "selective"])
def test_an_adapter_is_compiled_with_its_layers(checkpointing, tmp_path):
    folder = tiny.save_tiny(tmp_path / "model", num_hidden_layers=3)

    def adapted(**model) -> Recipe:
        return dataclasses.replace(asking(folder, **model), adapter=Adapter(rank=4, train_also=("norms",)))

    eager, counted, _ = run_ranks(fourteen_steps, 2, adapted(activation_checkpointing="none"))[0]
    assert not counted.get("unique_graphs")
    for numbers, counted, breaks in run_ranks(fourteen_steps, 2, adapted(compile=True, activation_checkpointing=checkpointing)):
        assert 1 <= counted["unique_graphs"] <= 2 and not breaks, (counted, breaks)
        assert np.allclose(numbers, eager, rtol=1e-6, atol=0), np.abs(np.subtract(numbers, eager)).max()
    assert eager[-1][0] < eager[0][0]


def met_the_limit(world, recipe: Recipe) -> str:
    import torch._dynamo

    from train.engine import step
    from train.engine.zero3 import start
    from train.model_files.folder import ModelError

    without_code_generation()
    torch._dynamo.config.recompile_limit = 2
    engine, _, _ = start(recipe, world, Path(recipe.model.path), 1)
    rng = np.random.default_rng(0)
    try:
        for scale in (1.0, 2.0, 3.0, 4.0):  # a number of the layers that a graph takes for settled
            for layer in engine.model.hf.base_model.layers:
                layer.self_attn.scaling = scale
            step.take(engine, [tiny.pack_by_hand(tiny.random_documents(rng, [20, 30]), ROW)], ["a"], world)
    except ModelError as error:
        return str(error)
    return "went on"


def test_a_run_that_meets_the_recompile_limit_says_so_and_why(tmp_path):
    folder = tiny.save_tiny(tmp_path / "model", num_hidden_layers=1)
    [said] = run_ranks(met_the_limit, 1, asking(folder, compile=True))
    assert "has compiled LlamaDecoderLayer as often as it may (2 times)" in said and "scaling" in said and "set model.compile=false" in said
