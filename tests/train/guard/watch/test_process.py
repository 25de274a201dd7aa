"""What is read of processes: the command that starts a run again."""

import os
import sys

import pytest

from tests.made import processes
from train.guard.watch.process import command_of, srun_tasks

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
