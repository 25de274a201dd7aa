"""A run that loses nodes goes on with those that are left, and takes them back: torchrun's own elasticity, three nodes (`make soak`)."""

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

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3000)]
PATIENCE = 900
BIN = Path(sys.executable).parent


def steps_of(run: Path) -> list[dict]:
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [r for r in map(json.loads, (t for t in lines if t.endswith("\n"))) if "loss" in r]


def newest(run: Path) -> int:
    return max((r["step"] for r in steps_of(run)), default=0)


@pytest.mark.parametrize("fault", ["power", "cable"])
def test_a_node_is_lost_the_others_go_on_and_it_comes_back(tmp_path, fault):
    """power: started again, it runs its command, as a node's boot or scheduler does. cable: nobody does anything but plug it in."""
    if reason := cluster.why_not():
        pytest.skip(reason)
    folder = tiny.ground(tmp_path, documents=4000)
    tiny.write_recipe(
        folder, steps=9999, tokens_per_step=768, checkpoint={"every_steps": 10, "keep_last": 3}, guard={"timeout_seconds": 30},
    )  # fmt: skip
    env = os.environ | {
        "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "eth0", "PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    run = folder / "runs" / "elastic"

    def start(node: cluster.Node) -> subprocess.Popen:
        log = open(folder / f"{node.name}.log", "a")
        command = ["python", "launch/supervise.py", "--", "torchrun", "--nnodes=2:3", "--nproc-per-node=1", "--max-restarts=50",
                   "--rdzv-backend=c10d", "--rdzv-endpoint=node1:29400", "--rdzv-id=e", "launch/pretrain.py", folder / "recipe.yaml",
                   "name=elastic"]  # fmt: skip
        return node.start(command, env=env, stdout=log, stderr=subprocess.STDOUT)

    def wait(what, why: str) -> float:
        began = time.monotonic()
        processes.wait_until(what, seconds=PATIENCE)
        took = time.monotonic() - began
        print(f"{why}: {took:.0f} s, at step {newest(run)}", flush=True)
        return took

    def worlds() -> list[int]:
        log = run / "log.txt"
        return [int(n) for n in re.findall(r"parameters over (\d) ranks, \d a node", (log.read_text() if log.exists() else ""))]

    with cluster.nodes(3, folder / "nodes") as nodes:
        started = {n.name: start(n) for n in nodes}
        wait(lambda: newest(run) >= 15, "three nodes train")
        nodes[2].end() if fault == "power" else nodes.link(nodes[2], up=False)
        at = newest(run)
        wait(lambda: newest(run) > at + 15, "two go on")
        if fault == "power":
            started["node3"] = start(nodes.grow("node3"))
        else:
            nodes.link(nodes[2], up=True)
        wait(lambda: any(n.ranks("name=elastic") for n in nodes[2:]) and worlds_again(folder) >= 2, "the node is taken back")
        at = newest(run)
        wait(lambda: newest(run) > at + 15, "three train again")
        for node in nodes:
            for process in node.processes():
                if "launch/supervise.py" in process.info["cmdline"]:
                    process.send_signal(signal.SIGTERM)
        codes = {name: p.wait(PATIENCE) for name, p in started.items()}
    print(codes, worlds())
    got = steps_of(run)
    assert [r["step"] for r in got] == list(range(1, len(got) + 1)), "every step once, in order"
    assert codes["node1"] == codes["node2"] == codes["node3"] == 75, codes
    alone = processes.start(
        [BIN / "python", "launch/pretrain.py", folder / "recipe.yaml", "name=one", "checkpoint.every_steps=0"],
        env=env | {"GLOO_SOCKET_IFNAME": "lo"}, **processes.QUIET,
    )  # fmt: skip
    processes.wait_until(lambda: newest(folder / "runs" / "one") >= len(got), alone, seconds=PATIENCE)
    processes.end(alone)
    for a, b in zip(got, steps_of(folder / "runs" / "one")):
        assert (a["step"], a["tokens"]) == (b["step"], b["tokens"])
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5), a["step"]
    print(f"{len(got)} steps, losses within", max(abs(a["loss"] / b["loss"] - 1) for a, b in zip(got, steps_of(folder / "runs" / "one"))))


def worlds_again(folder: Path) -> int:
    """How often torchrun has put three ranks together."""
    said = "".join((folder / f"node{n}.log").read_text() for n in (1, 2))
    return len(re.findall(r"parameters over 3 ranks", said))
