"""Stops at any moment, under each launcher, to each of its processes: saved, or the last complete checkpoint stands; said; nobody left; the true code."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.made import processes, tiny
from train.checkpoint.manifest import verify
from train.guard import outcome
from train.world.ranks import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
PATIENCE = int(os.environ.get("STOP_PATIENCE", 240))
BIN = Path(sys.executable).parent
ALONE = World(0, 1, 0, None)
# what a launcher's own code is, whatever the ranks do: a signal that ends it, or what its handler says
LOST = {
    ("deepspeed", "group", "SIGINT"): 130, ("deepspeed", "group", "SIGTERM"): 143, ("deepspeed", "group", "SIGHUP"): 129, ("deepspeed", "group", "SIGUSR1"): 138,
    ("deepspeed", "command", "SIGINT"): 130, ("deepspeed", "command", "SIGTERM"): 143, ("deepspeed", "command", "SIGHUP"): 129,
    ("deepspeed", "command", "SIGUSR1"): 138, ("deepspeed", "command", "SIGKILL"): 137,
    ("deepspeed", "launch.py", "SIGINT"): 1, ("deepspeed", "launch.py", "SIGTERM"): 1, ("deepspeed", "launch.py", "SIGHUP"): 0,
    ("deepspeed", "launch.py", "SIGUSR1"): 0, ("deepspeed", "launch.py", "SIGKILL"): 0,
    ("torchrun", "group", "SIGUSR1"): 138, ("torchrun", "command", "SIGUSR1"): 138, ("torchrun", "command", "SIGKILL"): 137,
}  # fmt: skip
TARGETS = {
    "deepspeed": ("group", "command", "launch.py", "rank 0", "rank 1"),
    "torchrun": ("group", "command", "rank 0", "rank 1"),
    "python": ("command",),
}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
LIMIT = "guard.minutes"


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Path:
    """Evaluations, answers and saves take most of a run's time, so that a random moment is as likely in one of them."""
    folder = tiny.ground(tmp_path_factory.mktemp("stops"))
    tiny.write_recipe(
        folder, steps=99999, schedule={"warmup_steps": 5}, checkpoint={"every_steps": 3, "keep_last": 3}, heldout={"every_steps": 4, "prompts": ["a star"], "prompt_tokens": 30},
    )  # fmt: skip
    return folder


@dataclass
class Run:
    """A started command, and every process that belongs to it."""

    launcher: str
    folder: Path
    process: subprocess.Popen
    log: Path
    began: float

    @classmethod
    def start(cls, ground: Path, launcher: str, name: str, *words: str) -> "Run":
        port = processes.free_port()
        command = {
            "deepspeed": [BIN / "deepspeed", "--num_gpus", 2, "--master_port", port, "launch/pretrain.py"],
            "torchrun": [BIN / "torchrun", "--nproc_per_node", 2, "--master_port", port, "launch/pretrain.py"],
            "python": [sys.executable, "launch/pretrain.py"],
        }[launcher]
        env = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PATH": f"{BIN}:{os.environ['PATH']}"}
        began = time.time()
        log = ground / f"{name}.log"
        with open(log, "a") as to:
            process = processes.start(
                [*command, ground / "recipe.yaml", f"name={name}", *words], env=env, stdout=to, stderr=subprocess.STDOUT
            )
        return cls(launcher, ground / "runs" / name, process, log, began)

    def alive(self) -> list[psutil.Process]:
        """Launchers, ranks and whatever they started: all that carry the run's name, or came of those that do."""
        word, found = f"name={self.folder.name}", {}
        for p in psutil.process_iter(["cmdline", "status"]):
            if word in (p.info["cmdline"] or []) and p.info["status"] != psutil.STATUS_ZOMBIE:
                with contextlib.suppress(psutil.Error):
                    found |= {q.pid: q for q in (p, *p.children(recursive=True)) if q.status() != psutil.STATUS_ZOMBIE}
        return list(found.values())

    def ranks(self) -> dict[int, int]:
        """Process ids by rank, of those that are there."""
        found = {}
        for p in self.alive():
            with contextlib.suppress(psutil.Error):
                if "launch/pretrain.py" in p.cmdline()[:4] and ("RANK" in p.environ() or self.launcher == "python"):
                    found[int(p.environ().get("RANK", 0))] = p.pid
        return found

    def steps(self) -> list[int]:
        metrics = self.folder / "metrics.jsonl"
        lines = metrics.read_text().splitlines(keepends=True) if metrics.is_file() else []
        return [record["step"] for record in map(json.loads, (t for t in lines if t.endswith("\n"))) if "loss" in record]

    def signal(self, target: str, number: int) -> None:
        """To the command's group as a terminal or scheduler sends it, to one process otherwise; one that is not there yet is waited for."""
        if target == "group":
            os.killpg(self.process.pid, number)
        elif target == "command":
            os.kill(self.process.pid, number)
        else:
            rank = int(target[-1]) if target.startswith("rank") else 0
            processes.wait_until(lambda: rank in self.ranks(), self.process, PATIENCE)
            pid = self.ranks()[rank]
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                os.kill(pid if target.startswith("rank") else psutil.Process(pid).ppid(), number)

    def ended(self) -> tuple[int, float]:
        """Exit code as a shell has it; seconds until the last process was gone."""
        began = time.monotonic()
        code = self.process.wait(PATIENCE)
        processes.wait_until(lambda: not self.alive(), seconds=60)
        return code if code >= 0 else 128 - code, time.monotonic() - began


def check_end(run: Run, target: str, number: int, early: bool) -> dict:
    """What every stop must have left."""
    name = signal.Signals(number).name if number else "time limit"
    code, seconds = run.ended()
    found, words = outcome.read(run.folder), run.log.read_text()
    true = outcome.true_code(found, code, run.began)
    lost = LOST.get((run.launcher, target, name))
    told = f"{run.launcher} {name} to {target}: code {code}, {found}, gone after {seconds:.1f} s\n{words[-3000:]}"
    assert seconds < 40, told
    ours = [f'File "{processes.ROOT}/{part}/' for part in ("train", "launch", "data_tools")]  # deepspeed's own command has one at Ctrl-C
    assert found is None or not any(part in words for part in ours), told
    complete = sorted((run.folder / "checkpoints").glob("step_" + "[0-9]" * 6))
    assert all(not verify(folder, ALONE) for folder in complete), told
    assert not list((run.folder / "checkpoints").glob("*.tmp-*")), told
    if found is None:
        assert early and true != 0 and not run.folder.exists(), told
    elif target == LIMIT and found.ended == "failed":  # the next start would get no further either
        assert true == code == 1 and found.step == 0 and "was over before the first step: give it more time" in words, told
        assert "fault: " not in words and not list((run.folder / "faults").glob("*.json")), told
    else:
        assert found.ended == "preempted" and true == 75, told
        assert code == (lost if lost is not None else 1 if run.launcher == "torchrun" else 75), told
        log = (run.folder / "log.txt").read_text()
        if found.step:
            assert [p.name for p in complete][-1] == f"step_{found.step:06d}" == Path(found.checkpoint).name and found.step in run.steps()[
                -2:
            ], told
            assert "the same command goes on from there" in log.splitlines()[-1], log[-2000:]
        else:
            assert not complete and "nothing to save, give the same command again" in log.splitlines()[-1], told
    return {"code": code, "seconds": round(seconds, 1), "step": found.step if found else None, "cause": found.cause if found else "before"}


def test_a_stop_of_one_rank_ends_all_with_the_code_of_a_saved_run_and_a_stopped_start_leaves_only_its_word(ground):
    run = Run.start(ground, "deepspeed", "small")
    processes.wait_until(lambda: run.steps()[-1:] > [2], run.process, PATIENCE)
    run.signal("rank 1", signal.SIGTERM)
    assert check_end(run, "rank 1", signal.SIGTERM, early=False)["cause"] == "SIGTERM (rank 1)"

    start = Run.start(ground, "python", "early")
    processes.wait_until(lambda: (start.folder / "outcome.json").is_file(), start.process, PATIENCE)
    start.signal("command", signal.SIGINT)
    assert check_end(start, "command", signal.SIGINT, early=True)["step"] == 0
    watched = {"heartbeats", "faults"}  # there already if the watch had begun
    assert {p.name for p in start.folder.iterdir()} - watched == {"outcome.json", "log.txt"}
    assert not any((start.folder / "faults").glob("*.json"))


MOMENTS = int(os.environ.get("STOP_MOMENTS", 16))  # a launcher


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("launcher", list(TARGETS))
def test_a_stop_at_any_moment_by_any_way_is_saved_or_stands_and_leaves_nobody(ground, launcher):
    rng = random.Random(f"{launcher} {os.environ.get('STOP_SEED', 0)}")
    ways = [(target, number) for target in TARGETS[launcher] for number in SIGNALS]
    if launcher == "deepspeed":
        ways += [("command", signal.SIGKILL), ("launch.py", signal.SIGKILL)]
    ways += [(LIMIT, 0)] * 2
    rng.shuffle(ways)
    faults = []
    for moment in range(MOMENTS):
        target, number = ways[moment % len(ways)]
        limited = [f"{LIMIT}={rng.uniform(0.1, 1.0):.3f}"] if target == LIMIT else []
        run = Run.start(ground, launcher, f"{launcher}{moment}", *limited)
        early = rng.random() < 0.4 or target == LIMIT
        try:
            if target == LIMIT:
                processes.wait_until(lambda run=run: run.process.poll() is not None, seconds=PATIENCE)
            elif early:
                if target.startswith("rank") or target == "launch.py":
                    processes.wait_until(lambda run=run: run.ranks(), run.process, PATIENCE)
                time.sleep(rng.uniform(1.0, 20.0))
            else:
                processes.wait_until(lambda run=run: run.steps(), run.process, PATIENCE)
                time.sleep(rng.uniform(0.0, 3.0))
            when = "starting" if not run.steps() else f"step {run.steps()[-1]}"
            if number:
                run.signal(target, number)
            said = check_end(run, target, number, early)
        except AssertionError as fault:
            faults.append(said := f"FAULT {fault}")
        finally:
            for p in run.alive():
                with contextlib.suppress(psutil.Error):
                    p.kill()
        name = signal.Signals(number).name if number else limited[0]
        print(f"{launcher:9} {name:8} to {target:9} at {when}: {said}", file=sys.__stderr__, flush=True)
    assert not faults, f"{len(faults)} of {MOMENTS}"
