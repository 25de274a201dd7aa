"""The doctor on three nodes, one of which has something the others have not: it is found and named, soon (`make soak`)."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path

import pytest

from tests.made import cluster, processes, tiny
from tests.made.where import ROOT

pytestmark = [pytest.mark.soak, pytest.mark.slow, pytest.mark.timeout(1800)]
BIN = Path(sys.executable).parent
BAD = 1  # the node with the defect
SECONDS = 20.0  # beyond the launch


@pytest.fixture(scope="module")
def nodes(tmp_path_factory) -> Iterator[cluster.Cluster]:
    if lacking := cluster.why_not("tc", "prlimit"):
        pytest.skip(lacking)
    folder = tiny.ground(tmp_path_factory.mktemp("defects"))
    for name in ("runs", "extensions"):
        (folder / name).mkdir()
    with cluster.nodes(3, folder / "nodes") as those:
        yield those


def examined(nodes: cluster.Cluster, who: range | list = range(3), env: dict | None = None, command: list | None = None) -> dict:
    """The doctor's own account, by the ranks that come; `env` and `command` are the bad node's."""
    folder = nodes.folder.parent
    hostfile, port, told = folder / "hostfile", processes.free_port(), folder / "doctor.json"
    hostfile.write_text("".join(f"{n.name} slots=1\n" for n in nodes))
    told.unlink(missing_ok=True)
    common = os.environ | {
        "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "eth0", "WORLD_SIZE": "3", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": nodes[0].address, "MASTER_PORT": str(port), "TORCH_EXTENSIONS_DIR": str(folder / "extensions"), "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    words = ["launch/doctor.py", folder / "recipe.yaml", "--hostfile", hostfile, "--wait", 10, "--json", told]
    started = [
        nodes[k].start(
            [*(command or [] if k == BAD else []), BIN / "python", *words], env=common | {"RANK": str(k)} | (env or {} if k == BAD else {})
        )
        for k in who
    ]
    said = [p.communicate(timeout=300) for p in started]
    assert told.exists(), said
    return json.loads(told.read_text())


@contextmanager
def bound(node: cluster.Node, target: Path, source: Path) -> Iterator[None]:
    """On this node alone, another file or folder in the place of one."""
    node.run(["mount", "--bind", source, target], check=True)
    try:
        yield
    finally:
        node.run(["umount", "-l", target], check=True)


@contextmanager
def told_on_head(nodes: cluster.Cluster, do: str, undo: str) -> Iterator[None]:
    nodes.head.run(["sh", "-ec", do], check=True)
    try:
        yield
    finally:
        nodes.head.run(["sh", "-ec", undo], check=True)


def instead(of: Path, change: Callable[[str], str]) -> Callable:
    def damaged(nodes: cluster.Cluster, aside: Path):
        (aside / "x").write_text(change(of.read_text()))
        return bound(nodes[BAD], of, aside / "x")

    return damaged


def in_ground(path: str, change: Callable[[bytes], bytes]) -> Callable:
    def damaged(nodes: cluster.Cluster, aside: Path):
        [of] = nodes.folder.parent.glob(path)
        (aside / "x").write_bytes(change(of.read_bytes()))
        return bound(nodes[BAD], of, aside / "x")

    return damaged


def folder_of_its_own(name: str, holds: Callable[[Path], None] = lambda _: None) -> Callable:
    def damaged(nodes: cluster.Cluster, aside: Path):
        (aside / "folder").mkdir()
        holds(aside / "folder")
        return bound(nodes[BAD], nodes.folder.parent / name, aside / "folder")

    return damaged


@contextmanager
def read_only(nodes: cluster.Cluster, aside: Path) -> Iterator[None]:
    runs = nodes.folder.parent / "runs"
    with bound(nodes[BAD], runs, runs):
        nodes[BAD].run(["mount", "-o", "remount,bind,ro", runs], check=True)
        yield


@contextmanager
def cable_out(nodes: cluster.Cluster, aside: Path) -> Iterator[None]:
    nodes.link(nodes[BAD], up=False)
    try:
        yield
    finally:
        nodes.link(nodes[BAD], up=True)


def plug(nodes: cluster.Cluster) -> str:
    return f"v{nodes[BAD].address.rpartition('.')[2]}"


def old_lock(folder: Path) -> None:
    (folder / "cpu_adam").mkdir()
    (folder / "cpu_adam" / "lock").touch()
    os.utime(folder / "cpu_adam" / "lock", (1, 1))


DEEPSPEED = (
    Path(str(metadata.distribution("deepspeed").locate_file(""))) / f"deepspeed-{metadata.version('deepspeed')}.dist-info" / "METADATA"
)
GXX = next((p for p in (Path(d) / "g++" for d in os.environ["PATH"].split(os.pathsep)) if p.exists()), Path("/usr/bin/g++"))
# check the finding is of → what is done to the node's disk or network
DONE = {
    "another version": ("version", instead(DEEPSPEED, lambda t: t.replace("\nVersion: ", "\nVersion: 9."))),
    "another program": ("program", instead(ROOT / "train" / "run" / "state.py", lambda t: t + "\n# other\n")),
    "another recipe": ("input", in_ground("recipe.yaml", lambda b: b.replace(b"steps: 4", b"steps: 5"))),
    "another model": ("input", in_ground("model/config.json", lambda b: b.replace(b"{", b'{"rope_scaling": null, "x": 1, ', 1))),
    "another tokenizer": ("input", in_ground("model/tokenizer.json", lambda b: b.replace(b'"unk', b'"unq'))),
    "a cut shard": ("input", in_ground("shards/00000.arrow", lambda b: b[: len(b) // 2])),
    "no model": ("input", folder_of_its_own("model")),
    "no shards": ("input", folder_of_its_own("shards")),
    "no recipe": ("input", lambda nodes, aside: bound(nodes[BAD], nodes.folder.parent / "recipe.yaml", Path("/dev/null"))),
    "a config of nothing": ("input", in_ground("model/config.json", lambda b: b"")),
    "a tokenizer of nothing": ("input", in_ground("model/tokenizer.json", lambda b: b"{}")),
    "a folder not shared": ("shared folder", folder_of_its_own("runs")),
    "a folder read-only": ("shared folder", read_only),
    "no compiler": ("compiler", lambda nodes, aside: bound(nodes[BAD], GXX, Path("/dev/null"))),
    "an old lock": ("build locks", folder_of_its_own("extensions", old_lock)),
    "a slow link": ("network", lambda nodes, aside: told_on_head(
        nodes, f"tc qdisc add dev {plug(nodes)} root tbf rate 80mbit burst 64kb latency 400ms", f"tc qdisc del dev {plug(nodes)} root")),
    "a cut link": ("ranks", cable_out),
}  # fmt: skip


def broken(aside: Path, code: str) -> dict:
    """The node's Python runs this first."""
    (aside / "sitecustomize.py").write_text(code)
    return {"env": {"PYTHONPATH": f"{aside}{os.pathsep}{ROOT}"}}


NO_YAML = "import sys\nsys.modules['yaml'] = None\n"
AT_PRODUCT = """
import os, torch, torch.utils
def product(*_): {}
torch.Tensor.__matmul__ = product
"""
# … → its environment, or what stands before its command
GIVEN = {
    "a package that is not there": ("examination", lambda aside: broken(aside, NO_YAML)),
    "an exception": ("examination", lambda aside: broken(aside, AT_PRODUCT.format("raise ValueError('no such product')"))),
    "an exit": ("examination", lambda aside: broken(aside, AT_PRODUCT.format("raise SystemExit(3)"))),
    "a death": ("examination", lambda aside: broken(aside, AT_PRODUCT.format("os.kill(os.getpid(), 9)"))),
    "a rank that hangs": ("examination", lambda aside: broken(aside, AT_PRODUCT.format("import time; time.sleep(25); os._exit(1)"))),
    "a variable": ("environment", lambda aside: {"env": {"NCCL_ALGO": "Ring"}}),
    "a wrong clock": ("clock", lambda aside: broken(aside, "import time\nreal = time.time\ntime.time = lambda: real() + 7\n")),
    "few open files": ("open files", lambda aside: {"command": ["prlimit", "--nofile=1024"]}),
    "did not come": ("ranks", lambda aside: {"who": [0, 2]}),
}


def test_three_nodes_alike_are_a_go(nodes):
    found = examined(nodes)
    assert found["go"] and not [f for f in found["findings"] if f["nodes"]], found["findings"]


@pytest.mark.parametrize("name", [*DONE, *GIVEN])
def test_a_defect_of_one_node_is_named_with_it(nodes, tmp_path, name):
    with ExitStack() as held:
        if name in DONE:
            check, damage = DONE[name]
            held.enter_context(damage(nodes, tmp_path))
        options = {} if name in DONE else GIVEN[name][1](tmp_path)
        check = (DONE | GIVEN)[name][0]
        found = examined(nodes, **options)
    mine = [f for f in found["findings"] if f["check"] == check and f["nodes"] == [nodes[BAD].name]]
    print(
        f"{name}: {found['seconds']:.1f} s, {[(f['check'], f['nodes'], f['text'][:90]) for f in found['findings']]}",
        file=sys.__stderr__,
        flush=True,
    )
    assert mine and nodes[BAD].name in mine[0]["text"], found["findings"]
    assert {tuple(f["nodes"]) for f in found["findings"]} <= {(nodes[BAD].name,), ()}, found["findings"]
    assert found["seconds"] <= SECONDS
    assert found["go"] == all(f["verdict"] == "warning" for f in found["findings"])
