"""Every fault on each rank in turn, on nodes that are network namespaces, under both launchers: all ranks end, the report names who it was."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.made import cluster, processes, tiny
from tests.made.where import ROOT

pytestmark = [pytest.mark.soak, pytest.mark.slow, pytest.mark.timeout(900)]
NODES, HANG = 2, 30
BIN = Path(sys.executable).parent
KINDS = {
    "raise": "raised", "exit": "raised", "out of memory": "raised", "nan": "raised", "exit at once": "exited", "exit 3": "exited", "kill": "killed",
    "segfault": "killed", "stop": "stopped", "deadlock": "stuck", "spin": "stuck", "data thread": "raised", "cut": "unreachable", "off": "unreachable",
}  # fmt: skip
FROM_OUTSIDE = ("cut", "off")
PHASES = {"nan": "forward", "data thread": "data"}  # else backward
LINES = 12  # on a screen, launchers' own among them


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Path:
    if lacking := cluster.why_not():
        pytest.skip(lacking)
    folder = tiny.ground(tmp_path_factory.mktemp("faults"))
    tiny.write_recipe(
        folder,
        steps=9999,
        checkpoint={"every_steps": 5},
        schedule={"warmup_steps": 5},
        guard={"hang_seconds": HANG, "max_nonfinite_in_a_row": 3},
    )
    return folder


def ranks_of(node: cluster.Node) -> list:
    """Its training processes, whose command a launcher's own also holds: those a launcher has started."""
    of_run = [p for p in node.processes() if "tests/made/faulty.py" in (p.info["cmdline"] or [])]
    return [p for p in of_run if "python" in p.info["cmdline"][0] and not {"-m", "--no_ssh", "--nnodes"} & set(p.info["cmdline"])]


def words_after_steps(screen: Path) -> list[str]:
    """What stands on a screen from the first step on that is no line of the run's progress."""
    lines = screen.read_text().splitlines()
    first = next((i for i, line in enumerate(lines) if " step 1/" in line), len(lines))
    return [line for line in lines[first:] if line.strip() and not re.match(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d ", line)]


def installed(folder: Path) -> str:
    """For PYTHONPATH: what setup.py tells of this program, so that torchrun finds its plug-in (launch/command/torchrun.py)."""
    info = folder / "described-0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: described\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[torchrun.logs_specs]\nastrollama = launch.command.torchrun:Brief\n")
    return f"{ROOT}{os.pathsep}{folder}"


def fault_of(fault: str, guilty: int) -> str:
    """For the environment of tests/made/faulty.py."""
    return "none 0 data raise" if fault in FROM_OUTSIDE else f"{guilty} 7 {PHASES.get(fault, 'backward')} {fault}"


def command(launcher: str, node: int, address: str, port: int, hostfile: Path, words: list) -> list:
    if launcher == "deepspeed":
        where = ["--hostfile", hostfile, "--no_ssh", "--node_rank", node, "--master_addr", address, "--master_port", port]
    else:
        where = [
            "--logs-specs",
            "astrollama",
            "--nnodes",
            NODES,
            "--node-rank",
            node,
            "--nproc-per-node",
            1,
            "--master-addr",
            address,
            "--master-port",
            port,
        ]
    return [BIN / launcher, *where, "tests/made/faulty.py", *words]


@pytest.mark.parametrize("launcher", ["deepspeed", "torchrun"])
@pytest.mark.parametrize("guilty", range(NODES))
@pytest.mark.parametrize("fault", KINDS)
def test_all_ranks_on_all_nodes_end_and_the_guilty_one_is_named(ground, tmp_path, launcher, guilty, fault):
    name = f"{launcher}_{fault.replace(' ', '_')}_{guilty}"
    run, port = ground / "runs" / name, processes.free_port()
    env = os.environ | {
        "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "eth0", "PYTHONPATH": installed(tmp_path), "PATH": f"{BIN}:{os.environ['PATH']}",
        "FAULT": fault_of(fault, guilty),
    }  # fmt: skip
    with cluster.nodes(NODES, tmp_path / "cluster") as nodes:
        hostfile = tmp_path / "hostfile"
        hostfile.write_text("".join(f"{n.name} slots=1\n" for n in nodes))
        started, screens = [], [tmp_path / f"screen{k}" for k in range(NODES)]
        for k, node in enumerate(nodes):
            words = command(launcher, k, nodes[0].address, port, hostfile, [ground / "recipe.yaml", f"name={name}"])
            with screens[k].open("w") as screen:
                started.append(node.start(words, env=env, stdout=screen, stderr=subprocess.STDOUT))
        metrics = run / "metrics.jsonl"
        processes.wait_until(lambda: metrics.is_file() and '"step": 6,' in metrics.read_text(), seconds=300)
        if fault == "cut":
            nodes.link(nodes[guilty], up=False)
        elif fault == "off":
            nodes[guilty].end()
        began = time.time() if fault in FROM_OUTSIDE else metrics.stat().st_mtime
        alive = [n for n in nodes if not (fault == "off" and n is nodes[guilty])]
        processes.wait_until(lambda: not any(ranks_of(n) for n in alive), seconds=HANG + 45)
        print(f"{name}: all ranks gone after {time.time() - began:.1f} s")
        for process in started:
            process.wait(60)
            assert process.returncode != 0
        processes.wait_until(lambda: not any(n.processes() for n in alive), seconds=30)
    [file] = (run / "faults").glob("*.json")
    report = json.loads(file.read_text())
    named = guilty if fault != "off" else 1  # of two parts of one size, who is left cannot tell whether it is the one that was left
    assert (report["ranks"], report["kind"], report["host"]) == ([named], KINDS[fault], f"node{named + 1}"), report
    said = [words_after_steps(s) for s in screens]
    print(f"{name}: {[len(words) for words in said]} lines", file=sys.__stderr__, flush=True)
    for words in said:
        assert len(words) <= LINES and not any("gloo" in line for line in words), "\n".join(words)
    assert sum(line.startswith("fault: ") for words in said for line in words) in ((1, 2) if fault == "cut" else (1,))


ONE_NODE = {"python": 1, "deepspeed": 2, "torchrun": 2}  # ranks


@pytest.mark.parametrize("launcher", list(ONE_NODE))
@pytest.mark.parametrize("fault", [f for f in KINDS if f not in FROM_OUTSIDE])
def test_on_one_node_too_all_end_the_guilty_one_is_named_and_the_next_start_resumes(ground, tmp_path, launcher, fault):
    """The last rank is the guilty one; the default patience, where nothing moves."""
    guilty, name = ONE_NODE[launcher] - 1, f"one_{launcher}_{fault.replace(' ', '_')}"
    run, screen = ground / "runs" / name, tmp_path / "screen"
    env = os.environ | {
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": installed(tmp_path),
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    start = {
        "python": [sys.executable],
        "deepspeed": [BIN / "deepspeed", "--num_gpus", 2, "--master_port", processes.free_port()],
        "torchrun": [BIN / "torchrun", "--logs-specs", "astrollama", "--nproc-per-node", 2, "--master-port", processes.free_port()],
    }[launcher]
    words = [*start, "tests/made/faulty.py", ground / "recipe.yaml", f"name={name}", "guard.hang_seconds=45"]
    with screen.open("w") as to:
        process = processes.start(words, env=env | {"FAULT": fault_of(fault, guilty)}, stdout=to, stderr=subprocess.STDOUT)
    metrics = run / "metrics.jsonl"
    processes.wait_until(lambda: metrics.is_file() and '"step": 6,' in metrics.read_text(), process, seconds=300)
    began = time.time()
    if launcher == "python" and fault == "stop":  # alone, a pause is a pause
        time.sleep(20)
        assert process.poll() is None and not list((run / "faults").glob("*.json"))
        os.killpg(process.pid, signal.SIGKILL)
        return
    code = process.wait(45 + 60)
    print(f"{name}: ended with {code} after {time.time() - began:.1f} s", file=sys.__stderr__, flush=True)
    assert code != 0 or fault in ("exit", "exit at once"), screen.read_text()[-3000:]
    processes.wait_until(lambda: list((run / "faults").glob("*.json")), seconds=20)
    [file] = (run / "faults").glob("*.json")
    report = json.loads(file.read_text())
    assert (report["ranks"], report["kind"], report["step"]) == ([guilty], KINDS[fault], report["step"]) and report["cause"], report
    said = words_after_steps(screen)
    print(f"{name}: {len(said)} lines", file=sys.__stderr__, flush=True)
    assert len(said) <= LINES and sum(line.startswith("fault: ") for line in said) == 1, "\n".join(said)
    with screen.open("w") as to:
        process = processes.start(words, env=env | {"FAULT": "none 0 data raise"}, stdout=to, stderr=subprocess.STDOUT)
    processes.wait_until(lambda: "resumed from" in screen.read_text() and " step 6/" in screen.read_text(), process, seconds=300)
    process.terminate()
    process.wait(60)
