"""checkpoint.background: the same bytes as in the foreground, behind the steps; errors surface; one at a time."""

import contextlib
import errno
import io
import time
from pathlib import Path

import pytest

from tests.made import tiny
from tests.made.failing_disk import FailingDisk, fails_with
from tests.made.ranks import run_ranks
from tests.train.checkpoint.test_save_faults import content_of
from tests.train.run.test_loop import checkpoint_of, losses_of, one_run
from train.checkpoint import folder as checkpoint
from train.checkpoint.manifest import faults_of

pytestmark = pytest.mark.slow

STEPS = 4


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Path:
    folder = tiny.ground(tmp_path_factory.mktemp("background"))
    tiny.write_recipe(folder, steps=STEPS, checkpoint={"every_steps": 1, "keep_last": 9})
    return folder


def slow(world, recipe_path: Path, overrides: list[str], owner: type, name: str, seconds: float) -> str:
    """A run with slow writing or slow copying; what rank 0 said."""
    original = getattr(owner, name)

    def slowly(*args):
        time.sleep(seconds)
        return original(*args)

    setattr(owner, name, slowly)
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            one_run(world, recipe_path, overrides)
    finally:
        setattr(owner, name, original)
    return said.getvalue()


def all_runs(world, recipe: Path) -> dict[str, str]:
    from train.checkpoint.saver import HostCopy
    from train.model_files.writer import Writer

    here, there = "checkpoint.background=false", "checkpoint.background=true"
    one_run(world, recipe, ["name=fore", here])
    one_run(world, recipe, ["name=behind", there])
    one_run(world, recipe, ["name=fore16", here, "model.dtype=bf16"])
    one_run(world, recipe, ["name=behind16", there, "model.dtype=bf16"])
    one_run(world, recipe, ["name=light", there, "checkpoint.trainer_state=false"])
    return {
        # 63 slices: a copy takes far longer than the forward and backward beside it
        "copying": slow(world, recipe, ["name=slow_copy", there], HostCopy, "_copy", 0.02),
        "writing": slow(world, recipe, ["name=slow_write", there], Writer, "_put", 0.05),
    }


@pytest.fixture(scope="module")
def said(ground) -> dict[str, str]:
    return run_ranks(all_runs, 2, ground / "recipe.yaml")[0]


@pytest.mark.parametrize(("one", "other"), [("fore", "behind"), ("fore16", "behind16"), ("fore", "slow_copy"), ("fore", "slow_write")])
def test_a_save_behind_the_steps_writes_the_same_bytes(ground, said, one, other):
    for step in range(1, STEPS + 1):
        folder = checkpoint_of(ground, step, other)
        assert faults_of(folder) == []
        assert len(content_of(folder)) >= 3 and content_of(folder) == content_of(checkpoint_of(ground, step, one))
    assert losses_of(ground / "runs" / one) == losses_of(ground / "runs" / other)


def test_weights_alone_are_saved_behind_the_steps_too(ground, said):
    name = "model-00001-of-00001.safetensors"
    assert (checkpoint_of(ground, 2, "light") / name).read_bytes() == (checkpoint_of(ground, 2, "fore") / name).read_bytes()
    assert not (checkpoint_of(ground, 2, "light") / "trainer" / "index.json").exists()


def test_steps_go_on_while_a_save_is_written_and_saves_wait_for_each_other(said):
    timed = [line.split(" ", 2)[2] for line in said["writing"].splitlines()]
    lines = [line for line in timed if line.startswith("step ")]
    step_2, saved_1 = (next(i for i, line in enumerate(lines) if line.startswith(start)) for start in ("step 2/", "step 1  checkpoint"))
    assert step_2 < saved_1, "the step after a save did not wait for it"
    ended = [line.split()[1] for line in lines if "  checkpoint " in line]
    assert ended == ["1", "2", "3", "4"] and "behind the steps" in said["writing"]


def failing(world, recipe: Path, run: str) -> str:
    root = recipe.parent / "runs" / run / "checkpoints"
    with FailingDisk(root, 150 if world.rank == 1 else None, fails_with(errno.EIO)):
        try:
            one_run(world, recipe, [f"name={run}", "checkpoint.background=true", "steps=40"])
        except checkpoint.CheckpointError as error:
            return str(error)
    return "went on"


def test_an_error_behind_the_steps_is_raised_on_every_rank_and_harms_no_checkpoint(ground):
    for said in run_ranks(failing, 2, ground / "recipe.yaml", "failing"):
        assert "the checkpoint was not written: rank 1: Input/output error" in said
    root = ground / "runs" / "failing" / "checkpoints"  # when both ranks have ended: the one may be told before the other has cleared away
    steps = sorted(root.glob("step_*"))
    assert not [*(f for p in steps for f in faults_of(p)), *root.glob("*.tmp-*")]
    assert steps and len(losses_of(ground / "runs" / "failing")) <= len(steps) + 3, "soon after it happened"
