"""One recipe, four ways onto many nodes, and what faults do there: namespaces as nodes, a real sshd, a real SLURM (`make soak`)."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.made import cluster, processes, slurm, tiny
from tests.made.where import ROOT
from train.checkpoint.manifest import verify
from train.guard import outcome
from train.world.ranks import World

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3000)]
PATIENCE = 900  # one launch imports torch in every rank, launcher and node, on two cores
BIN = Path(sys.executable).parent
LAUNCHERS = ("ssh", "no_ssh", "torchrun", "slurm")


@dataclass
class Ground:
    """Nodes, a recipe, and SLURM where it is installed."""

    folder: Path
    nodes: cluster.Cluster
    slurm: slurm.Slurm | None
    env: dict[str, str]

    def hostfile(self, count: int) -> Path:
        path = self.folder / f"hostfile{count}"
        path.write_text("# made for a test\n\n" + "".join(f"{n.name} slots=1\n" for n in self.nodes[:count]))
        return path

    def lines(self, name: str) -> list[dict]:
        """Steps of a run's metrics.jsonl."""
        file = self.folder / "runs" / name / "metrics.jsonl"
        if not file.exists():
            return []
        records = [json.loads(t) for t in file.read_text().splitlines(keepends=True) if t.endswith("\n")]
        return [r for r in records if "loss" in r]

    def start(self, way: str, count: int, name: str, *words: str, options: tuple = ()) -> list[subprocess.Popen]:
        """The commands a user would give; what they print goes to NAME.log."""
        train = ["launch/pretrain.py", self.folder / "recipe.yaml", f"name={name}", *words]
        log = open(self.folder / f"{name}.log", "a")
        how = {"stdout": log, "stderr": subprocess.STDOUT, "env": self.env | {"HOSTFILE": str(self.hostfile(count))}}
        if way == "ssh":
            command = ["python", "launch/supervise.py", *options, "--", "deepspeed", "--hostfile", self.hostfile(count), *train]
            return [self.nodes[0].start(command, **how)]
        if way == "no_ssh":
            return [n.start(["bash", "launch/multinode.sh", *train[1:]], **how) for n in self.nodes[:count]]
        if way == "torchrun":
            command = ["torchrun", f"--nnodes={count}", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-endpoint=node1:29400",
                       f"--rdzv-id={name}", *options, *train]  # fmt: skip
            return [n.start(command, **how) for n in self.nodes[:count]]
        raise AssertionError(way)

    def submit(self, count: int, name: str, *words: str, options: tuple = ()) -> str:
        """launch/slurm.sbatch as its user submits it; the number of the job."""
        small = [f"--nodes={count}", "--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1", "--time=60",
                 f"--output={self.folder}/{name}.log", *options]  # fmt: skip
        said = self.slurm.run("sbatch", *small, "launch/slurm.sbatch", self.folder / "recipe.yaml", f"name={name}", *words, env=self.env)
        return said.split()[-1]

    def ended(self, job: str) -> str:
        processes.wait_until(lambda: self.slurm.state(job) not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"), seconds=PATIENCE)
        return self.slurm.state(job)

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def ranks(self, name: str) -> dict[int, psutil.Process]:
        found = {}
        for node in self.nodes:
            found |= node.ranks(f"name={name}")
        return found

    def wait_for_step(self, name: str, step: int, *of: subprocess.Popen) -> None:
        def reached() -> bool:
            assert not of or any(p.poll() is None for p in of), self.said(name)
            return any(r["step"] >= step for r in self.lines(name))

        processes.wait_until(reached, seconds=PATIENCE)


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Iterator[Ground]:
    if reason := cluster.why_not("sshd", "pdsh"):
        pytest.skip(reason)
    folder = tiny.ground(tmp_path_factory.mktemp("nodes"))
    tiny.write_recipe(folder, steps=6, tokens_per_step=512, checkpoint={"every_steps": 3})
    own = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "eth0"}
    if "TORCH_EXTENSIONS_DIR" in os.environ:
        own |= {"TORCH_EXTENSIONS_DIR": os.environ["TORCH_EXTENSIONS_DIR"]}
    (folder / ".deepspeed_env").write_text("".join(f"{k}={v}\n" for k, v in own.items()))  # what DeepSpeed takes to the nodes
    env = os.environ | own | {"HOME": str(folder), "PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "VENV": str(BIN.parent)}
    env |= {"SLURM_CONF": str(folder / "nodes" / "slurm" / "slurm.conf")}
    with cluster.nodes(4, folder / "nodes") as nodes:
        cluster.with_sshd(nodes)
        has_slurm = not cluster.why_not(*slurm.TOOLS)
        yield Ground(folder, nodes, slurm.slurm(nodes) if has_slurm else None, env)


@pytest.fixture(scope="module")
def one(ground) -> list[dict]:
    """The same run on one node."""
    done = processes.run(
        [BIN / "python", "launch/pretrain.py", ground.folder / "recipe.yaml", "name=one"], env=ground.env, seconds=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return ground.lines("one")


@pytest.mark.parametrize("count", (2, 4))
@pytest.mark.parametrize("way", LAUNCHERS)
def test_many_nodes_train_as_one_does(ground, one, way, count):
    name = f"{way}{count}"
    if way == "slurm":
        if not ground.slurm:
            pytest.skip("SLURM is not installed: slurm-wlm and munge of Debian do")
        job = ground.submit(count, name)
        assert ground.ended(job) == "COMPLETED", ground.said(name)
    else:
        started = ground.start(way, count, name)
        codes = [p.wait(PATIENCE) for p in started]
        assert codes == [0] * len(started), ground.said(name)
    got = ground.lines(name)
    assert [r["step"] for r in got] == [r["step"] for r in one] and len(got) == 6
    worst = max(abs(a["loss"] - b["loss"]) / b["loss"] for a, b in zip(got, one))
    assert worst <= 1e-6
    assert f"over {count} ranks, 1 a node" in ground.said(name)
    print(f"{way}, {count} nodes: losses within {worst:.1e} of one node's")


@pytest.fixture
def on_slurm(ground) -> slurm.Slurm:
    if not ground.slurm:
        pytest.skip("SLURM is not installed: slurm-wlm and munge of Debian do")
    return ground.slurm


@pytest.mark.parametrize("limit", ["told", "real"])
def test_slurm_saves_before_the_time_limit_and_queues_the_job_again(ground, on_slurm, limit):
    """told: the signal alone, as --signal=B:USR1@300 has it sent. real: SLURM's own clock; it signals up to a minute early."""
    name = f"limit_{limit}"
    options = ("--time=3", "--signal=B:USR1@45") if limit == "real" else ()
    job = ground.submit(2, name, "steps=9999", "checkpoint.every_steps=0", options=options)
    ground.wait_for_step(name, 5)
    if limit == "told":
        on_slurm.run("scancel", "--signal=USR1", "--batch", job)
    processes.wait_until(lambda: "back into the queue" in ground.said(name), seconds=PATIENCE)
    saved = ground.lines(name)[-1]["step"]
    assert [p.name for p in (ground.folder / "runs" / name / "checkpoints").glob("step_*")] == [f"step_{saved:06}"]
    ground.wait_for_step(name, saved + 3)  # by itself
    on_slurm.run("scancel", job)
    assert ground.ended(job) == "CANCELLED", ground.said(name)
    processes.wait_until(lambda: not ground.ranks(name), seconds=60)
    steps = [r["step"] for r in ground.lines(name)]
    assert steps == list(range(1, len(steps) + 1))
    newest = max(p.name for p in (ground.folder / "runs" / name / "checkpoints").glob("step_*"))
    assert newest == f"step_{steps[-1]:06}", "scancel saved"
    assert json.loads((ground.folder / "runs" / name / "outcome.json").read_text())["exit_code"] == 75


MOMENTS = int(os.environ.get("SLURM_MOMENTS", 8))


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_a_stop_under_slurm_at_any_moment_is_saved_or_what_was_complete_stands(ground, on_slurm, moment):
    rng = random.Random(f"{moment} {os.environ.get('STOP_SEED', 0)}")
    name, way, early = f"moment{moment}", ("scancel", "USR1")[moment % 2], moment % 4 < 2
    job = ground.submit(2, name, "steps=9999", "checkpoint.every_steps=3", "heldout.every_steps=4")
    if early:
        processes.wait_until(lambda: ground.ranks(name), seconds=PATIENCE)
    else:
        ground.wait_for_step(name, 1)
    time.sleep(rng.uniform(0, 20 if early else 4))
    at = ground.lines(name)[-1]["step"] if ground.lines(name) else 0
    if way == "USR1":  # as before a time limit
        on_slurm.run("scancel", "--signal=USR1", "--batch", job)
        processes.wait_until(lambda: "back into the queue" in ground.said(name), seconds=PATIENCE)
    began = time.monotonic()
    on_slurm.run("scancel", job)
    assert ground.ended(job) == "CANCELLED", ground.said(name)
    processes.wait_until(lambda: not ground.ranks(name), seconds=60)
    run = ground.folder / "runs" / name
    found, complete = outcome.read(run), sorted((run / "checkpoints").glob("step_" + "[0-9]" * 6))
    told = f"{way} at {f'step {at}' if at else 'its start'}: {found}, gone after {time.monotonic() - began:.1f} s"
    print(told, file=sys.__stderr__, flush=True)
    steps = [r["step"] for r in ground.lines(name)]
    assert steps == list(range(1, len(steps) + 1)), told
    assert all(not verify(folder, World(0, 1, 0, None)) for folder in complete) and not list(run.glob("checkpoints/*.tmp-*")), told
    assert not steps or (found.ended, found.exit_code, complete[-1].name) == ("preempted", 75, f"step_{steps[-1]:06}"), told
    assert steps or not complete and (found is None or found.exit_code == 75), told


def test_a_dead_rank_under_slurm_and_a_dead_node_are_started_again_without_a_human_act(ground, on_slurm):
    job = ground.submit(2, "deaths", "steps=9999", "checkpoint.every_steps=3", "guard.timeout_seconds=30")
    ground.wait_for_step("deaths", 5)
    ground.ranks("deaths")[1].kill()
    processes.wait_until(lambda: "supervise: start 1 ended" in ground.said("deaths"), seconds=PATIENCE)
    step = ground.lines("deaths")[-1]["step"]
    ground.wait_for_step("deaths", step + 5)
    assert on_slurm.state(job) == "RUNNING"
    dead = next(n for n in ground.nodes if 1 in n.ranks("name=deaths"))
    step = ground.lines("deaths")[-1]["step"]
    dead.end()
    ground.wait_for_step("deaths", step + 5)  # SLURM has queued it again, on nodes that live
    on_slurm.run("scancel", job)
    assert ground.ended(job) == "CANCELLED"
    steps = [r["step"] for r in ground.lines("deaths")]
    assert steps == list(range(1, len(steps) + 1))
    back = ground.nodes.grow(dead.name)
    on_slurm.start_node(back)
    cluster.sshd(ground.nodes, back)


def test_a_node_that_dies_under_ssh_is_left_out_and_comes_back_at_the_next_start(ground):
    [process] = ground.start(
        "ssh", 3, "gone", "steps=9999", "checkpoint.every_steps=3", "guard.timeout_seconds=30", options=("--wait", "1")
    )
    ground.wait_for_step("gone", 5, process)
    dead = ground.nodes[2]
    dead.end()
    step = ground.lines("gone")[-1]["step"]
    ground.wait_for_step("gone", step + 5, process)
    assert "without node3: not reached by ssh" in ground.said("gone") and set(ground.ranks("gone")) == {0, 1}
    back = ground.nodes.grow("node3")
    cluster.sshd(ground.nodes, back)
    ground.ranks("gone")[1].kill()
    step = ground.lines("gone")[-1]["step"]
    processes.wait_until(lambda: len(ground.ranks("gone")) == 3, process, seconds=PATIENCE)
    ground.wait_for_step("gone", step + 5, process)
    ground.nodes[0].started(process).terminate()
    assert process.wait(PATIENCE) == 75, ground.said("gone")
    processes.wait_until(lambda: not ground.ranks("gone"), seconds=60)
    steps = [r["step"] for r in ground.lines("gone")]
    assert steps == list(range(1, len(steps) + 1))


def test_without_ssh_a_dead_rank_is_started_again_and_a_stop_on_one_node_ends_the_calls_of_all_with_75(ground):
    calls = ground.start("no_ssh", 2, "calls", "steps=9999", "checkpoint.every_steps=3", "guard.timeout_seconds=30")
    ground.wait_for_step("calls", 5, *calls)
    ground.ranks("calls")[1].kill()
    step = ground.lines("calls")[-1]["step"]
    ground.wait_for_step("calls", step + 5, *calls)
    ground.nodes[1].started(calls[1]).terminate()
    assert [p.wait(PATIENCE) for p in calls] == [75, 75], ground.said("calls")
    assert not ground.ranks("calls")
    steps = [r["step"] for r in ground.lines("calls")]
    assert steps == list(range(1, len(steps) + 1))
    newest = max(p.name for p in (ground.folder / "runs" / "calls" / "checkpoints").glob("step_*"))
    assert newest == f"step_{steps[-1]:06}"


def test_from_a_login_node_onto_nodes_of_unequal_size_and_a_stop_there(ground):
    hostfile = ground.folder / "unequal"
    hostfile.write_text("node1 slots=2\nnode2 slots=1\n")
    log = open(ground.folder / "login.log", "w")
    command = ["python", "launch/supervise.py", "--", "deepspeed", "--hostfile", hostfile, "launch/pretrain.py", ground.folder / "recipe.yaml",
               "name=login", "steps=9999", "checkpoint.every_steps=0"]  # fmt: skip
    process = ground.nodes.head.start(command, stdout=log, stderr=subprocess.STDOUT, env=ground.env)
    ground.wait_for_step("login", 3, process)
    assert "over 3 ranks, 2 a node" in ground.said("login")
    ground.nodes.head.started(process).terminate()
    assert process.wait(PATIENCE) == 75, ground.said("login")
    assert not ground.ranks("login")
    step = ground.lines("login")[-1]["step"]
    assert [p.name for p in (ground.folder / "runs" / "login" / "checkpoints").glob("step_*")] == [f"step_{step:06}"]
