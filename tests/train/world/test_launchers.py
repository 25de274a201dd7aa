"""Who a process is among a run's processes, from the variables of each launcher, and what is refused."""

import os
import sys

import pytest

from tests.made import processes, tiny
from tests.made.ranks import run_ranks
from train.world.launchers import Place, WorldError, first_host, place_of

DEEPSPEED = {"RANK": "3", "WORLD_SIZE": "16", "LOCAL_RANK": "3", "LOCAL_SIZE": "8"}
TORCHRUN = {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8"}
SRUN = {
    "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1",
    "SLURM_GTIDS": "4,5,6,7", "SLURM_STEP_NODELIST": "gpu[03-04]",
}  # fmt: skip
BATCH = {
    "SLURM_JOB_ID": "4711",
    "SLURM_PROCID": "0",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "0",
    "SLURM_JOB_NODELIST": "gpu[03-04]",
    "SLURM_GTIDS": "0",
}


@pytest.mark.parametrize("env, place", [
    ({}, Place()),
    ({"LOCAL_RANK": "0"}, Place()),
    (DEEPSPEED, Place(3, 16, 3, 8)),
    (TORCHRUN, Place(9, 16, 1, 8)),
    ({"RANK": "0", "WORLD_SIZE": "1"}, Place()),
    (SRUN, Place(5, 8, 1, 4, "gpu03", 24711)),
    (SRUN | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_GTIDS": "0,1,2,3"}, Place(0, 8, 0, 4, "gpu03", 24711)),
    ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, Place(1, 2, 0, None, "127.0.0.1", 20000)),
    ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, Place(0, 2, 0, None, "127.0.0.1", 20000)),
    (BATCH, Place()),  # a batch script itself is one process
    (SRUN | {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"}, Place()),
    (SRUN | TORCHRUN, Place(9, 16, 1, 8)),  # torchrun or deepspeed within srun, one task a node
    (BATCH | DEEPSPEED, Place(3, 16, 3, 8)),
])  # fmt: skip
def test_each_launchers_variables_are_read(env, place):
    assert place_of(env) == place


@pytest.mark.parametrize("env, said", [
    ({"RANK": "1"}, "RANK=1 is set and WORLD_SIZE is not"),
    ({"WORLD_SIZE": "4"}, "WORLD_SIZE=4 is set and RANK is not"),
    ({"RANK": "2", "WORLD_SIZE": "2"}, "rank 2 of 2 ranks"),
    ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK=x: not a whole number"),
    ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK=-1: not a whole number"),
    (DEEPSPEED | {"LOCAL_RANK": "8"}, "local rank 8 of 8 ranks on this node"),
    (TORCHRUN | {"LOCAL_WORLD_SIZE": "32"}, "local rank 1 of 32 ranks on this node, 16 in all"),
    (SRUN | {"SLURM_PROCID": "8"}, "rank 8 of 8 ranks"),
    (SRUN | {"SLURM_LOCALID": "4"}, "local rank 4 of 4 ranks"),
    (SRUN | {"SLURM_STEP_NUM_TASKS": "many"}, "SLURM_STEP_NUM_TASKS=many: not a whole number"),
    (SRUN | {"RANK": "1"}, "RANK=1 is set and WORLD_SIZE is not"),
])  # fmt: skip
def test_numbers_that_contradict_each_other_are_refused_by_name(env, said):
    with pytest.raises(WorldError) as error:
        place_of(env)
    assert said in str(error.value)


@pytest.mark.parametrize("nodes, first", [
    ("gpu03", "gpu03"), ("gpu[03-05,9],login", "gpu03"), ("a1,a2", "a1"), ("rack1-node[7]", "rack1-node7"), ("n[001-128].cluster", "n001.cluster"),
    ("10.0.0.5,10.0.0.6", "10.0.0.5"),
])  # fmt: skip
def test_the_first_of_slurms_hosts(nodes, first):
    assert first_host(nodes) == first


def shared_by(world) -> int:
    return world.local_size


@pytest.mark.slow
def test_the_ranks_of_a_node_are_those_that_share_it():
    assert run_ranks(shared_by, 2) == [2, 2]


@pytest.mark.slow
def test_tasks_that_srun_alone_has_started_train_together(tmp_path):
    ground = tiny.ground(tmp_path)
    job = str(int.from_bytes(os.urandom(2), "big"))
    free = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")}
    tasks = [
        processes.start(
            [sys.executable, "launch/pretrain.py", ground / "recipe.yaml"],
            env=free | {"OMP_NUM_THREADS": "1", "SLURM_JOB_ID": job, "SLURM_STEP_ID": "0", "SLURM_PROCID": str(r), "SLURM_NTASKS": "2", "SLURM_LOCALID": str(r)},
        )
        for r in range(2)
    ]  # fmt: skip
    said = [task.communicate(timeout=100) for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], said
    assert "parameters over 2 ranks" in said[0][0] and "done: 4 steps" in said[0][0] and said[1] == ("", ""), said
