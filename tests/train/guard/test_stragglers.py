"""Who is slow, from made-up numbers, and from real ranks one of which is."""

import time

import pytest

from tests.made import tiny
from tests.made.ranks import run_ranks
from train.guard.stragglers import Stragglers, slowest


def summed(data: list[float], products: list[float]) -> dict[str, float]:
    """What the ranks' numbers add up to."""
    ranks = [Stragglers(["h"] * len(data)).mine(r, data[r], products[r]) for r in range(len(data))]
    return {key: sum(r[key] for r in ranks) for key in ranks[0]}


def test_the_slowest_is_the_rank_that_costs_most_whatever_makes_it_slow():
    assert slowest([0, 0, 0, 0], [1, 1, 1.5, 1], 3.0).rank == 2 and slowest([0, 0, 0, 0], [1, 1, 1.5, 1], 3.0).cost == pytest.approx(1 / 3)
    found = slowest([0.1, 0.1, 0.1, 0.7], [1, 1, 1.05, 1], 3.0)
    assert found.rank == 3 and found.cost == pytest.approx(0.2) and "waits 0.70 s for its data" in found.why
    assert slowest([0, 0], [1, 2], 3.0).rank == 1 and slowest([0, 0], [1, 2], 3.0).cost == 0.5
    assert slowest([0.5], [2.0], 3.0).cost == 0 and slowest([0, 0], [0, 0], 0.0).cost == 0


def test_a_slow_rank_is_named_with_its_host_after_several_steps_and_not_at_every_step():
    stragglers = Stragglers(["a", "b"])
    slow, well = summed([0, 0], [1, 1.5]), summed([0, 0], [1, 1.05])
    said = [stragglers.note(slow if step != 3 else well, 1.0)[1] for step in range(1, 120)]
    told = [step for step, line in enumerate(said, 1) if line]
    assert (
        told == [8, 108]
        and said[7] == "rank 1 on b is slow: its matrix products take 1.5 times the median rank's; it costs up to 33% of a step"
    )


def slowed(world, recipe_path) -> list[str]:
    import torch

    from train.recipe.load import load
    from train.run.loop import run

    if world.rank == 1:

        def sleep(module, inputs, output):
            if isinstance(module, torch.nn.Linear) and module.training and type(output) is torch.Tensor and not output.is_meta:
                time.sleep(0.004)

        torch.nn.modules.module.register_module_forward_hook(sleep)
    said = []
    object.__setattr__(world, "log0", lambda *lines, **_: said.append(lines[0]))
    run(load(recipe_path), world)
    return said


@pytest.mark.slow
def test_a_rank_whose_matrix_products_are_slow_is_named_and_the_run_accounts_for_its_time(tmp_path):
    import json

    tiny.ground(tmp_path)
    tiny.write_recipe(tmp_path, steps=9, checkpoint={"every_steps": 4})
    said, _ = run_ranks(slowed, 2, tmp_path / "recipe.yaml")
    assert [line for line in said if "rank 1 on " in line and "its matrix products take" in line]
    lines = [json.loads(text) for text in (tmp_path / "runs" / "tiny" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["slowest_rank"] for line in steps[3:]] == [1] * 6 and all(line["slowest_cost"] > 0.3 for line in steps[3:])
    account = json.loads((tmp_path / "runs" / "tiny" / "goodput.json").read_text())
    assert account["seconds"]["useful"] == pytest.approx(sum(line["seconds"] * (1 - line["data_wait_share"]) for line in steps), rel=0.2)
    assert account["goodput"] == pytest.approx(account["seconds"]["useful"] / sum(account["seconds"].values()))
    assert account["seconds"]["evaluation"] > 0 and account["seconds"]["saving"] > 0 and account["seconds"]["start"] > 0
