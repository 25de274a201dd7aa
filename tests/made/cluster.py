"""Nodes of a cluster on one machine: each a network, host name, processes and /dev/shm of its own on a switch they share; real sshd.

`with nodes(2, folder) as cluster: cluster[0].start(["hostname"])`. A node that is ended takes all its processes with it; needs root.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.made import processes
from tests.made.where import ROOT

NETWORK = "10.77.0"
TOOLS = ("unshare", "nsenter", "ip", "mount")
# a node's first process: it collects the dead whose parents died before them
INIT = "while :; do sleep 3600 & wait $!; done"


def why_not(*tools: str) -> str | None:
    """What is missing here for nodes, or None."""
    if os.geteuid() != 0:
        return "namespaces need root"
    lacking = [t for t in (*TOOLS, *tools) if not shutil.which(t)]
    if lacking:
        return f"not installed: {', '.join(lacking)}"
    tried = processes.run(["unshare", "--net", "--uts", "--pid", "--mount", "--fork", "ip", "link", "add", "x0", "type", "veth"])
    return f"namespaces are not allowed here: {tried.stderr.strip()}" if tried.returncode else None


@dataclass
class Node:
    """A machine, as far as networks, names and processes go; files are everybody's."""

    name: str
    address: str
    holder: subprocess.Popen

    @property
    def init(self) -> int:
        [first] = psutil.Process(self.holder.pid).children()
        return first.pid

    def inside(self, command: list) -> list[str]:
        return ["nsenter", "-t", str(self.init), "-m", "-u", "-n", "-p", f"--wd={ROOT}", "--", *map(str, command)]

    def start(self, command: list, **options: Any) -> subprocess.Popen:
        return processes.start(self.inside(command), **options)

    def run(self, command: list, **options: Any) -> subprocess.CompletedProcess:
        return processes.run(self.inside(command), **options)

    def started(self, process: subprocess.Popen) -> psutil.Process:
        """The command itself, of what `start` gave: the one to send signals to."""
        [command] = psutil.Process(process.pid).children()
        return command

    def processes(self) -> list[psutil.Process]:
        """All that runs here but the first process and its sleep."""
        if self.holder.poll() is not None:
            return []
        init = self.init
        here = os.readlink(f"/proc/{init}/ns/pid")
        found = []
        for p in psutil.process_iter(["cmdline", "status", "ppid"]):
            try:
                inside = os.readlink(f"/proc/{p.pid}/ns/pid") == here
            except OSError:
                continue
            asleep = p.info["ppid"] == init and "sleep" in (p.info["cmdline"] or [""])[0]
            if inside and not asleep and p.pid != init and p.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(p)
        return found

    def ranks(self, word: str) -> dict[int, psutil.Process]:
        """Training processes whose command line holds the word, by rank."""
        found = {}
        for p in self.processes():
            try:
                env, words = p.environ(), p.info["cmdline"]
                if words and word in words and any(w.endswith("launch/pretrain.py") for w in words[:4]):
                    found[int(env["RANK"] if "RANK" in env else env["SLURM_PROCID"])] = p
            except (psutil.Error, OSError, KeyError):
                continue
        return found

    def end(self) -> None:
        """As if its power was cut."""
        os.kill(self.init, signal.SIGKILL)
        self.holder.wait(processes.SECONDS)

    def bytes_sent(self) -> int:
        return int(Path(f"/proc/{self.init}/net/dev").read_text().split("eth0:")[1].split()[8])

    def bytes_received(self) -> int:
        return int(Path(f"/proc/{self.init}/net/dev").read_text().split("eth0:")[1].split()[0])


class Cluster(list):
    """Nodes on one switch; `head` is the machine the switch is in (a login node)."""

    head: Node
    folder: Path

    def grow(self, name: str | None = None) -> Node:
        """Another node; under the name of a dead one, that node again, with its address."""
        names = [n.name for n in self]
        at = names.index(name) if name else len(self)
        node = _boot(self, name or f"node{at + 1}", at + 1)
        self[at : at + 1] = [node]
        self._names()
        return node

    def link(self, node: Node, up: bool) -> None:
        """Plug the node's cable out or in."""
        self.head.run(["ip", "link", "set", f"v{node.address.rpartition('.')[2]}", "up" if up else "down"], check=True)

    def _names(self) -> None:
        (self.folder / "hosts").write_text(
            "127.0.0.1 localhost\n" + "".join(f"{n.address} {n.name}\n" for n in (self.head, *self))
        )  # bound over /etc/hosts in every node, so that it is written in place


@contextmanager
def nodes(count: int, folder: Path) -> Iterator[Cluster]:
    """A head and that many nodes, `node1` on, that reach each other by name; all of it is gone afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    cluster = Cluster()
    cluster.folder = folder
    for file in ("hosts", "ssh_config"):
        (folder / file).touch()
    try:
        cluster.head = _boot(None, "head", 254, folder)
        for _ in range(count):
            cluster.grow()
        yield cluster
    finally:
        for node in (*cluster, *([cluster.head] if hasattr(cluster, "head") else [])):
            if node.holder.poll() is None:
                node.end()


def _boot(cluster: Cluster | None, name: str, number: int, folder: Path | None = None) -> Node:
    folder = folder or cluster.folder
    script = "\n".join([
        "set -e", f"hostname {name}", "ip link set lo up", "mount -t tmpfs tmpfs /dev/shm",
        f"mount --bind {folder}/hosts /etc/hosts", f"if [ -e /etc/ssh/ssh_config ]; then mount --bind {folder}/ssh_config /etc/ssh/ssh_config; fi",
        "echo up", INIT,
    ])  # fmt: skip
    holder = processes.start(
        ["unshare", "--net", "--uts", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script],
        stderr=subprocess.STDOUT,
    )
    assert holder.stdout.readline() == "up\n"
    node = Node(name, f"{NETWORK}.{number}", holder)
    if cluster is None:
        node.run(["sh", "-ec", f"ip link add br0 type bridge; ip addr add {node.address}/24 dev br0; ip link set br0 up"], check=True)
        return node
    head = cluster.head
    plug = f"v{number}"
    head.run(["ip", "link", "del", plug])  # a dead node's, if the system still has it
    # from outside the nodes, where their processes have the numbers that are known here
    pair = ["ip", "link", "add", plug, "type", "veth", "peer", "name", "eth0", "netns", node.init]
    processes.run(["nsenter", "-t", str(head.init), "-n", *map(str, pair)], check=True)
    head.run(["sh", "-ec", f"ip link set {plug} master br0; ip link set {plug} up"], check=True)
    node.run(["sh", "-ec", f"ip addr add {node.address}/24 dev eth0; ip link set eth0 up"], check=True)
    return node


def with_sshd(cluster: Cluster) -> None:
    """Every node answers ssh, and every node may log in on every other without a password."""
    f = cluster.folder
    if not (f / "key").exists():
        for key in ("key", "hostkey"):
            processes.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f / key], check=True)
    Path("/run/sshd").mkdir(exist_ok=True)  # sshd will not start without it
    (f / "ssh_config").write_text(
        f"Host *\n  IdentityFile {f}/key\n  UserKnownHostsFile /dev/null\n  StrictHostKeyChecking no\n  LogLevel ERROR\n"
    )
    (f / "sshd_config").write_text(
        f"HostKey {f}/hostkey\nAuthorizedKeysFile {f}/key.pub\nStrictModes no\nUsePAM no\nPermitRootLogin yes\nPidFile none\n"
    )
    for node in cluster:
        sshd(cluster, node)


def sshd(cluster: Cluster, node: Node) -> None:
    node.run(["/usr/sbin/sshd", "-f", cluster.folder / "sshd_config"], check=True)
