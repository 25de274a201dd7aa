"""The spike ladder in real runs: shards whose rows spike, or are not finite; skip, rewind, stop; killed, resumed, replayed."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.made import spiky
from tests.made.failing_disk import FailingDisk, dies
from tests.made.ranks import RankFailed, run_ranks

pytestmark = pytest.mark.slow

STEPS = 16
# steps 10 to 12 spike and send the run back to step 6, whose next rows are those of step 13; so the rows of step 20 come in step 14
SPIKING = (10, 11, 12, 20)
LEFT_OUT = [[0, 24, 48]]


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Path:
    folder = spiky.ground(tmp_path_factory.mktemp("spikes"), random_steps=SPIKING, logging={"tensorboard": True})
    run_ranks(runs, 2, folder / "recipe.yaml", [["name=two"]])
    return folder


def runs(world, recipe_path: Path, overrides: list[list[str]], marked: bool = False) -> list[str]:
    """What each run ended with."""
    from train.guard.spikes import SpikeError
    from train.recipe.load import load
    from train.run.loop import run

    if marked:
        spiky.marks_are_not_finite()
    ends = []
    for words in overrides:
        try:
            ends.append(f"finished: {run(load(recipe_path, words), world).finished}")
        except SpikeError as error:
            ends.append(str(error))
    return ends


def lines(run: Path) -> list[dict]:
    return [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]


def steps(run: Path) -> dict[int, dict]:
    found = {line["step"]: line for line in lines(run) if "loss" in line}
    assert list(found) == list(range(1, len(found) + 1)), "one line a step, in order"
    return found


def weights(run: Path, step: int = STEPS) -> dict[str, bytes]:
    folder = run / "checkpoints" / f"step_{step:06d}"
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.safetensors")}


def test_the_run_skips_goes_back_leaves_rows_out_and_says_so(ground):
    run = ground / "runs" / "two"
    assert {step: line["why"] for step, line in steps(run).items() if line["skipped"]}.keys() == {14}
    [rewind] = [line for line in lines(run) if line.get("event") == "rewind"]
    assert (rewind["step"], rewind["from_step"], rewind["skipped_in_a_row"], rewind["left_out"]) == (6, 12, 3, LEFT_OUT)
    written = json.loads((run / "rewinds" / "0001.json").read_text())
    assert [line["step"] for line in written["taken_back"] if "loss" in line] == list(range(7, 13))
    assert [line["step"] for line in written["taken_back"] if line.get("skipped")] == [10, 11, 12]
    order = spiky.row_documents()
    assert written["documents"] == [f"a/a-{document}" for document in order[36:48]]
    state = json.loads((run / "checkpoints" / "step_000016" / "state.json").read_text())
    assert state["loader"]["next_row"] == 4 * (STEPS + 6) and state["loader"]["left_out"] == LEFT_OUT and state["guard"]["rewinds"] == 1


def test_curves_are_clean_after_a_rewind(ground):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = ground / "runs" / "two"
    board = EventAccumulator(str(run / "tensorboard"), {"scalars": 0})
    board.Reload()
    curve = [(event.step, event.value) for event in board.Scalars("train/loss")]
    assert curve == [(step, pytest.approx(line["loss"])) for step, line in steps(run).items()]


def test_decisions_are_the_same_at_any_number_of_ranks_and_a_replay_has_the_same_weights_bit_for_bit(ground):
    two = ground / "runs" / "two"
    replay = ["name=replay", f"guard.replay={two / 'metrics.jsonl'}", "guard.spike_zscore=null", "guard.max_rewinds=0"]
    assert run_ranks(runs, 2, ground / "recipe.yaml", [replay]) == [["finished: True"]] * 2
    assert weights(ground / "runs" / "replay") == weights(two)
    assert not (ground / "runs" / "replay" / "rewinds").exists()
    background = ["name=one", "checkpoint.background=true"]
    assert run_ranks(runs, 1, ground / "recipe.yaml", [background]) == [["finished: True"]]
    decisions = [
        [(line["step"], line["left_out"] if "event" in line else line["skipped"]) for line in lines(ground / "runs" / n)]
        for n in ("one", "two")
    ]
    assert decisions[0] == decisions[1]
    for step, line in steps(two).items():
        assert steps(ground / "runs" / "one")[step]["loss"] == pytest.approx(line["loss"], rel=1e-5)


class RunDisk(FailingDisk):
    """Counts what is done to checkpoints and rewinds: how often other files are written depends on the clock."""

    def _tick(self, path: str):
        if "/checkpoints/" in path or "/rewinds" in path:
            super()._tick(path)


def counted(world, recipe_path: Path, words: list[str], run: Path) -> list[str]:
    """Each thing rank 0 does to the checkpoints and rewinds of a run, in order."""
    seen: list[str] = []

    class Noting(RunDisk):
        def _tick(self, path: str):
            before = self.count
            super()._tick(path)
            if self.count > before:
                seen.append(path)

    with Noting(run):
        runs(world, recipe_path, [words])
    return seen


def killed(world, recipe_path: Path, words: list[str], run: Path, point: int) -> None:
    with RunDisk(run, point, dies()):
        runs(world, recipe_path, [words])


def asked_to_stop(world, recipe_path: Path, words: list[str], step: int) -> list[str]:
    """SIGTERM comes in the midst of a step."""
    import torch

    looked_up = []

    def count(module, inputs, output):
        if isinstance(module, torch.nn.Embedding) and module.training and type(inputs[0]) is torch.Tensor and torch.is_grad_enabled():
            looked_up.append(1)
            if len(looked_up) == (step - 1) * spiky.ROWS + 1:
                os.kill(os.getpid(), signal.SIGTERM)

    torch.nn.modules.module.register_module_forward_hook(count)
    return runs(world, recipe_path, [words])


EVERY = "checkpoint.every_steps=1"


def points(ground: Path) -> tuple[Path, dict[str, int]]:
    """Where in a run's dealings with its files the rewind begins and ends."""
    run = ground / "runs" / "counted"
    if not run.exists():
        [seen] = run_ranks(counted, 1, ground / "recipe.yaml", ["name=counted", EVERY], run)
        (ground / "seen.json").write_text(json.dumps(seen))
    seen = json.loads((ground / "seen.json").read_text())
    first = next(k for k, path in enumerate(seen, 1) if "/rewinds" in path)
    eleven = max(k for k, path in enumerate(seen[:first], 1) if "step_000011" in path)
    end = next(k for k, path in enumerate(seen, 1) if k > first and "step_000007" in path and "tmp-deleted" not in path and ".tmp-" in path)
    return run, {"in the midst of the spike": eleven, "before": first - 1, "first": first, "end": end + 4}


def killed_and_resumed(ground: Path, name: str, point: int) -> Path:
    run = ground / "runs" / name
    shutil.rmtree(run, ignore_errors=True)
    with pytest.raises(RankFailed):
        run_ranks(killed, 1, ground / "recipe.yaml", [f"name={name}", EVERY], run, point)
    assert run_ranks(runs, 1, ground / "recipe.yaml", [[f"name={name}", EVERY]]) == [["finished: True"]]
    return run


def same(run: Path, uncut: Path) -> None:
    assert weights(run) == weights(uncut)
    told = [
        [{k: line.get(k) for k in ("step", "loss", "grad_norm", "event", "left_out", "skipped")} for line in lines(r)] for r in (run, uncut)
    ]
    assert sorted(told[0], key=str) == sorted(told[1], key=str)
    assert {p.name for p in (run / "rewinds").iterdir()} == {"0001.json"}


@pytest.mark.parametrize("when", ["in the midst of the spike", "first", "a moment later"])
def test_a_run_killed_around_its_rewind_ends_as_if_it_had_not_been(ground, when):
    uncut, at = points(ground)
    point = at["first"] + 4 if when == "a moment later" else at[when]
    same(killed_and_resumed(ground, "killed", point), uncut)


@pytest.mark.soak
def test_a_run_killed_at_any_point_of_its_rewind_ends_as_if_it_had_not_been(ground):
    uncut, at = points(ground)
    tried = range(at["in the midst of the spike"], at["end"])
    assert len(tried) > 15
    for point in tried:
        same(killed_and_resumed(ground, "killed", point), uncut)


def test_a_stop_at_the_last_spike_saves_and_the_next_start_goes_back(ground):
    uncut, _ = points(ground)
    name = "stopped"
    words = [f"name={name}", EVERY]
    [[said]] = run_ranks(asked_to_stop, 1, ground / "recipe.yaml", words, 12)
    assert said == "finished: False" and (ground / "runs" / name / "checkpoints" / "step_000012").is_dir()
    assert run_ranks(runs, 1, ground / "recipe.yaml", [words]) == [["finished: True"]]
    same(ground / "runs" / name, uncut)


def test_steps_that_are_not_finite_send_the_run_back_too_to_its_first_weights_if_need_be_and_one_rewind_too_many_stops_it(tmp_path):
    guard = {"rewind_after": 3, "rewind_steps": 1, "max_rewinds": 1}
    folder = spiky.ground(tmp_path, marked_steps=(5, 6, 7), steps=8, guard=guard)
    all_runs = [
        ["name=back"], ["name=anew", "guard.rewind_steps=5"],
        ["name=replay", f"guard.replay={folder / 'runs' / 'anew' / 'metrics.jsonl'}", "guard.max_rewinds=0"],
        ["name=on", "guard.max_rewinds=0"], ["name=end", "guard.max_rewinds=0", "guard.max_nonfinite_in_a_row=3"], ["name=twice", "guard.rewind_after=1"],
    ]  # fmt: skip
    said, same_words = run_ranks(runs, 2, folder / "recipe.yaml", all_runs, True)
    assert said == same_words and said[:4] == ["finished: True"] * 4
    assert (
        "step 7: loss or gradient not finite for 3 steps in a row; the weights are those before them. Documents of this step: a/a-"
        in said[4]
    )
    assert "1 step skipped in a row again, after 1 rewind" in said[5]
    rewinds = {
        name: [line for line in lines(folder / "runs" / name) if "event" in line] for name in ("back", "anew", "replay", "on", "twice")
    }
    assert [(r["step"], r["left_out"]) for r in rewinds["back"]] == [(2, [[0, 12, 28]])]
    assert [(r["step"], r["left_out"]) for r in rewinds["anew"]] == [(0, [[0, 0, 28]])]
    assert not rewinds["replay"] and not rewinds["on"] and len(rewinds["twice"]) == 1
    assert weights(folder / "runs" / "replay", 8) == weights(folder / "runs" / "anew", 8)
    assert [step for step, line in steps(folder / "runs" / "on").items() if line["skipped"]] == [5, 6, 7]


def test_what_a_killed_start_had_half_written_is_cleared_away(tmp_path):
    from train.run import rewind_record
    from train.world.ranks import World

    (tmp_path / "run" / "rewinds").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints").mkdir()
    for left in ("rewinds/.0001.json.tmp-21037", ".outcome.json.tmp-7"):
        (tmp_path / "run" / left).write_text('{"number": 1, "st')
    (tmp_path / "run" / "outcome.json").write_text("{}")
    assert rewind_record.settle(tmp_path / "run", tmp_path / "run" / "checkpoints", World(0, 1, 0, None)) == []
    assert sorted(p.name for p in (tmp_path / "run").rglob("*") if p.is_file()) == ["outcome.json"]
