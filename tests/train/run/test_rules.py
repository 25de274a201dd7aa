"""Rules on held-out perplexity in real runs: warn, stop saved, stay stopped, go on under another rule; across resumes, rewinds, versions."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tests.made import spiky, tiny
from tests.made.ranks import run_ranks
from train.recipe.load import load
from train.recipe.rules import Rule, broken, judged_loss
from train.recipe.vocabulary import RecipeError


def runs(world, recipe_path: Path, several: list[list[str]]) -> list[tuple]:
    """(finished, step, rule, what is said) of each; a refusal's words."""
    from train.run.loop import run

    ends = []
    for words in several:
        resume = words.pop() if words[-1].startswith("/") else "auto"
        try:
            done = run(load(recipe_path, words), world, resume)
            ends.append((done.finished, done.state.step, done.rule, done.said))
        except RecipeError as error:
            ends.append(str(error))
    return ends


def lines(run: Path) -> list[dict]:
    return [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]


def perplexities(run: Path, source: str) -> dict[int, float]:
    return {line["step"]: math.exp(line[f"heldout/{source}/loss"]) for line in lines(run) if f"heldout/{source}/loss" in line}


def outcome(run: Path) -> dict:
    return json.loads((run / "outcome.json").read_text())


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Path:
    """Documents of few tokens to train on, of others to forget; an uncut run, and what it does to both."""
    folder, rng = tmp_path_factory.mktemp("rules"), np.random.default_rng(7)
    tiny.save_tiny(folder / "model")
    for name, (low, high) in {"shards": (3, 40), "heldout": (3, 40), "general": (100, 300)}.items():
        documents = [rng.integers(low, high, size=n) for n in rng.integers(20, 50, 12 if name != "shards" else 80)]
        tiny.write_shards(folder / name, folder / "model", documents)
    heldout = {
        "sources": {name: {"path": str(folder / at)} for name, at in (("astro", "heldout"), ("general", "general"))},
        "every_steps": 2,
    }
    tiny.write_recipe(
        folder, steps=12, heldout=heldout, optim={"lr": 3e-3, "kernel": "torch"}, checkpoint={"every_steps": 4, "keep_last": 9}
    )
    run_ranks(runs, 1, folder / "recipe.yaml", [["name=uncut"]])
    return folder


def limit_between(values: dict[int, float], step: int) -> float:
    """A factor that is first exceeded at a step."""
    ratios = {s: v / values[0] for s, v in values.items()}
    before = max(r for s, r in ratios.items() if s < step)
    assert before < ratios[step], ratios
    return (before + ratios[step]) / 2


@pytest.mark.slow
def test_a_broken_rule_ends_the_run_saved_stays_ended_and_another_rule_goes_on(ground):
    factor = limit_between(perplexities(ground / "runs" / "uncut", "general"), 6)
    rule, run = f"heldout.stop_if=general > {factor:.6f}x", ground / "runs" / "ruled"
    warn = f"heldout.warn_if=general > {1 + (factor - 1) / 2:.6f}x"
    free = ["name=ruled", "heldout.stop_if=general > 1000x"]
    first, again = run_ranks(runs, 2, ground / "recipe.yaml", [["name=ruled", rule, warn]] * 2)[0]
    assert first[:2] == again[:2] == (False, 6) and "general >" in first[2] and "times the" in first[3] and first[2] == again[2]
    assert outcome(run) | {"ended": "stopped", "exit_code": 10, "step": 6, "attempt": 2} == outcome(run) and outcome(run)[
        "cause"
    ].startswith("heldout.stop_if: general")
    assert sorted(p.name for p in (run / "checkpoints").glob("step_*")) == ["step_000004", "step_000006"]
    assert max(line["step"] for line in lines(run)) == 6
    assert run_ranks(runs, 1, ground / "recipe.yaml", [free])[0][0][:3] == (True, 12, "")
    assert perplexities(run, "astro") == pytest.approx(perplexities(ground / "runs" / "uncut", "astro"), rel=1e-5)


@pytest.mark.slow
def test_what_was_before_step_1_is_known_after_a_resume_elsewhere_and_of_an_older_version(ground):
    """`--resume` under another name; a checkpoint whose state does not know it, beside its metrics; and one without either."""
    factor = limit_between(perplexities(ground / "runs" / "uncut", "general"), 8)
    rule = f"heldout.stop_if=general > {factor:.6f}x"
    start = ground / "runs" / "uncut" / "checkpoints" / "step_000004"
    [elsewhere] = run_ranks(runs, 1, ground / "recipe.yaml", [["name=elsewhere", rule, str(start)]])[0]
    assert elsewhere[:2] == (False, 8)
    from train.run.metrics_log import heldout_before
    from train.run.state import TrainState

    saved = {"step": 4, "tokens": 1024, "heldout_loss": 2.0, "loader": {}}  # as an older version has it
    before = heldout_before(ground / "runs" / "uncut")
    assert {name: math.exp(loss) for name, loss in before.items()} == {
        n: perplexities(ground / "runs" / "uncut", n)[0] for n in ("astro", "general")
    }
    state = TrainState.of(saved, before)
    assert (state.step, state.heldout_before, state.heldout) == (4, before, {}) and heldout_before(ground / "nowhere") == {}
    assert state.broken(["general > 1.01x"]) == [] and TrainState.of(saved, {}).broken(["general > 1.01x"]) == []


@pytest.mark.slow
def test_a_rule_broken_before_step_1_refuses_the_run(ground):
    [said] = run_ranks(runs, 1, ground / "recipe.yaml", [["name=refused", "heldout.stop_if=general > 2"]])[0]
    assert (
        "heldout.stop_if: general > 2: perplexity" in said
        and "before step 1" in said
        and outcome(ground / "runs" / "refused")["ended"] == "failed"
    )


@pytest.mark.slow
def test_a_rewind_forgets_nothing_of_the_start(tmp_path):
    """The baseline outlives a rewind to the weights the run started with, and the rule ends it afterwards."""
    folder = spiky.ground(tmp_path, random_steps=(3, 4, 5), steps=8)
    words = ["name=back", "guard.rewind_after=3", "guard.rewind_steps=2", "heldout.every_steps=1", "checkpoint.every_steps=0"]
    words += [f"heldout.sources.a.path={folder / 'shards'}"]
    from train.recipe.load import load as loaded

    assert loaded(folder / "recipe.yaml", words).guard.max_rewinds
    run_ranks(runs, 1, folder / "recipe.yaml", [[*words]])
    made = lines(folder / "runs" / "back")
    assert [line for line in made if line.get("event") == "rewind"], "it did not go back"
    state = json.loads(next((folder / "runs" / "back" / "checkpoints").glob("step_*/state.json")).read_text())
    first = next(line for line in made if line["step"] == 0 and "heldout/a/loss" in line)
    assert state["heldout_before"] == {"a": first["heldout/a/loss"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    "text, said",
    [
        ("general < 3", "not a rule"), ("general", "not a rule"), ("> 3", "not a rule"), ("general > 5%", "not a rule"), ("general > -2", "not a rule"),
        ("general > 0.9x", "at least 1"), ("general > 0.5", "below 1"), ("general > 1e999", "no perplexity"), ("genral > 2x", "did you mean general?"),
        ("other > 2x", "there are astro, general"),
    ],
)  # fmt: skip
def test_a_rule_that_is_none_is_refused_with_place_value_and_remedy(ground, text, said):
    for key in ("stop_if", "warn_if"):
        with pytest.raises(RecipeError) as told:
            load(ground / "recipe.yaml", [f"heldout.{key}={text}"])
        [fault] = told.value.faults
        assert fault.startswith(f"heldout.{key}='{text}'") and said in fault


@pytest.mark.slow
def test_rules_are_read_alone_or_as_a_list_and_need_evaluations(ground):
    for words, rules in (
        (["heldout.stop_if=general > 1.05x"], ("general > 1.05x",)), (["heldout.stop_if=[general>1.05x, astro > 12]"], ("general>1.05x", "astro > 12")),
        (["heldout.stop_if=null"], ()), (["heldout.stop_if="], ()), (["heldout.stop_if=[]"], ()),
    ):  # fmt: skip
        assert load(ground / "recipe.yaml", words).heldout.stop_if == rules
    with pytest.raises(RecipeError, match="nothing to stop"):
        load(ground / "recipe.yaml", ["heldout.stop_if=general > 1.05x", "heldout.every_steps=0"])
    assert load(ground / "recipe.yaml", ["heldout.warn_if=general > 1.05x", "heldout.every_steps=0"]).heldout.warn_if


@pytest.mark.slow
def test_a_warning_is_said_and_a_rule_of_no_known_start_is_not_judged(ground):
    from types import SimpleNamespace

    from train.run.loop import _judged
    from train.run.state import TrainState

    recipe, said = load(ground / "recipe.yaml", ["heldout.warn_if=[general > 1.05x, astro > 20]"]), []
    started = SimpleNamespace(recipe=recipe, world=SimpleNamespace(log0=said.append))
    state = TrainState(step=4, heldout_before={"general": 2.0}).evaluated({"general": 2.1, "astro": 2.5}, recipe.heldout)
    assert _judged(started, state) is state and state.judged_loss is None and state.heldout_loss == 2.3
    assert said == ["warning: step 4  heldout.warn_if: general > 1.05x: perplexity 8.166, 1.105 times the 7.389 before step 1"]


def test_a_rule_judges_as_it_says():
    before = {"g": math.log(10.0), "a": math.log(20.0)}
    for text, now, is_broken in (
        ("g > 1.05x", 10.49, False), ("g > 1.05x", 10.51, True), ("g > 10.5", 10.49, False), ("g > 10.5", 10.51, True), ("g > 1.05 X".lower(), 9.0, False),
    ):  # fmt: skip
        assert bool(Rule.parse(text).broken_by({"g": math.log(now)}, before)) is is_broken, text
    assert broken(["g > 2x"], {"g": float("nan")}, before) and not broken(["g > 2x"], {}, before) and not broken(["g > 2x"], {"g": 9.0}, {})
    assert judged_loss({"a": 1.0, "g": 2.0}, before, ["g > 1.5x"]) == 1.0 and judged_loss({"a": 1.0, "g": 2.0}, before, []) == 1.5
    assert judged_loss({"a": 1.0, "g": 3.0}, before, ["g > 1.5x"]) is None and judged_loss({}, before, []) is None
    assert judged_loss({"g": 2.0}, before, ["g > 1.5x"]) == 2.0
