"""Every fault on each rank in turn, on nodes that are network namespaces, under both launchers: all ranks end, the report names who it was."""

import json
import os
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
    "segfault": "killed", "stop": "stopped", "deadlock": "stuck", "spin": "stuck", "cut": "unreachable", "off": "unreachable",
}  # fmt: skip
FROM_OUTSIDE = ("cut", "off")


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


def command(launcher: str, node: int, address: str, port: int, hostfile: Path, words: list) -> list:
    if launcher == "deepspeed":
        where = ["--hostfile", hostfile, "--no_ssh", "--node_rank", node, "--master_addr", address, "--master_port", port]
    else:
        where = ["--nnodes", NODES, "--node-rank", node, "--nproc-per-node", 1, "--master-addr", address, "--master-port", port]
    return [BIN / launcher, *where, "tests/made/faulty.py", *words]


@pytest.mark.parametrize("launcher", ["deepspeed", "torchrun"])
@pytest.mark.parametrize("guilty", range(NODES))
@pytest.mark.parametrize("fault", KINDS)
def test_all_ranks_on_all_nodes_end_and_the_guilty_one_is_named(ground, tmp_path, launcher, guilty, fault):
    name = f"{launcher}_{fault.replace(' ', '_')}_{guilty}"
    run, port = ground / "runs" / name, processes.free_port()
    env = os.environ | {
        "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "eth0", "PYTHONPATH": str(ROOT), "PATH": f"{BIN}:{os.environ['PATH']}",
        "FAULT": "none 0 data raise" if fault in FROM_OUTSIDE else f"{guilty} 7 backward {fault}".replace("backward nan", "forward nan"),
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
    ours = [
        line
        for s in screens
        for line in s.read_text().splitlines()
        if line.startswith(("fault: ", "  documents", "  others", "  newest", "  go on", "  report"))
    ]
    assert 0 < len(ours) <= 12 and not any("gloo" in line for line in ours)
