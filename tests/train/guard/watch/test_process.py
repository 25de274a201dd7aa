"""What is read of processes: how they ended, whoever has asked before, and the command that starts a run again."""

import mmap
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.made import processes
from train.guard.watch import process
from train.guard.watch.heartbeat import _leaving_told
from train.guard.watch.process import command_of, srun_tasks
from train.guard.watch.watcher import Watcher
from train.world import beat

OWN = ["python3", "launch/pretrain.py", "R.yaml", "name=x"]
ASKS = "import os, sys\nsys.path.insert(0, {root!r})\nfrom train.guard.watch.process import command_of\nprint(*command_of('launch/pretrain.py', {own!r}, {env!r}))"


@pytest.mark.parametrize(
    "env, tasks",
    [
        ({}, []),
        ({"SLURM_JOB_ID": "7"}, []),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1"}, []),  # a shell in an allocation
        ({"SLURM_STEP_NUM_TASKS": "16", "SLURM_STEP_NUM_NODES": "2"}, ["--nodes=2", "--ntasks=16"]),
    ],
)
def test_the_command_of_ranks_that_srun_started_starts_as_many(env, tasks):
    assert srun_tasks(env) == tasks
    assert command_of("launch/pretrain.py", OWN, env) == (["srun", *tasks, *OWN] if tasks else OWN)


@pytest.mark.slow
@pytest.mark.parametrize(
    "above, given",
    [
        (["-m", "deepspeed.launcher.launch", "--node_rank=0", *OWN[1:]], "deepspeed --hostfile HOSTFILE launch/pretrain.py R.yaml name=x"),
        (["launch/supervise.py", "--", "deepspeed", *OWN[1:]], "python launch/supervise.py -- deepspeed launch/pretrain.py R.yaml name=x"),
    ],
)
def test_the_command_is_that_of_the_launcher_above_or_one_that_does_the_same(above, given):
    """The launcher is this Python with its words behind a script that asks from below."""
    asks = ASKS.format(root=os.getcwd(), own=OWN, env={})
    script = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {asks!r}]))"
    done = processes.run(["python", "-c", script, *above], executable=sys.executable, check=True)
    assert done.stdout.strip().replace(f"-c {script} ", "") == given


def forked(does) -> int:
    """A child that does this, and nothing else of the test."""
    if pid := os.fork():
        return pid
    try:
        does()
    finally:
        os.kill(os.getpid(), signal.SIGKILL)


def noted() -> tuple[beat.Beat, mmap.mmap]:
    block, told = mmap.mmap(-1, beat.SIZE), beat.Beat()
    told.tell(block)
    return told, block


def status(block: mmap.mmap, notes: Path, pidfd: int | None = None) -> int | None:
    """What a watcher makes of a dead rank whose launcher has asked first."""
    of = SimpleNamespace(_end=[] if pidfd is None else [pidfd], block=block, watched=SimpleNamespace(notes=notes))
    return Watcher._status(of, process.GONE)


@pytest.mark.slow
@pytest.mark.parametrize("does, wanted", [(lambda: os._exit(3), 3 << 8), (lambda: os._exit(0), 0), (lambda: os.kill(os.getpid(), 9), 9)])
def test_how_a_rank_ended_is_known_though_its_launcher_asked_first(tmp_path, does, wanted):
    told, block = noted()

    def leaves() -> None:
        with _leaving_told(told):
            if other := os.fork():
                os.waitpid(other, 0)
                does()
            os._exit(5)  # a child of the rank, which has its block

    pid = forked(leaves)
    end = os.pidfd_open(pid)
    seen = os.waitpid(pid, 0)[1]
    assert seen == (wanted or 1 << 8), "0 in the midst of a run is no success"
    assert status(block, tmp_path / "none") == (None if wanted == 9 else wanted), "on any Linux"
    assert process.exit_status(end) in (seen, None) and status(block, tmp_path / "none", end) in (wanted, None)
    assert "SIGKILL" in process.how_it_ended(None)
    os.close(end)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL"])
def test_a_signal_that_faulthandler_saw_is_named(tmp_path, name):
    number = getattr(signal, name)
    with (tmp_path / "notes").open("w") as notes:
        died = processes.run([sys.executable, "-X", "faulthandler", "-c", f"import os; os.kill(os.getpid(), {int(number)})"], stderr=notes)
    _, block = noted()
    assert died.returncode == -number == -status(block, tmp_path / "notes")
    assert process.how_it_ended(status(block, tmp_path / "notes")) == f"killed by {name}"
