"""An output folder while it is being made: nothing of cleared work is taken up again, wherever a kill fell."""

import shutil
from pathlib import Path

import pytest

from data_tools.work.workplace import adopt_plan, claimed, clear, clear_leftovers


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
