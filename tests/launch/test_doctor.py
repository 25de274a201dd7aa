"""The doctor's door, with real ranks: a verdict from all, and none waited for that does not come."""

from __future__ import annotations

import json
import os
import sys

import pytest

from launch.doctor import main
from tests.made import processes, tiny
from train.world.ranks import free_port

DOOR = [sys.executable, "launch/doctor.py"]


def start(ranks: list[int], size: int, words: list) -> list:
    port = free_port()
    own = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "TORCHELASTIC"))}
    return [
        processes.start(
            [*DOOR, *words],
            env=own
            | {"RANK": str(r), "WORLD_SIZE": str(size), "LOCAL_RANK": str(r), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            | ({"NCCL_ALGO": "Ring"} if r == 1 else {}),
        )
        for r in ranks
    ]


def ended(those: list) -> tuple[list[int], str]:
    out = [p.communicate(timeout=processes.SECONDS) for p in those]
    return [p.returncode for p in those], "".join(o + e for o, e in out)


@pytest.mark.slow
def test_two_ranks_get_one_verdict_and_leave_nothing_behind(tmp_path):
    recipe = tiny.ground(tmp_path) / "recipe.yaml"
    codes, said = ended(start([0, 1], 2, [recipe, "--json", tmp_path / "doctor.json"]))
    assert codes == [0, 0] and said.splitlines()[-1].startswith("go: "), said
    assert "memory plan" in said and "ranks: 2 on 1 nodes" in said and "bus bandwidth" in said
    written = json.loads((tmp_path / "doctor.json").read_text())
    assert written["go"] is True and len(written["ranks"]) == 2
    assert list((tmp_path / "runs").iterdir()) == []
    # a rank that does not come, and an input that is not there: no-go on every rank that is, and nobody waits
    codes, said = ended(start([0, 2], 3, [recipe, "--wait", "4"]))
    assert codes == [1, 1] and "1 of 3 ranks did not arrive: 1" in said and "Traceback" not in said, said
    codes, said = ended(start([0], 1, [recipe, "model.path=nowhere", "--json", tmp_path / "no.json"]))
    assert codes == [1] and "no such folder here" in said and json.loads((tmp_path / "no.json").read_text())["go"] is False, said


@pytest.mark.parametrize(
    "text, why",
    [("a slots=x\n", "a line is a host and its GPUs"), ("a slots=1\na slots=2\n", "stands there twice"), ("# none\n", "no hosts in it")],
)
def test_a_hostfile_that_cannot_be_read_is_refused(tmp_path, capsys, text, why):
    (tmp_path / "hostfile").write_text(text)
    with pytest.raises(SystemExit) as ended:
        main(["--hostfile", str(tmp_path / "hostfile")])
    assert ended.value.code == 2 and why in capsys.readouterr().err
