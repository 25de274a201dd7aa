"""Every fault on each rank in turn, under each launcher: all ranks end, one report names who it was and why, the next start goes on (`make soak`).

Nodes are network namespaces with a real sshd and a real SLURM. One run suffers one fault after another: each start goes on where the one
before was ended. `FAULTS="cut, SIGKILL"` in the environment chooses among them.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.made import cluster, faulty, processes, slurm, tiny
from tests.made.small_disk import empty, fill, small_disk
from tests.made.where import ROOT
from train.world.jit_lock import extensions_folder

pytestmark = [pytest.mark.soak, pytest.mark.slow, pytest.mark.timeout(7200)]
HANG = 30  # guard.hang_seconds
WITHIN = 60  # seconds from a fault to the end of all ranks on all nodes
LINES = 12  # of one screen, launchers' own among them
PATIENCE = 300
SAVED = 5  # steps from a checkpoint to the next
LITTLE = 100_000  # bytes: room for the lines of some steps, not for a checkpoint
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Fault:
    """what, phase: of tests/made/faulty.py; else done from outside. kind, cause: what the report must say."""

    kind: str
    cause: str
    what: str = ""
    phase: str = ""


FAULTS = {
    "raise": Fault("raised", "TypeError: unsupported operand", "raise", "backward"),
    "exit 0": Fault("raised", "asked to exit with 0 from within", "exit", "optimizer"),
    "exit 0 at once": Fault("exited", "ended with exit code 0 before the run did", "exit at once", "forward"),
    "SIGKILL": Fault("killed", "killed by SIGKILL", "kill", "backward"),
    "SIGSTOP": Fault("stopped", "stopped by a signal", "stop", "forward"),
    "NaN": Fault("raised", "not finite", "nan", "forward"),
    "full disk": Fault("raised", "No space left on device|a checkpoint takes .* free"),
    "cut": Fault("unreachable", "cannot be reached over the network"),
    "deadlock": Fault("stuck", "stuck in .*_deadlock", "deadlock", "backward"),
    "exit 3": Fault("exited", "ended with exit code 3", "exit 3", "optimizer"),
    "SIGSEGV": Fault("killed", "killed by SIGSEGV", "segfault", "backward"),
    "out of memory": Fault("raised", "CUDA out of memory.*Lower micro_batch", "out of memory", "forward"),
    "data thread": Fault("raised", "Input/output error", "data thread", "data"),
    "spin": Fault("stuck", "stuck in .*_spin", "spin", "forward"),
    "off": Fault("unreachable", "cannot be reached over the network"),
}
NETWORKS = ("cut", "off")
CHOSEN = [f for f in FAULTS if f in [w.strip() for w in os.environ.get("FAULTS", ",".join(FAULTS)).split(",")]]
# what the command to go on with begins with, which is what was typed or does the same
GO_ON = {
    "ssh": r"deepspeed --hostfile HOSTFILE \S*launch/pretrain.py", "no_ssh": r"deepspeed --hostfile \S+ --master_port \d+ --no_ssh --node_rank \d",
    "torchrun": r"torchrun --logs-specs astrollama --nnodes 2", "slurm": r"srun --nodes=2 --ntasks=2 python\S* \S*launch/pretrain.py",
    "deepspeed, one node": "deepspeed --num_gpus 2", "torchrun, one node": r"torchrun --logs-specs astrollama --nproc-per-node 2", "python": "python",
}  # fmt: skip
# nodes, ranks
LAUNCHERS = {
    "ssh": (2, 2),
    "no_ssh": (2, 2),
    "torchrun": (2, 2),
    "slurm": (2, 2),
    "deepspeed, one node": (1, 2),
    "torchrun, one node": (1, 2),
    "python": (1, 1),
}


@dataclass
class Ground:
    """Nodes, a door that obeys, a recipe whose runs lie on a small disk; SLURM where it is installed."""

    folder: Path
    nodes: cluster.Cluster
    slurm: slurm.Slurm | None
    env: dict[str, str]
    may_be_filled: bool

    @property
    def door(self) -> Path:
        return self.folder / "launch" / "pretrain.py"

    @property
    def order(self) -> Path:
        return self.folder / "order"


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Iterator[Ground]:
    if lacking := cluster.why_not("sshd", "pdsh"):
        pytest.skip(lacking)
    folder = tiny.ground(tmp_path_factory.mktemp("faults"))
    tiny.write_recipe(
        folder, steps=9999, heldout=None, checkpoint={"every_steps": SAVED, "keep_last": 2}, schedule={"warmup_steps": 5},
        guard={"hang_seconds": HANG, "max_nonfinite_in_a_row": 3},
    )  # fmt: skip
    faulty.door(folder, folder / "order")
    own = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "eth0", "TORCH_EXTENSIONS_DIR": str(extensions_folder())}
    (folder / ".deepspeed_env").write_text("".join(f"{k}={v}\n" for k, v in own.items()))  # what DeepSpeed takes to the nodes
    env = os.environ | own | {
        "HOME": str(folder), "PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": described(folder), "SLURM_CONF": str(folder / "nodes" / "slurm" / "slurm.conf"),
        "PDSH_SSH_ARGS_APPEND": "-o ServerAliveInterval=5 -o ServerAliveCountMax=2",
    }  # fmt: skip
    with small_disk(folder / "runs") as may_be_filled, cluster.nodes(2, folder / "nodes") as nodes:
        cluster.with_sshd(nodes)
        has_slurm = not cluster.why_not(*slurm.TOOLS)
        yield Ground(folder, nodes, slurm.slurm(nodes) if has_slurm else None, env, may_be_filled)


def described(folder: Path) -> str:
    """For PYTHONPATH: what setup.py tells of this program, so that torchrun finds its plug-in (launch/command/torchrun.py)."""
    info = folder / "described-0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: described\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[torchrun.logs_specs]\nastrollama = launch.command.torchrun:Brief\n")
    return f"{ROOT}{os.pathsep}{folder}"


@dataclass
class Run:
    """A run under one launcher, started again and again."""

    ground: Ground
    way: str
    name: str
    started: list[subprocess.Popen]
    screens: list[Path]
    starts: int = 0

    @property
    def folder(self) -> Path:
        return self.ground.folder / "runs" / self.name

    @property
    def nodes(self) -> list[cluster.Node]:
        """Those it trains on."""
        return self.ground.nodes[: LAUNCHERS[self.way][0]]

    def commands(self) -> list[tuple[cluster.Node, list]]:
        """What its user types, and where."""
        g, nodes = self.ground, self.nodes
        port, brief = processes.free_port(), ["--logs-specs", "astrollama"]
        train = [g.door, g.folder / "recipe.yaml", f"name={self.name}"]
        if self.way in ("ssh", "no_ssh"):
            hostfile = g.folder / "hostfile"
            hostfile.write_text("".join(f"{n.name} slots=1\n" for n in nodes))
            start = ["deepspeed", "--hostfile", hostfile, "--master_port", port]
            if self.way == "ssh":
                return [(nodes[0], [*start, *train])]
            return [(n, [*start, "--no_ssh", "--node_rank", k, "--master_addr", nodes[0].address, *train]) for k, n in enumerate(nodes)]
        if self.way == "slurm":
            start = ["srun", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", "--kill-on-bad-exit=1", "python"]
            return [(g.nodes.head, [*start, *train])]
        if self.way == "torchrun":
            start = ["torchrun", *brief, "--nnodes", 2, "--nproc-per-node", 1, "--master-addr", nodes[0].address, "--master-port", port]
            return [(n, [*start, "--node-rank", k, *train]) for k, n in enumerate(nodes)]
        start = {
            "deepspeed, one node": ["deepspeed", "--num_gpus", 2, "--master_port", port],
            "torchrun, one node": ["torchrun", *brief, "--nproc-per-node", 2, "--master-port", port],
            "python": ["python"],
        }[self.way]
        return [(nodes[0], [*start, *train])]

    def start(self) -> None:
        """And wait until it trains: from its newest checkpoint, when it is not the first time."""
        before = self.steps()[-1:] or [0]
        self.starts += 1
        self.started, self.screens = [], []
        for k, (node, words) in enumerate(self.commands()):
            self.screens.append(self.ground.folder / f"{self.name}.{self.starts}.{k}")
            with self.screens[-1].open("w") as screen:
                self.started.append(node.start(words, env=self.ground.env, stdout=screen, stderr=subprocess.STDOUT))

        def trains() -> bool:
            assert all(p.poll() is None for p in self.started), f"start {self.starts} has ended:\n{self.said()[-4000:]}"
            return self.steps()[-1:] > [max(before[0], SAVED) + 1]

        processes.wait_until(trains, seconds=PATIENCE)
        assert self.starts == 1 or "resumed from" in self.said(), self.said()[-4000:]

    def said(self) -> str:
        return "".join(f"--- {s.name}\n{s.read_text()}" for s in self.screens)

    def steps(self) -> list[int]:
        file = self.folder / "metrics.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.is_file() else []
        return [r["step"] for r in map(json.loads, (t for t in lines if t.endswith("\n"))) if "loss" in r]

    def reports(self) -> dict[str, dict]:
        return {p.name: json.loads(p.read_text()) for p in (self.folder / "faults").glob("*.json")}

    def processes(self, of_ranks: bool = False) -> list[psutil.Process]:
        """Python's of all its nodes: ranks, launchers, watchers; or ranks alone."""
        found = [p for node in self.nodes for p in node.processes() if "python" in (p.info["cmdline"] or [""])[0]]
        return [p for p in found if str(self.ground.door) in (p.info["cmdline"] or [])[:4]] if of_ranks else found

    def clear(self) -> None:
        """Whatever a test has left."""
        for node in self.nodes:
            with contextlib.suppress(subprocess.CalledProcessError, AssertionError):
                self.ground.nodes.link(node, up=True)
        for p in [*self.processes(), *self.started]:
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                p.kill()
        for p in self.started:
            p.wait(60)
        empty(self.ground.folder / "runs")
        self.ground.order.unlink(missing_ok=True)
        for k, node in enumerate(self.nodes):
            if node.holder.poll() is not None:
                cluster.sshd(self.ground.nodes, self.ground.nodes.grow(node.name))
                if self.ground.slurm:
                    self.ground.slurm.start_node(self.ground.nodes[k])
        if self.way == "slurm":
            self.ground.nodes.head.run(["scancel", "--user=root"], env=self.ground.env)  # an error where a job is ending already
            processes.wait_until(lambda: self.ground.slurm.run("sinfo", "-h", "-o", "%t").split() == ["idle"], seconds=120)


def do(run: Run, name: str, guilty: int) -> float:
    """The fault; when it was done."""
    fault, ground = FAULTS[name], run.ground
    if name == "full disk":
        fill(ground.folder / "runs", but=LITTLE if guilty else 0)  # a checkpoint is what every rank writes, the rest rank 0
    elif name == "cut":
        ground.nodes.link(run.nodes[guilty], up=False)
    elif name == "off":
        run.nodes[guilty].end()
    else:
        faulty.order(ground.order, guilty, fault.phase, fault.what)
        processes.wait_until(lambda: not ground.order.exists(), seconds=60)
    return time.time()


def one_fault(run: Run, name: str, guilty: int) -> str:
    """Do it and see what follows; what to tell."""
    fault, before = FAULTS[name], set(run.reports())
    ends = [s.stat().st_size for s in run.screens]
    began = do(run, name, guilty)
    if run.way == "python" and name == "SIGSTOP":  # alone, a pause is a pause
        time.sleep(20)
        assert run.processes(of_ranks=True) and set(run.reports()) == before
        return "paused, and nothing said"
    processes.wait_until(lambda: not run.processes(of_ranks=True), seconds=WITHIN + 30)
    seconds = time.time() - began
    processes.wait_until(lambda: set(run.reports()) - before, seconds=20)
    if name == "cut":
        run.ground.nodes.link(run.nodes[guilty], up=True)
    codes = [p.wait(60) for p in run.started]
    processes.wait_until(lambda: not run.processes(), seconds=30)
    [report] = [r for file, r in run.reports().items() if file not in before]
    words = [of_a_fault(s.read_text()[end:]) for s, end in zip(run.screens, ends, strict=True)]
    told = f"gone after {seconds:.1f} s, codes {codes}, lines {[len(w) for w in words]}, {report['kind']} {report['ranks']} step {report['step']} {report['phase']}: {report['cause'][:90]}"
    shown = "\n".join(["", told, *(line for w in words for line in w)])
    host = run.nodes[guilty if len(run.nodes) > 1 else 0].name
    assert seconds <= WITHIN and 0 not in codes, shown
    assert report["kind"] == fault.kind and re.search(fault.cause, report["cause"]), shown
    if name != "full disk" or not guilty:  # of a disk that is too small for a checkpoint, whoever met it first
        assert (report["ranks"], report["host"]) == ([guilty], host), shown
    assert report["step"] - (run.steps() or [0])[-1] in ((1,) if fault.phase and name != "NaN" else (0, 1)), (run.steps()[-3:], shown)
    assert not fault.phase or name == "NaN" or report["phase"] == fault.phase, shown
    assert all(len(w) <= LINES for w in words) and "Traceback" not in shown and "gloo" not in shown, shown
    assert re.match(GO_ON[run.way], " ".join(report["command"])), report["command"]
    # the parts of a run that was cut tell it each; a terminal that was lost with its node shows nothing
    told_by = (1, 2) if name == "cut" else (0,) if name == "off" and run.way == "ssh" and not guilty else (1,)
    assert shown.count("\nfault: ") in told_by, shown
    return told


def of_a_fault(screen: str) -> list[str]:
    """Lines that are none of the run's progress."""
    lines = [re.sub(r"^node\d+: ", "", line) for line in screen.splitlines()]  # pdsh says whose they are
    return [line for line in lines if line.strip() and not re.match(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d ", line)]


@pytest.mark.parametrize("way", list(LAUNCHERS))
@pytest.mark.parametrize("guilty", range(2))
def test_whatever_befalls_a_rank_all_end_it_is_named_and_the_next_start_goes_on(ground, way, guilty):
    nodes, ranks = LAUNCHERS[way]
    if guilty >= ranks or way == "slurm" and not ground.slurm:
        pytest.skip("it has one rank" if guilty >= ranks else "SLURM is not installed: slurm-wlm and munge of Debian do")
    run = Run(ground, way, f"{re.sub('[^a-z]+', '_', way)}_{guilty}", [], [])
    tried = [f for f in CHOSEN if (nodes > 1 or f not in NETWORKS) and (f != "full disk" or ground.may_be_filled)]
    failed = []
    for name in tried:
        said = "the start after it"
        try:
            run.start()
            said = one_fault(run, name, guilty)
        except (AssertionError, ValueError, subprocess.TimeoutExpired, psutil.Error) as error:
            failed.append(said := f"FAULT: {error}\n{run.said()[-3000:]}")
        print(f"{way}, {name}, rank {guilty}: {said}", file=sys.__stderr__, flush=True)
        run.clear()
    try:
        run.start()  # after the last one, too
    finally:
        run.clear()
    steps = run.steps()
    assert steps == list(range(1, len(steps) + 1)), "every step once, in order"
    print(f"{way}, rank {guilty}: {len(tried) - len(failed)} of {len(tried)}", file=sys.__stderr__, flush=True)
    assert not failed, "\n".join(failed)
