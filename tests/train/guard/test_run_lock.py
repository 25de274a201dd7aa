"""One folder, one run."""

from pathlib import Path

import pytest

from tests.made import tiny
from tests.made.ranks import run_ranks
from tests.train.run.test_loop import refused


def two_at_once(world, recipe_path: Path) -> tuple[str, str]:
    """A run while its name is held, and again when it is free."""
    from train.guard import run_lock
    from train.recipe.load import load

    held = run_lock.take(load(recipe_path, ["name=once"]).run_dir, world)
    first = refused(world, recipe_path, ["name=once"])
    world.barrier()
    seen = [run_lock.is_held(load(recipe_path, ["name=once"]).run_dir)]
    world.barrier()
    if held:
        held.close()
    world.barrier()
    seen += [run_lock.is_held(load(recipe_path, ["name=once"]).run_dir), run_lock.is_held(load(recipe_path, ["name=never"]).run_dir)]
    world.barrier()
    return seen, first, refused(world, recipe_path, ["name=once", "steps=1", "schedule.warmup_steps=0"])


@pytest.mark.slow
def test_a_second_run_of_the_same_name_is_refused_while_the_first_one_lives(tmp_path):
    ground = tiny.ground(tmp_path)
    for seen, first, second in run_ranks(two_at_once, 2, ground / "recipe.yaml"):
        assert seen == [True, False, False]
        assert "trains under this name now" in first and "process" in first
        assert second == "went on"
