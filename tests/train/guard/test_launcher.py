"""A rank ends with its launcher, however that ends, and not with a shell that merely started it."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.made import processes

pytestmark = pytest.mark.slow
RANK = """
import json, os, signal, sys, time
from pathlib import Path
from train.guard.launcher import Launcher
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
while len(sys.argv) > 2 and os.getppid() == int(sys.argv[2]):
    time.sleep(0.01)
launcher, until = Launcher(expected="CROSS_RANK" in os.environ), time.monotonic() + 60
at = Path(sys.argv[1])
at.with_suffix(".up").write_text(json.dumps([os.getpid(), os.getppid(), launcher.repeats]))
while time.monotonic() < until and not launcher.gone and not at.with_suffix(".over").exists():
    time.sleep(0.01)
time.sleep(0.1)
at.write_text(json.dumps({"gone": launcher.gone, "asked": bool(asked)}))
"""
STARTS = "import subprocess, sys; sys.exit(subprocess.run([sys.executable, *sys.argv[1:]]).returncode)\n"


@pytest.fixture
def words(tmp_path) -> dict[str, list]:
    """Commands that start a rank, by what they are called."""
    (tmp_path / "deepspeed" / "launcher").mkdir(parents=True)
    for file in ("deepspeed/__init__.py", "deepspeed/launcher/__init__.py"):
        (tmp_path / file).touch()
    for file in ("deepspeed/launcher/launch.py", "torchrun", "train_deepspeed.py", "rank.py"):
        (tmp_path / file).write_text(RANK if file == "rank.py" else STARTS)
    return {
        "launch.py": [sys.executable, "-m", "deepspeed.launcher.launch", tmp_path / "rank.py", tmp_path / "said"],
        "torchrun": [sys.executable, tmp_path / "torchrun", tmp_path / "rank.py", tmp_path / "said"],
        "a script": [sys.executable, tmp_path / "train_deepspeed.py", tmp_path / "rank.py", tmp_path / "said"],
    }


def killed_under(command: list, folder: Path, **more: str) -> tuple[dict, bool]:
    """What the rank says when the command that started it was killed, and whether it takes it for torchrun."""
    env = os.environ | {"PYTHONPATH": f"{folder}:{processes.ROOT}"} | more
    process = processes.start(command, env=env, cwd=folder, **processes.QUIET)
    processes.wait_until(lambda: (folder / "said.up").is_file() and (folder / "said.up").read_text().endswith("]"), process)
    rank, parent, repeats = json.loads((folder / "said.up").read_text())
    assert parent == process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    if command[1:2] and "train_deepspeed" in str(command[1]):
        (folder / "said.over").touch()
    processes.wait_until(lambda: (folder / "said").is_file() and (folder / "said").read_text().endswith("}"))
    return json.loads((folder / "said").read_text()), repeats


@pytest.mark.parametrize("name", ["launch.py", "torchrun"])
def test_a_rank_hears_of_its_launchers_death(tmp_path, words, name):
    said, repeats = killed_under(words[name], tmp_path)
    assert said == {"gone": True, "asked": True} and repeats == (name == "torchrun")


def test_a_script_that_merely_has_the_launchers_name_in_its_own_may_go(tmp_path, words):
    said, _ = killed_under(words["a script"], tmp_path)
    assert said == {"gone": False, "asked": False}


def test_a_launcher_that_had_gone_before_its_rank_could_look_is_missed(tmp_path, words):
    command = f"{sys.executable} {tmp_path / 'rank.py'} {tmp_path / 'said'} $$ &"
    done = processes.start(
        ["bash", "-c", command], env=os.environ | {"PYTHONPATH": str(processes.ROOT), "CROSS_RANK": "0"}, **processes.QUIET
    )
    done.wait()
    processes.wait_until(lambda: (tmp_path / "said").is_file() and (tmp_path / "said").read_text().endswith("}"))
    assert json.loads((tmp_path / "said").read_text())["gone"]
