"""An output folder while it is being made: nothing of cleared work is taken up again, wherever a kill fell."""

import shutil
import sys
from pathlib import Path

import pytest

from data_tools.work.workplace import PrepareError, adopt_plan, claimed, clear, clear_leftovers
from tests.made import processes


def begin(out: Path) -> None:
    with claimed(out) as work:
        adopt_plan(work, {"seq_len": 4096})
        (work / "results").mkdir()
        (work / "results" / "00000.json").write_text("of the plan that was given up")


def test_work_that_was_killed_while_it_was_cleared_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(tmp_path)
    with claimed(tmp_path) as work, monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", lambda path, **_: (path / "plan.json").unlink(missing_ok=True) or interrupt(path))
        clear(work)
    with claimed(tmp_path) as work:
        assert not adopt_plan(work, {"seq_len": 2048})
        assert sorted(path.name for path in work.iterdir()) == ["lock", "plan.json"]
        assert [path.name for path in tmp_path.iterdir()] == [".work"]


def interrupt(path: Path) -> None:
    if path.exists():
        raise KeyboardInterrupt


def test_what_a_kill_left_beside_finished_work_is_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(tmp_path)
    clear_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []
    begin(tmp_path)
    with claimed(tmp_path) as work, monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", lambda path, **_: interrupt(path))
        clear(work)
    clear_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("there", "here", "anew"),
    [
        ({"inputs": [{"path": "a", "bytes": 1}]}, {"inputs": [{"path": "a", "bytes": 2}]}, "a"),
        ({"inputs": [{"path": "a", "mtime_ns": 1}]}, {"inputs": [{"path": "a", "mtime_ns": 2}]}, "a"),
        ({"inputs": [{"path": "a"}]}, {"inputs": [{"path": "a"}, {"path": "b"}]}, "b"),
        ({"inputs": [{"path": "a"}, {"path": "b"}]}, {"inputs": [{"path": "a"}]}, "b"),
        ({"inputs": [], "latex_state": "x"}, {"inputs": [], "latex_state": "y"}, "LaTeX sources"),
        ({"inputs": [{"path": "a"}]}, {"inputs": [{"path": "b"}]}, None),
        ({"inputs": [{"path": "a", "bytes": 1}], "seed": 1}, {"inputs": [{"path": "a", "bytes": 2}], "seed": 2}, None),
    ],
)
def test_changed_inputs_begin_anew_and_another_command_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], there: dict, here: dict, anew: str | None
) -> None:
    with claimed(tmp_path) as work:
        assert not adopt_plan(work, there) and adopt_plan(work, there)
        (work / "tasks" / "x").mkdir(parents=True)
        if anew is None:
            with pytest.raises(PrepareError, match="unfinished work of another command"):
                adopt_plan(work, here)
            assert (work / "tasks" / "x").is_dir() and adopt_plan(work, there)
            return
        assert not adopt_plan(work, here) and adopt_plan(work, here)
        assert sorted(path.name for path in work.iterdir()) == ["lock", "plan.json"]
        assert f"inputs changed since this work was begun ({anew}): what was made of them is made anew" in capsys.readouterr().err


def test_a_kill_while_changed_inputs_begin_anew_leaves_nothing_to_go_on_with(tmp_path: Path) -> None:
    before, now = ({"inputs": [{"path": "a", "bytes": size}]} for size in (1, 2))
    with claimed(tmp_path) as work:
        adopt_plan(work, before)
        (work / "results").mkdir()
        (tmp_path / "half").touch()
        with pytest.raises(KeyboardInterrupt):
            adopt_plan(work, now, lambda: interrupt(tmp_path))
        assert not adopt_plan(work, before, (tmp_path / "half").unlink)
        assert sorted(path.name for path in work.iterdir()) == ["lock", "plan.json"] and not (tmp_path / "half").exists()


def test_a_mistake_leaves_no_folder_that_was_not_there_but_finished_work_stays(tmp_path):
    def fail(finished: bool) -> Path:
        out = tmp_path / "a" / "out"
        with pytest.raises(PrepareError, match="no text"), claimed(out) as work:
            adopt_plan(work, {"arguments": {}})
            (work / "read" / "completions").mkdir(parents=True)
            if finished:
                (work / "read" / "completions" / "00000").touch()
            raise PrepareError("x.jsonl: no text; give another")
        return out

    assert not fail(False).exists() and not (tmp_path / "a").exists()
    assert (fail(True) / ".work" / "read" / "completions" / "00000").exists()


@pytest.mark.slow
def test_a_mistake_does_not_end_another_process_work(tmp_path):
    with claimed(tmp_path / "out") as work:
        told = processes.run(
            [sys.executable, "-c", f"from data_tools.work.workplace import claimed\nwith claimed({str(tmp_path / 'out')!r}): pass"]
        )
        assert told.returncode == 1 and "is writing here" in told.stderr and work.exists()
