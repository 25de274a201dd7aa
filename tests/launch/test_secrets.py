"""Keys in the environment, a URL, an error and a git remote of a run reach no file that it writes, no word that it prints, no command line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.made import processes, tiny
from tests.made.where import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
ENVIRONMENT = {
    "HF_TOKEN": "hf_canary1aaaaaaaaaaaaaaaaaaaaaaaa", "WANDB_API_KEY": "canary2bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb", "AWS_ACCESS_KEY_ID": "AKIACANARY3CCCCCCCCC",
    "AWS_SECRET_ACCESS_KEY": "canary4/ddddddddddddddddddddddddddddddd", "AWS_SESSION_TOKEN": "canary5eeeeeeeeeeeeeeeeeeeeeeeeeee",
    "OPENAI_API_KEY": "sk-canary6ffffffffffffffffffff", "MY_SITE_PASSWORD": "canary7gggggggggggg",
}  # fmt: skip
IN_URL = "canary8hhhhhhhhhhhhhhhhhhhh"
CANARIES = [*ENVIRONMENT.values(), IN_URL]
# an error of a library, raised in step 3, that repeats all it was given
DOOR = """
import os, sys
from deepspeed.runtime.engine import DeepSpeedEngine
right, steps = DeepSpeedEngine.step, []
def wrong(engine):
    steps.append(1)
    if len(steps) == 3:
        names = ("HF_TOKEN", "WANDB_API_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "OPENAI_API_KEY", "MY_SITE_PASSWORD")
        raise OSError(f"401 for https://user:{os.environ['IN_URL']}@hub/x with {[os.environ[n] for n in names]}")
    return right(engine)
DeepSpeedEngine.step = wrong
from launch.pretrain import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Path:
    """A folder that is also somebody's git checkout, its remote with a token, as GitHub's pages used to advise."""
    folder = tiny.ground(tmp_path_factory.mktemp("secrets"))
    tiny.write_recipe(folder, steps=9, checkpoint={"every_steps": 2}, schedule={"warmup_steps": 2}, logging={"tensorboard": True})
    processes.run(["git", "init", "-q", folder], check=True)
    processes.run(["git", "-C", folder, "remote", "add", "origin", f"https://x:{IN_URL}@github.com/a/b.git"], check=True)
    return folder


def hits(text: bytes) -> list[str]:
    return [c for c in CANARIES if c.encode() in text]


def test_eight_canaries_are_nowhere_to_be_found_after_a_run_that_failed_on_them(ground):
    env = os.environ | ENVIRONMENT | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "IN_URL": IN_URL, "PYTHONPATH": str(ROOT)}
    with open(ground / "screen", "w") as screen:
        process = processes.start(
            [sys.executable, "-c", DOOR, ground / "recipe.yaml"], env=env, cwd=ground, stdout=screen, stderr=subprocess.STDOUT
        )
        lines = set()

        def ended() -> bool:
            for p in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []:
                try:
                    lines.add("\0".join(p.cmdline()))
                except psutil.Error:
                    continue
            return process.poll() is not None

        processes.wait_until(ended, seconds=300)
    assert process.returncode == 1
    screen = (ground / "screen").read_text()
    assert "Traceback" not in screen and "fault: rank 0" in screen and "OSError: 401 for https://***@hub/x" in screen, screen
    assert any("train.guard.watch.watcher" in line for line in lines)
    assert not [line for line in lines if hits(line.encode())]
    shutil.rmtree(ground / ".git")
    files = [f for f in ground.rglob("*") if f.is_file()]
    assert {"recipe.yaml", "log.txt", "metrics.jsonl", "state.json", "screen", "outcome.json", "rank_00000.txt"} <= {f.name for f in files}
    assert any("tfevents" in f.name for f in files)
    assert {str(f.relative_to(ground)): found for f in files if (found := hits(f.read_bytes()))} == {}


def test_a_key_in_a_recipe_or_on_the_command_line_is_refused_without_being_repeated(ground):
    words = [f"checkpoint.to=s3://AKIA:{IN_URL}@bucket/runs", f"hub_token={IN_URL}", f"model.path=https://x:{IN_URL}@hub/model"]
    done = processes.run([sys.executable, "launch/pretrain.py", ground / "recipe.yaml", *words])
    assert done.returncode == 1 and not hits((done.stdout + done.stderr).encode()), done.stderr
    assert "checkpoint.to=s3://***@bucket/runs: holds a key or a password" in done.stderr
    assert "model.path=https://***@hub/model: holds a key" in done.stderr and "hub_token" in done.stderr
