"""What ZeRO-3 gathers in a step, by counting at DeepSpeed's own call: each weight once, whatever was evaluated in between."""

import numpy as np
import pytest

from tests.made import tiny
from tests.made.ranks import run_ranks
from tests.train.engine.test_step import cut, recipe_for, unequal_rows

pytestmark = pytest.mark.slow


def gathered_elements(engine) -> list[int]:
    """A list that grows by the elements of every gather from now on."""
    coordinator = engine._zero.parameter_offload.get_param_coordinator()
    name, seen = "_PartitionedParameterCoordinator__all_gather_params_", []
    gather = getattr(coordinator, name)

    def counted(params, *args, **kwargs):
        seen.append(sum(p.ds_numel for p in params if p.ds_status.name == "NOT_AVAILABLE"))
        return gather(params, *args, **kwargs)

    setattr(coordinator, name, counted)
    return seen


def steps_with_evaluations_between(world, folder, rows: list, masks: list) -> tuple[list[int], list[float], int]:
    from train.engine import step
    from train.engine.zero3 import start

    engine, _, _ = start(recipe_for(folder), world, folder, 1)
    engine.set_lr(1e-3)
    gathered, counts, losses = gathered_elements(engine), [], []
    one = cut(rows[: world.size], masks[: world.size], world, 1)
    for number in range(8):
        if number in (0, 4):
            for _ in range(3):
                engine.losses(one[0])
            engine.logits(one[0])
        gathered.clear()
        losses.append(step.take(engine, one, ["a"], world).loss)
        counts.append(sum(gathered))
    return counts, losses, engine.total_parameters


def test_a_small_model_is_gathered_once_a_step_before_and_after_evaluations(tmp_path):
    folder = tiny.save_tiny(tmp_path / "model", num_hidden_layers=3, hidden_size=192, intermediate_size=384)
    rows, masks = unequal_rows(np.random.default_rng(11))
    counts, losses, parameters = run_ranks(steps_with_evaluations_between, 2, folder, rows, masks)[0]
    assert counts[0] > 1.5 * parameters, "the first step records in which order weights are wanted, and gathers them twice"
    assert all(count <= parameters for count in counts[1:]), (counts, parameters)
    assert min(counts[1:]) > 0.9 * parameters, "nearly all of it is cut among the ranks"
    assert losses[-1] < losses[0] - 1, "and weights gathered ahead are those of the step"
