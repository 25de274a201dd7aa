"""A stop in each phase of a run: where the save is made, what is cut, what the next start goes on with."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.made import tiny
from tests.made.ranks import run_ranks

pytestmark = pytest.mark.slow


def stopped_in(world, recipe_path: Path, phase: str, words: list[str], after_step: int = 2) -> tuple[bool, int, str, str]:
    """A run of which rank 1 gets a SIGUSR1 in that phase, or is at its time limit: (finished, step, what is said, newest checkpoint)."""
    from train.guard import signals
    from train.guard.limits import Limits
    from train.recipe.load import load
    from train.run.loop import run

    signals.LOOK_SECONDS = 0.05
    over = threading.Event()
    world.beat.at_step(0)  # the run before stood elsewhere

    at = "forward" if phase == "limit" else phase

    def send() -> None:
        while not over.is_set() and not (world.beat.now == at and world.beat.step >= after_step):
            time.sleep(0.0002)
        if phase == "limit":
            stops.limits = Limits(ends=(("guard.minutes=9", time.monotonic() + 1),))
        elif not over.is_set():
            os.kill(os.getpid(), signal.SIGUSR1)

    with signals.Stops() as stops:
        if world.rank == 1 and phase:
            threading.Thread(target=send, daemon=True).start()
        outcome = run(load(recipe_path, words), world, stops=stops)
        over.set()
    said = outcome.said.partition("; goodput")[0]  # by each rank's own clock
    return outcome.finished, outcome.state.step, said, Path(outcome.checkpoint).name


def stops(world, recipe_path: Path) -> dict[str, tuple]:
    answers = ['heldout.prompts=["a star", "a galaxy"]', "heldout.prompt_tokens=300"]
    last = ["steps=3", "schedule.warmup_steps=1", "name=last"]
    return {
        "evaluation": stopped_in(world, recipe_path, "evaluation", ["name=evaluation", "heldout.every_steps=2", *answers]),
        "saving": stopped_in(world, recipe_path, "saving", ["name=saving"]),
        "forward": stopped_in(world, recipe_path, "forward", ["name=forward"]),
        "behind": stopped_in(world, recipe_path, "forward", ["name=behind", "checkpoint.background=true"]),
        "last": stopped_in(world, recipe_path, "evaluation", [*last, *answers], after_step=3),
        "last again": stopped_in(world, recipe_path, "", last),
        "minutes": stopped_in(world, recipe_path, "limit", ["name=minutes", "checkpoint.every_steps=0"]),
    }


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> tuple[Path, dict[str, tuple]]:
    folder = tiny.ground(tmp_path_factory.mktemp("stops"))
    tiny.write_recipe(folder, steps=99999, checkpoint={"every_steps": 2})
    first, second = run_ranks(stops, 2, folder / "recipe.yaml")
    alike = [{k: (*end[:2], end[2].split("; goodput")[0], end[3]) for k, end in ends.items()} for ends in (first, second)]
    assert alike[0] == alike[1], "all ranks end alike"
    return folder, first


def lines_of(ground: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (ground / "runs" / name / "metrics.jsonl").read_text().splitlines()]


def test_a_stop_cuts_an_evaluation_and_saves_its_step(stopped):
    ground, ends = stopped
    finished, step, said, checkpoint = ends["evaluation"]
    assert not finished and step == 2 and checkpoint == "step_000002"
    assert said.startswith("stopped at step 2 of 99999 by SIGUSR1 (rank 1), saved") and "the same command goes on from there" in said
    assert not [r for r in lines_of(ground, "evaluation") if "heldout/a/loss" in r and r["step"] == 2], "half an evaluation is none"


def test_a_stop_within_a_save_ends_with_that_save(stopped):
    _, ends = stopped
    assert ends["saving"][:2] == (False, 2) and ends["saving"][3] == "step_000002"


def test_a_stop_within_a_step_ends_after_it_with_a_save_in_the_foreground_and_behind_the_steps(stopped):
    _, ends = stopped
    for name in ("forward", "behind"):
        finished, step, _, checkpoint = ends[name]
        assert not finished and checkpoint == f"step_{step:06d}" and step < 99999


def test_a_last_evaluation_that_was_cut_is_made_by_the_next_start(stopped):
    ground, ends = stopped
    assert ends["last"][:2] == (False, 3)
    assert ends["last again"][:2] == (True, 3) and ends["last again"][2].startswith("done: 3 steps")
    assert [r["step"] for r in lines_of(ground, "last") if "heldout/a/loss" in r] == [0, 3]
    assert (ground / "runs" / "last" / "checkpoints" / "step_000003" / "trainer" / "probe.safetensors").is_file()


def test_a_run_ends_saved_within_its_minutes(stopped):
    ground, ends = stopped
    finished, step, said, checkpoint = ends["minutes"]
    assert not finished and checkpoint == f"step_{step:06d}" and "by guard.minutes=9 (rank 1), saved" in said
    assert json.loads((ground / "runs" / "minutes" / "outcome.json").read_text())["cause"] == "guard.minutes=9 (rank 1)"
