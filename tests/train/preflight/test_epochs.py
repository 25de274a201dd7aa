"""A length in epochs: passes counted on the very documents that the run is given."""

from collections import Counter

import numpy as np
import pytest

from launch import pretrain, sft
from tests.made import tiny
from tests.made.ranks import run_ranks
from train.data.loader import Loader
from train.preflight.epochs import data_settings, settled
from train.recipe.load import load
from train.recipe.vocabulary import RecipeError


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    folder = tiny.ground(tmp_path_factory.mktemp("epochs"))
    rng = np.random.default_rng(2)
    tiny.write_shards(folder / "small", folder / "model", tiny.random_documents(rng, rng.integers(2, 50, 20).tolist()), source="b")
    return folder


def recipe(ground, *words, sources=None, **data):
    data |= {"sources": sources or {"a": {"path": str(ground / "shards")}}, "seq_len": 64}
    return load(tiny.write_recipe(ground, steps=None, data=data), words)


def seen(recipe, steps: int) -> dict[str, Counter]:
    """Of each source: how often each document was in the steps."""
    from data_tools.shards.reader import Shards

    opened = {name: Shards.open(source.path) for name, source in recipe.data.sources.items()}
    loader = Loader(opened, data_settings(recipe))
    found = {name: Counter({s.id(i): 0 for i in range(len(s))}) for name, s in opened.items()}
    for _ in range(steps):
        loader.next_step()
        for source, document, start, stop in loader.step_documents():
            found[source][document] += stop - start
    loader.close()
    return {name: Counter({s.id(i): found[name][s.id(i)] / int(s.lengths[i]) for i in range(len(s))}) for name, s in opened.items()}


@pytest.mark.parametrize("packing", ["split", "whole"])
@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_without_weights_every_document_is_seen_as_often_and_a_step_less_is_not_enough(ground, packing, epochs):
    both = {"a": {"path": str(ground / "shards")}, "b": {"path": str(ground / "small")}}
    run, said = settled(recipe(ground, f"epochs={epochs}", packing=packing, sources=both), "x.yaml")
    assert run.epochs is None and f"{run.steps} steps" in said and "over all documents" in said
    assert min(min(times.values()) for times in seen(run, run.steps).values()) >= epochs
    assert min(min(times.values()) for times in seen(run, run.steps - 1).values()) < epochs


@pytest.mark.parametrize("packing", ["split", "whole"])
@pytest.mark.parametrize("limit", [None, 1.5])
def test_with_weights_passes_over_the_weightiest_source_count_whatever_the_others_do(ground, packing, limit):
    both = {"b": {"path": str(ground / "small"), "weight": 0.3, "max_repeats": limit}, "a": {"path": str(ground / "shards"), "weight": 0.7}}
    run, said = settled(recipe(ground, "epochs=2", "tokens_per_step=64", packing=packing, sources=both), "x.yaml")
    assert "2 passes over a " in said
    times = seen(run, run.steps)
    small, main = times["b"], times["a"]
    assert 1.9 < sum(main.values()) / len(main) < 2.1
    assert (
        max(small.values()) <= 2 if limit else max(small.values()) > 2
    )  # it is the scarcer one: 0.3 / 0.7 of a's tokens are several passes


@pytest.mark.parametrize("packing", ["split", "whole"])
def test_as_many_passes_as_max_repeats_allows_are_a_run_that_starts(ground, packing):
    source = {"a": {"path": str(ground / "shards"), "max_repeats": 2}}
    run, _ = settled(recipe(ground, "epochs=2", packing=packing, sources=source), "x.yaml")
    assert pretrain.main([str(ground / "recipe.yaml"), "epochs=2", "--dry-run"]) == 0
    times = seen(run, run.steps)["a"]
    assert 1.8 < sum(times.values()) / len(times) <= 2 and max(times.values()) <= 2


def test_steps_of_an_epoch_depend_on_shards_and_batch_alone(ground):
    one, _ = settled(recipe(ground, "epochs=1.5"), "x.yaml")
    assert settled(recipe(ground, "epochs=1.5", "micro_batch=4", "data.workers=2"), "x.yaml")[0].steps == one.steps
    assert settled(recipe(ground, "epochs=3"), "x.yaml")[0].steps == pytest.approx(2 * one.steps, abs=1)
    assert settled(recipe(ground, "steps=7"), "x.yaml") == (recipe(ground, "steps=7"), "")


def test_more_epochs_than_are_planned_are_counted_by_the_first(ground):
    one, many = (settled(recipe(ground, f"epochs={n}"), "x.yaml")[0].steps for n in (1, 500))
    assert many == pytest.approx(500 * one, rel=0.1)


def test_mistakes_are_named(ground):
    def fault(*words: str, **more) -> str:
        with pytest.raises(RecipeError) as error:
            settled(recipe(ground, *words, **more), "x.yaml")
        return str(error.value)

    a, b = {"path": str(ground / "shards")}, {"path": str(ground / "small")}
    assert "steps=3, epochs=2: give the run's length once" in fault("epochs=2", "steps=3")
    assert "no length: give" in fault()
    assert "epochs=0" in fault("epochs=0") and "above 0" in fault("epochs=-1")
    assert "a, b have the same weight" in fault("epochs=2", sources={"a": a | {"weight": 1}, "b": b | {"weight": 1}})
    assert "max_repeats" in fault("epochs=2", sources={"a": a | {"weight": 1, "max_repeats": 1.5}, "b": b | {"weight": 0.5}})
    assert "used up" in fault("epochs=4", sources={"a": a | {"max_repeats": 2}})
    assert "x.yaml, epochs=1" in (said := fault("epochs=1", "schedule.warmup_steps=500")) and "leaves nothing of the run's" in said


def test_the_command_line_replaces_the_files_length_in_whichever_unit(ground):
    path = tiny.write_recipe(ground, steps=5)
    assert load(path, ["epochs=2"]).steps is None and load(path, ["epochs=2"]).epochs == 2
    path = tiny.write_recipe(ground, steps=None, epochs=2)
    assert load(path, ["tokens=1e6"]).epochs is None


def test_a_dry_run_tells_the_steps_or_that_the_shards_are_not_here(ground, capsys):
    path = tiny.write_recipe(ground, steps=None, epochs=1.5)
    assert pretrain.main([str(path), "--dry-run"]) == 0
    said = capsys.readouterr().out
    steps = settled(load(path), "")[0].steps
    assert "epochs=1.5: 1.5 passes over a = " in said and ["steps", str(steps)] in [line.split() for line in said.splitlines()]
    for door in (pretrain, sft):
        words = ["data.packing=whole", "heldout.sources={}", "--dry-run"] if door is sft else ["--dry-run"]
        assert door.main([str(path), "data.sources.a.path=nowhere", *words]) == 0
        said = capsys.readouterr().out
        assert "not known yet: 1.5 passes over a" in said and "epochs=1.5: its steps are known when the shards" in said


def test_a_run_without_its_shards_names_them(ground, capsys):
    path = tiny.write_recipe(ground, steps=None, epochs=1)
    assert pretrain.main([str(path), "data.sources.a.path=nowhere"]) == 1
    assert "nowhere" in capsys.readouterr().err


def twice(world, path: str) -> tuple[int, int, int]:
    return pretrain.main([path, "epochs=1"]), pretrain.main([path, "epochs=1"]), pretrain.main([path, "epochs=2"])


@pytest.mark.slow
def test_a_run_of_an_epoch_is_recorded_in_steps_and_gone_on_with_by_the_same_command(ground):
    path = tiny.write_recipe(ground, name="once", steps=None)
    steps = settled(load(path, ["epochs=1"]), "")[0].steps
    assert run_ranks(twice, 1, str(path)) == [(0, 0, 1)]
    assert load(ground / "runs" / "once" / "recipe.yaml").steps == steps
