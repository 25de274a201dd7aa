"""R5, R20: what a damaged, half-written or killed checkpoint does; what is kept and what is deleted."""

import contextlib
import io
import json
import random
import shutil
from pathlib import Path

import pytest
import torch

from tests.made import tiny
from tests.made.ranks import run_ranks
from tests.train.run.test_loop import checkpoint_of, losses_of, many_refused, one_run, refused
from train.checkpoint import find
from train.checkpoint import folder as checkpoint
from train.checkpoint.manifest import faults_of
from train.checkpoint.retention import Keep, RetentionError, retain, to_delete
from train.world import places
from train.world.ranks import World

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Path:
    folder = tiny.ground(tmp_path_factory.mktemp("checkpoint"))
    tiny.write_recipe(folder, steps=6, checkpoint={"every_steps": 2, "keep_last": 9})
    run_ranks(one_run, 2, folder / "recipe.yaml", ["name=uncut"])
    return folder


def files_of(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[random.Random(len(data)).randrange(len(data))] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "one bit": flip,
    "cut short": lambda p: p.write_bytes(p.read_bytes()[:-1]),
    "zeros": lambda p: p.write_bytes(bytes(p.stat().st_size)),
    "longer": lambda p: p.write_bytes(p.read_bytes() + b"\0"),
    "deleted": lambda p: p.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_any_file_of_a_checkpoint_is_found_and_named(ground, tmp_path, damage):
    original = checkpoint_of(ground, 4)
    names = files_of(original)
    assert len(names) >= 7 and any("rank_00001_of_00002" in n for n in names)
    assert faults_of(original) == []
    for name in names:
        copy = tmp_path / "step_000004"
        shutil.copytree(original, copy)
        DAMAGES[damage](copy / name)
        found = faults_of(copy)
        assert found and all(f.startswith(name + ":") for f in found), (name, found)
        shutil.rmtree(copy)


def test_every_file_exchanged_with_that_of_another_step_is_found_and_named(ground, tmp_path):
    exchanged = 0
    for name in files_of(checkpoint_of(ground, 4)):
        copy, other = tmp_path / "step_000004", checkpoint_of(ground, 6) / name
        shutil.copytree(checkpoint_of(ground, 4), copy)
        if other.exists() and other.read_bytes() != (copy / name).read_bytes():
            shutil.copy(other, copy / name)
            found = faults_of(copy)
            assert found and found[0].startswith(name + ":"), (name, found)
            exchanged += 1
        shutil.rmtree(copy)
    assert exchanged >= 5, "weights, two ranks' slices, state and manifest differ between steps"


def test_a_file_from_another_step_a_foreign_file_and_a_link_are_found(ground, tmp_path):
    copy = tmp_path / "step_000004"
    rank = "trainer/rank_00001_of_00002.safetensors"
    shutil.copytree(checkpoint_of(ground, 4), copy)
    shutil.copy(checkpoint_of(ground, 6) / rank, copy / rank)
    assert [f.split(":")[0] for f in faults_of(copy)] == [rank]
    shutil.copy(checkpoint_of(ground, 4) / rank, copy / rank)
    shutil.copy(copy / rank, copy / "model-extra.safetensors")
    assert faults_of(copy) == ["model-extra.safetensors: not in the manifest"]
    (copy / "model-extra.safetensors").unlink()
    (copy / rank).unlink()
    (copy / rank).symlink_to(checkpoint_of(ground, 4) / rank)
    assert "a link" in faults_of(copy)[0]
    copy.rename(tmp_path / "step_000009")
    assert "of step 4, in folder step_000009" in faults_of(tmp_path / "step_000009")[0]


ALONE = World(0, 1, 0, torch.device("cpu"))


def test_a_complete_checkpoint_moved_aside_by_a_save_that_died_is_found_again(ground, tmp_path):
    for step in (2, 4):
        shutil.copytree(checkpoint_of(ground, step), tmp_path / f"step_{step:06d}")
    (tmp_path / "step_000004").rename(tmp_path / "step_000004.tmp-replaced")
    assert find.find(tmp_path, "auto", ALONE) == tmp_path / "step_000004"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_000002", "step_000004"]


def test_nothing_is_deleted_when_the_newest_checkpoint_does_not_verify(ground, tmp_path):
    for step in (2, 4, 6):
        shutil.copytree(checkpoint_of(ground, step), tmp_path / f"step_{step:06d}")
    newest = tmp_path / "step_000006"
    flip(newest / "trainer" / "rank_00000_of_00002.safetensors")
    with pytest.raises(RetentionError, match="step_000006: does not verify after it was written .* no older checkpoint was deleted"):
        retain(tmp_path, Keep(1, 0, 0), newest, ALONE)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_000002", "step_000004", "step_000006"]
    shutil.copy(checkpoint_of(ground, 6) / "trainer" / "rank_00000_of_00002.safetensors", newest / "trainer")
    assert retain(tmp_path, Keep(1, 0, 0), newest, ALONE) == [2, 4] and [p.name for p in tmp_path.iterdir()] == ["step_000006"]


def run_and_listen(world, recipe_path: Path, overrides: list[str]) -> tuple[str, str]:
    """What became of a run, and what it said."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        outcome = refused(world, recipe_path, overrides)
    return outcome, said.getvalue()


def test_resume_falls_back_to_the_newest_that_verifies_and_says_what_it_skipped(ground):
    run = ground / "runs" / "fallback"
    shutil.copytree(ground / "runs" / "uncut", run)
    flip(run / "checkpoints" / "step_000006" / "trainer" / "rank_00000_of_00002.safetensors")
    (run / "checkpoints" / "step_000004" / "manifest.json").unlink()
    (first, log), (second, silent) = run_ranks(run_and_listen, 2, ground / "recipe.yaml", ["name=fallback"])
    assert first == second == "went on" and silent == "", "one process talks"
    assert "checkpoint of step 6 skipped: trainer/rank_00000_of_00002.safetensors: its content has changed" in log
    assert "checkpoint of step 4 skipped: manifest.json: missing, the save was never finished" in log
    assert "resumed from" in log and "step_000002" in log
    assert losses_of(run) == losses_of(ground / "runs" / "uncut")
    assert faults_of(run / "checkpoints" / "step_000006") == []


def test_a_run_whose_checkpoints_are_all_damaged_is_not_started_over(ground):
    run = ground / "runs" / "all-bad"
    shutil.copytree(ground / "runs" / "uncut", run)
    for folder in (run / "checkpoints").glob("step_*"):
        flip(folder / "state.json")
    for [said] in run_ranks(many_refused, 2, ground / "recipe.yaml", [(["name=all-bad"], "auto")]):
        assert "none of its 3 checkpoints verifies" in said


def test_a_checkpoint_that_cannot_fit_is_refused_before_a_byte_is_written(ground, monkeypatch):
    usage = shutil.disk_usage(ground)
    monkeypatch.setattr(places.shutil, "disk_usage", lambda p: usage._replace(free=1000))
    with pytest.raises(OSError, match="a checkpoint takes 1.16 GB"):
        checkpoint.require_space(ground, 1_158_912_000)


@pytest.mark.parametrize(
    ("steps", "rules", "gone"),
    [
        ({1: None, 2: None, 3: None}, (2, 0, 0), [1]),
        ({10: 3.0, 20: 2.0, 30: 2.5, 40: 2.6}, (1, 0, 1), [10, 30]),
        ({10: 3.0, 20: 2.0, 30: 2.5, 40: 2.6}, (1, 20, 0), [10, 30]),
        ({10: float("nan"), 20: 5.0, 30: None}, (1, 0, 1), [10]),
        ({5: 1.0}, (1, 0, 1), []),
    ],
)
def test_retention_keeps_the_last_the_regular_and_the_best(steps, rules, gone):
    assert to_delete(steps, Keep(*rules)) == gone


@pytest.mark.parametrize(("every", "margin", "most"), [(2, 3, 3), (10, 3, 2), (1, 5, 3)])
def test_one_checkpoint_known_to_be_good_stays_and_one_that_may_come_to_be(every, margin, most):
    there: set[int] = set()
    for step in range(every, 60, every):
        there.add(step)
        there -= set(to_delete(dict.fromkeys(there), Keep(1, 0, 0), step - margin))
        good = [s for s in there if s <= step - margin]
        assert step in there and len(there) <= most
        assert len(good) == 1 and step - margin - max(good) <= max(every, margin) + every or step <= margin + every


def test_old_checkpoints_are_deleted_by_the_recipes_rule(ground):
    overrides = [
        "name=kept",
        "steps=6",
        "checkpoint.every_steps=1",
        "checkpoint.keep_last=1",
        "checkpoint.keep_every=3",
        "checkpoint.keep_best=0",
    ]
    run_ranks(one_run, 2, ground / "recipe.yaml", overrides)
    left = sorted(p.name for p in (ground / "runs" / "kept" / "checkpoints").iterdir())
    assert left == ["latest", "step_000003", "step_000006"]
    assert (ground / "runs" / "kept" / "checkpoints" / "latest").read_text() == "step_000006\n"


def test_nothing_in_a_checkpoint_is_pickle_and_state_is_plain_json(ground):
    folder = checkpoint_of(ground, 6)
    assert {p.suffix for p in folder.rglob("*") if p.is_file()} <= {".json", ".safetensors", ".jinja", ".model", ".txt"}
    state = json.loads((folder / "state.json").read_text())
    assert state["step"] == 6 and set(state["loader"]) == {"version", "epoch", "next_row", "plan_fingerprint", "left_out"}
