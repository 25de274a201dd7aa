"""The real command: `deepspeed launch/pretrain.py` as a user starts it, stops it, and starts it again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.made import processes, tiny
from tests.train.run.test_loop import losses_of


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Path:
    folder = tiny.ground(tmp_path_factory.mktemp("launch"))
    tiny.write_recipe(folder, steps=400, checkpoint={"every_steps": 0}, schedule={"warmup_steps": 5}, logging={"tensorboard": True})
    return folder


def start(ground: Path, *words: str) -> subprocess.Popen:
    launcher = Path(sys.executable).with_name("deepspeed")
    command = [launcher, "--num_gpus", 2, "--master_port", processes.free_port(), "launch/pretrain.py", ground / "recipe.yaml", *words]
    env = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PATH": f"{launcher.parent}:{os.environ['PATH']}"}
    return processes.start(command, env=env, stderr=subprocess.STDOUT)


def wait_for_step(run: Path, step: int, process: subprocess.Popen) -> None:
    metrics = run / "metrics.jsonl"
    processes.wait_until(lambda: metrics.is_file() and f'"step": {step},' in metrics.read_text(), process)


def ranks_alive(ground: Path) -> list[int]:
    import psutil

    return [
        p.pid
        for p in psutil.process_iter(["cmdline"])
        if str(ground / "recipe.yaml") in (p.info["cmdline"] or []) and "pretrain" in " ".join(p.info["cmdline"])
    ]


def test_sigterm_saves_and_stops_and_the_same_command_goes_on(ground):
    run = ground / "runs" / "stopped"
    process = start(ground, "name=stopped", "steps=400")
    wait_for_step(run, 10, process)
    os.killpg(process.pid, signal.SIGTERM)  # as a scheduler does: every process of the job
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "saving and stopping after this step" in output and "the same command goes on from there" in output
    [saved] = (run / "checkpoints").glob("step_*")
    step = int(saved.name.removeprefix("step_"))
    assert step < 400 and list((run / "tensorboard").glob("events*"))
    again = start(ground, "name=stopped", "steps=400")
    wait_for_step(run, step + 5, again)
    os.killpg(again.pid, signal.SIGKILL)
    again.communicate(timeout=60)
    losses = losses_of(run)
    assert sorted(losses)[: step + 5] == list(range(1, step + 6)), "every step once, in order, across the stop"
    time.sleep(2)
    assert ranks_alive(ground) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_stop_saves_although_nobody_reads_what_is_printed(ground, number):
    """Ctrl-C in `… 2>&1 | tee log` ends tee, too; a closed terminal takes its words with it."""
    name = signal.Signals(number).name
    run = ground / "runs" / name
    process = processes.start([sys.executable, "launch/pretrain.py", ground / "recipe.yaml", f"name={name}"], stderr=subprocess.STDOUT)
    wait_for_step(run, 3, process)
    process.stdout.close()
    os.kill(process.pid, number)
    assert process.wait(60) == 75
    assert len(list((run / "checkpoints").glob("step_*"))) == 1
    log = (run / "log.txt").read_text()
    assert f"{name}: saving and stopping after this step" in log and "the same command goes on from there" in log and "step 3/400" in log


def test_ranks_save_and_end_with_the_runner_that_dies_without_a_word_to_their_launcher(ground):
    process = start(ground, "name=runner")
    wait_for_step(ground / "runs" / "runner", 3, process)
    os.kill(process.pid, signal.SIGTERM)  # `kill PID` of the deepspeed command alone
    processes.wait_until(lambda: not ranks_alive(ground), seconds=40)
    process.communicate(timeout=30)
    assert len(list((ground / "runs" / "runner" / "checkpoints").glob("step_*"))) == 1
    assert "the end of the launcher: saving and stopping" in (ground / "runs" / "runner" / "log.txt").read_text()


def test_a_dead_rank_ends_the_run_and_a_dead_launcher_leaves_no_orphans(ground):
    import psutil

    process = start(ground, "name=dead")
    wait_for_step(ground / "runs" / "dead", 5, process)
    victim = next(p for p in ranks_alive(ground) if "--local_rank=1" in psutil.Process(p).cmdline())
    os.kill(victim, signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode != 0
    process = start(ground, "name=orphans")
    wait_for_step(ground / "runs" / "orphans", 5, process)
    ranks = [p for p in ranks_alive(ground) if any(w.startswith("--local_rank") for w in psutil.Process(p).cmdline())]
    assert len(ranks) == 2
    parent = psutil.Process(ranks[0]).parent().pid
    os.kill(parent, signal.SIGKILL)  # DeepSpeed's own launch.py
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and any(psutil.pid_exists(p) and psutil.Process(p).status() != "zombie" for p in ranks):
        time.sleep(0.2)
    assert not [p for p in ranks_alive(ground) if p in ranks], "ranks outlived their launcher"
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)


def test_a_mistake_in_the_data_ends_in_one_message_from_one_rank(ground):
    shutil.copytree(ground / "shards", ground / "damaged")
    file = ground / "damaged" / "00000.arrow"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    process = start(ground, "name=bad", f"data.sources.a.path={ground / 'damaged'}")
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0 and "Traceback" not in output
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
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("done: 3 steps") and "step_000003" in last
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
