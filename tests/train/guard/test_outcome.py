"""outcome.json tells how a run ended, and which exit code is the true one whatever a launcher made of it."""

import errno
import json
import time

import pytest
import torch

from launch import outcome as door
from train.guard import outcome
from train.world.ranks import World

RANKS = [World(rank, 2, rank, torch.device("cpu")) for rank in (0, 1)]


def test_a_run_is_running_until_its_end_is_told_and_the_first_end_stands(tmp_path):
    with outcome.recorded(tmp_path / "run", RANKS[0]) as record:
        assert outcome.read(tmp_path / "run").ended == "running" and outcome.read(tmp_path / "run").exit_code is None
        record.step, record.checkpoint, record.save_seconds = 7, tmp_path / "step_000007", 1.5
        record.end("preempted", 75, "SIGTERM")
        record.end("failed", 1, "a later word")
    found = json.loads((tmp_path / "run" / "outcome.json").read_text())
    assert {**found, "started": 0, "time": ""} == {
        "ended": "preempted", "exit_code": 75, "step": 7, "checkpoint": str(tmp_path / "step_000007"), "cause": "SIGTERM", "attempt": 1,
        "started": 0, "time": "", "save_seconds": 1.5,
    }  # fmt: skip
    assert abs(time.time() - found["started"]) < 100
    with outcome.recorded(tmp_path / "run", RANKS[0]) as record:
        assert record.save_seconds == 1.5
        record.end("finished", 0, "")
    again = outcome.read(tmp_path / "run")
    assert again.attempt == 2 and again.save_seconds == 1.5, "what a save took is known to the next attempt"


def test_nothing_stays_of_a_run_that_is_refused_before_it_begins(tmp_path):
    with pytest.raises(ValueError), outcome.recorded(tmp_path / "runs" / "new", RANKS[0]):
        raise ValueError("shards/a: gone")
    assert not (tmp_path / "runs" / "new").exists()
    with pytest.raises(ValueError), outcome.recorded(tmp_path / "runs" / "new", RANKS[0]):
        (tmp_path / "runs" / "new" / "recipe.yaml").write_text("")
        raise ValueError("shards/a: gone")
    assert outcome.read(tmp_path / "runs" / "new").ended == "failed"


def test_what_a_run_raises_is_its_end(tmp_path):
    for error, code in ((ValueError("shards/a: gone\nmore"), 1), (KeyboardInterrupt(), 130)):
        with pytest.raises(type(error)), outcome.recorded(tmp_path, RANKS[0]):
            raise error
        found = outcome.read(tmp_path)
        assert (found.ended, found.exit_code) == ("failed", code)
        assert found.cause == (str(error).splitlines() or ["KeyboardInterrupt"])[0]


def test_only_rank_0_writes(tmp_path):
    with outcome.recorded(tmp_path / "run", RANKS[1]) as record:
        record.end("finished", 0, "")
    assert not (tmp_path / "run").exists()


def test_a_record_that_cannot_be_written_ends_nothing(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with outcome.recorded(tmp_path / "file" / "run", RANKS[0]) as record:
        record.end("finished", 0, "")
    assert "outcome.json: cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ended", "code", "launcher", "true"),
    [
        ("finished", 0, 143, 0), ("finished", 0, 0, 0), ("preempted", 75, 1, 75), ("preempted", 75, 0, 75), ("preempted", 75, -15, 75),
        ("failed", 1, 0, 1), ("failed", 1, 75, 1), ("failed", 130, 1, 130),
        ("running", None, 0, 1), ("running", None, 75, 75), ("running", None, 247, 247), ("running", None, -9, 137),
        (None, None, 0, 1), (None, None, 75, 75), (None, None, 1, 1), (None, None, -15, 143),
    ],
)  # fmt: skip
def test_the_true_code_is_the_runs_own_and_a_death_without_a_word_is_never_0(ended, code, launcher, true):
    found = outcome.Outcome(ended, code, 3, None, "", 1, 1000.0, "") if ended else None
    assert outcome.true_code(found, launcher, since=1000.0) == true
    assert outcome.true_code(found, 7, since=1100.0) == 7, "an older attempt's end says nothing of this one"


def test_the_door_gives_the_runs_own_code(tmp_path, capsys):
    assert door.main([str(tmp_path)]) == 4 and "no word" in capsys.readouterr().err
    record = outcome.Record(tmp_path, RANKS[0])
    assert door.main([str(tmp_path)]) == 3 and door.main([str(tmp_path), "--launcher", "0"]) == 1
    record.end("preempted", 75, "SIGUSR1")
    assert door.main([str(tmp_path)]) == 75 and "preempted at step 0 (SIGUSR1)" in capsys.readouterr().out
    assert door.main([str(tmp_path), "--launcher", "1"]) == 75
    assert door.main([str(tmp_path), "--launcher", "1", "--since", str(time.time() + 60)]) == 1
    assert door.main(["no-such.yaml", "--launcher", "1"]) == 2 and "cannot be read" in capsys.readouterr().err
    for broken in ("", "[]", "{", '{"ended": "finished"}'):
        (tmp_path / "outcome.json").write_text(broken)
        assert door.main([str(tmp_path)]) == 4


def test_the_door_finds_the_run_by_the_words_it_was_started_with(tmp_path, capsys):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"name: a\nruns: {tmp_path}\nsteps: 2\ntokens_per_step: 64\nmodel: {{path: m}}\ndata: {{seq_len: 64, sources: {{a: {{path: s}}}}}}\n"
    )
    outcome.Record(tmp_path / "b", RANKS[0]).end("finished", 0, "")
    assert (
        door.main([str(recipe), "name=b", "--resume", "never", "steps=3"]) == 0
        and f"{tmp_path / 'b'}: attempt 1 finished" in capsys.readouterr().out
    )


def test_on_a_full_disk_the_end_is_written_over_what_stands_there(tmp_path, capsys, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    (tmp_path / "run").mkdir()

    with outcome.recorded(tmp_path / "run", RANKS[0]) as record:
        monkeypatch.setattr(outcome, "write_durably", full)
        record.step = 12
        record.end("failed", 1, "x" * 10)
    found = outcome.read(tmp_path / "run")
    assert (found.ended, found.exit_code, found.step, found.cause) == ("failed", 1, 12, "x" * 10)
    assert capsys.readouterr().err == ""
