"""The real command: `deepspeed launch/pretrain.py` as a user starts it, stops it, and starts it again."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.made import processes, tiny

# a launch imports torch in four processes: a quarter of a minute on two quiet cores, several times that on busy ones
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
PATIENCE = 180


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Path:
    folder = tiny.ground(tmp_path_factory.mktemp("launch"))
    tiny.write_recipe(folder, steps=9999, checkpoint={"every_steps": 0}, schedule={"warmup_steps": 5}, logging={"tensorboard": True})
    return folder


def start(ground: Path, name: str, *words: str) -> subprocess.Popen:
    """A run of that name on two ranks; what it says goes to NAME.log."""
    launcher = Path(sys.executable).with_name("deepspeed")
    command = [launcher, "--num_gpus", 2, "--master_port", processes.free_port(), "launch/pretrain.py", ground / "recipe.yaml"]
    env = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PATH": f"{launcher.parent}:{os.environ['PATH']}"}
    with open(ground / f"{name}.log", "a") as log:
        return processes.start([*command, f"name={name}", *words], env=env, stdout=log, stderr=subprocess.STDOUT)


def wait_for_step(ground: Path, name: str, step: int, process: subprocess.Popen) -> None:
    metrics = ground / "runs" / name / "metrics.jsonl"

    def reached() -> bool:
        assert process.poll() is None, "".join(
            log.read_text() for log in (ground / f"{name}.log", metrics.with_name("log.txt")) if log.exists()
        )
        return metrics.is_file() and f'"step": {step},' in metrics.read_text()

    processes.wait_until(reached, seconds=PATIENCE)


def ranks_alive(ground: Path, name: str) -> dict[int, psutil.Process]:
    """The ranks of a run by their number."""
    found = {}
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if str(ground / "recipe.yaml") in words and f"name={name}" in words and process.info["status"] != psutil.STATUS_ZOMBIE:
            found |= {int(word.removeprefix("--local_rank=")): process for word in words if word.startswith("--local_rank=")}
    return found


@pytest.fixture(scope="module")
def stopped(ground) -> Iterator[tuple[int, str, subprocess.Popen]]:
    """A run stopped by SIGTERM: its exit code, what it said, and the same command again, which trains now."""
    process = start(ground, "stopped")
    wait_for_step(ground, "stopped", 10, process)
    os.killpg(process.pid, signal.SIGTERM)  # as a scheduler does: every process of the job
    code = process.wait(PATIENCE)
    processes.wait_until(lambda: not ranks_alive(ground, "stopped"), seconds=60)  # the launcher ends before its ranks have saved
    said = (ground / "stopped.log").read_text()
    again = start(ground, "stopped")
    yield code, said, again
    processes.end(again)


def test_sigterm_saves_and_stops_and_the_same_command_goes_on(ground, stopped):
    code, said, again = stopped
    run = ground / "runs" / "stopped"
    assert code != 0
    assert "saving and stopping after this step" in said and "the same command goes on from there" in said
    [saved] = (run / "checkpoints").glob("step_*")
    step = int(saved.name.removeprefix("step_"))
    assert step < 9999 and list((run / "tensorboard").glob("events*"))
    wait_for_step(ground, "stopped", step + 5, again)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines(keepends=True) if line.endswith("\n")]
    steps = [record["step"] for record in lines if "loss" in record]
    assert steps[: step + 5] == list(range(1, step + 6)), "every step once, in order, across the stop"


def test_a_dead_rank_ends_the_run_and_a_dead_launcher_leaves_no_orphans(ground, stopped):
    _, _, process = stopped
    wait_for_step(ground, "stopped", 20, process)
    ranks_alive(ground, "stopped")[1].kill()
    assert process.wait(PATIENCE) != 0
    processes.wait_until(lambda: not ranks_alive(ground, "stopped"), seconds=30)

    process = start(ground, "orphans")
    wait_for_step(ground, "orphans", 5, process)
    ranks = ranks_alive(ground, "orphans")
    assert set(ranks) == {0, 1}
    ranks[0].parent().kill()  # DeepSpeed's own launch.py
    processes.wait_until(lambda: not ranks_alive(ground, "orphans"), seconds=30)
    processes.end(process)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_stop_saves_although_nobody_reads_what_is_printed(ground, number):
    """Ctrl-C in `… 2>&1 | tee log` ends tee, too; a closed terminal takes its words with it."""
    name = signal.Signals(number).name
    process = processes.start([sys.executable, "launch/pretrain.py", ground / "recipe.yaml", f"name={name}"], stderr=subprocess.STDOUT)
    wait_for_step(ground, name, 3, process)
    process.stdout.close()
    os.kill(process.pid, number)
    assert process.wait(PATIENCE) == 75
    run = ground / "runs" / name
    assert len(list((run / "checkpoints").glob("step_*"))) == 1
    log = (run / "log.txt").read_text()
    assert f"{name}: saving and stopping after this step" in log and "the same command goes on from there" in log and "step 3/9999" in log


def test_ranks_save_and_end_with_the_runner_that_dies_without_a_word_to_their_launcher(ground):
    process = start(ground, "runner")
    wait_for_step(ground, "runner", 3, process)
    os.kill(process.pid, signal.SIGTERM)  # `kill PID` of the deepspeed command alone
    processes.wait_until(lambda: not ranks_alive(ground, "runner"), seconds=60)
    processes.end(process)
    assert len(list((ground / "runs" / "runner" / "checkpoints").glob("step_*"))) == 1
    # whichever rank is the first to look
    assert "by the end of the launcher" in (ground / "runs" / "runner" / "log.txt").read_text()


def test_a_mistake_in_the_data_ends_in_one_message_from_one_rank(ground):
    shutil.copytree(ground / "shards", ground / "damaged")
    file = ground / "damaged" / "00000.arrow"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert start(ground, "bad", f"data.sources.a.path={ground / 'damaged'}").wait(PATIENCE) != 0
    output = (ground / "bad.log").read_text()
    assert "Traceback" not in output
    assert output.count("00000.arrow") == 1, output
    assert not (ground / "runs" / "bad" / "checkpoints").exists()


def test_metrics_are_complete_json_lines_with_the_promised_keys(ground):
    tiny.write_recipe(ground, steps=3, name="keys")
    done = processes.run(
        [sys.executable, "launch/pretrain.py", str(ground / "recipe.yaml")],
        env=os.environ | {"DS_ACCELERATOR": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(t) for t in (ground / "runs" / "keys" / "metrics.jsonl").read_text().splitlines()]
    steps = [r for r in lines if "loss" in r]
    assert [r["step"] for r in steps] == [1, 2, 3]
    assert all({"step", "loss", "lr", "grad_norm", "tokens", "tokens_per_second", "data_wait_share", "loss/a"} <= set(r) for r in steps)
    assert [r["step"] for r in lines if "heldout/a/perplexity" in r] == [0, 3]
    said = done.stdout.splitlines()
    assert (
        re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d done: 3 steps, .*step_000003; goodput .*", said[-1])
        and "%|" not in done.stdout + done.stderr
    )
    for told in (
        "importing PyTorch",
        "importing DeepSpeed",
        "verifying 2 folders",
        "weights",
        "evaluating on a",
        "step 2/3  loss",
        "saving a checkpoint",
    ):
        assert any(told in line for line in said), told
    assert done.stderr == "", "libraries' words are in the log alone"
    files = {p.name for p in (ground / "runs" / "keys").iterdir()}
    assert files >= {"recipe.yaml", "deepspeed.json", "metrics.jsonl", "checkpoints", "base_model.json"}


def test_a_port_that_is_taken_ends_in_one_message_with_the_remedy(ground):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        env = os.environ | {
            "DS_ACCELERATOR": "cpu",
            "RANK": "0",
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(taken.getsockname()[1]),
        }
        done = processes.run([sys.executable, "launch/pretrain.py", str(ground / "recipe.yaml")], env=env)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "start with deepspeed --master_port PORT" in done.stderr
