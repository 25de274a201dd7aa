"""From what every rank found to what is wrong: pure comparisons, each naming its nodes.

A difference between nodes, or something missing, is a no-go; what may be meant so is a warning.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["ok", "warning", "no-go"]
SLOW_DEVICE = {"cuda": 0.85, "cpu": 0.4}  # of the median of its kind; a CPU's cores are shared with others
SLOW_LINK = {"cuda": 0.5, "cpu": 0.25}  # of what links between nodes usually carry; without GPUs busy cores slow them
LESS = 0.8  # of the median of the nodes' free memory or disk
CLOCK_SECONDS = 2.0
LEAST_INODES, LEAST_FILES, LEAST_SHM = 10_000, 4096, 64 << 20
WARNS = {"processor", "kernel"}  # may differ, at the price of the slowest or of nothing
OWN_NAMES = {"GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "NCCL_IB_HCA"}  # cards may have other names on other nodes


@dataclass(frozen=True)
class Finding:
    verdict: Verdict
    check: str
    text: str
    nodes: tuple[str, ...] = ()


def differing(check: str, values: dict[str, Any], verdict: Verdict, remedy: str) -> Iterator[Finding]:
    """One finding when the nodes' values are not all the same, naming those of the smaller groups."""
    groups: dict[str, list[str]] = defaultdict(list)
    for node, value in values.items():
        groups["not set" if value is None else str(value)].append(node)
    if len(groups) < 2:
        return
    ordered = sorted(groups.items(), key=lambda g: len(g[1]))
    most = ordered[-1]
    odd = [g for g in ordered[:-1] if len(g[1]) < len(most[1])] or ordered
    said = "; ".join(f"{value} on {some(nodes)}" for value, nodes in ordered)
    yield Finding(verdict, check, f"{said}: {remedy}", tuple(n for _, nodes in odd for n in nodes))


def some(nodes: list[str]) -> str:
    """Names of a few, a count of many."""
    return ", ".join(nodes) if len(nodes) <= 3 else f"{', '.join(nodes[:2])} and {len(nodes) - 2} more"


def arrival(ranks: list[dict[str, Any] | None], nodes: list[str], hostfile: dict[str, int] | None) -> Iterator[Finding]:
    """Who came, against what was asked for. nodes: name of each arrived rank's node, in rank order of those that came."""
    missing = [r for r, facts in enumerate(ranks) if facts is None]
    planned = [host for host, slots in (hostfile or {}).items() for _ in range(slots)]
    if missing:
        where = sorted({planned[r] for r in missing}, key=planned.index) if len(planned) == len(ranks) else []
        text = f"{len(missing)} of {len(ranks)} ranks did not arrive: {spans(missing)}" + (
            f", by the hostfile on {some(where)}" if where else ""
        )
        yield Finding("no-go", "ranks", f"{text}: see what their launcher says there, and whether they reach MASTER_ADDR", tuple(where))
    count = {n: nodes.count(n) for n in dict.fromkeys(nodes)}
    if hostfile is not None and not missing:
        yield from _against(hostfile, count, ranks)
    if len(set(count.values())) > 1 and not missing and hostfile is None:
        yield from differing("ranks a node", count, "warning", "meant so? The fullest node sets the memory that is needed")


def _against(hostfile: dict[str, int], count: dict[str, int], ranks: list[dict[str, Any] | None]) -> Iterator[Finding]:
    known: dict[str, str] = {}  # any name or address of a node → the node
    for facts in ranks:
        for name in (facts["node"], facts["node"].split(".")[0], facts["host"], facts["host"].split(".")[0], *facts["addresses"]):
            known.setdefault(name, facts["node"])
    for host, slots in hostfile.items():
        node = known.get(host) or known.get(host.split(".")[0])
        if node is None:
            yield Finding("no-go", "hostfile", f"{host} slots={slots}: no rank came from there; is it up, and does ssh reach it?", (host,))
        elif count[node] != slots:
            yield Finding("no-go", "hostfile", f"{host} slots={slots}, but {count[node]} ranks came from it", (host,))
    strangers = set(count) - {known.get(h) or known.get(h.split(".")[0]) for h in hostfile}
    for node in sorted(strangers):
        yield Finding("no-go", "hostfile", f"{count[node]} ranks came from {node}, which is not in it", (node,))


def software(nodes: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    """Versions, the program, environment and inputs that differ, and what is wrong on a node. nodes: name → its first rank's facts."""
    for kind, check, remedy in (
        ("versions", "version", "install the same on every node (constraints.txt)"),
        ("code", "program", "the nodes run different code: one checkout on the shared disk, or the same commit everywhere"),
        ("inputs", "input", "the nodes would train on different things: copy it again, or use one shared folder"),
        ("environment", "environment", "set it alike on every node; deepspeed takes other variables along only from ~/.deepspeed_env"),
    ):
        names = dict.fromkeys(name for facts in nodes.values() for name in facts[kind])
        for name in names:
            if name == "commit":
                continue  # the program's hash tells; git may be missing, or another user's
            verdict: Verdict = "warning" if name in OWN_NAMES else "no-go"
            told = {n: facts[kind].get(name) for n, facts in nodes.items() if name in facts[kind] or not _why_missing(kind, facts)}
            for found in differing(check, told, verdict, remedy):
                yield Finding(verdict, check, f"{name}: {found.text}", found.nodes)
    for node, facts in nodes.items():
        for fault in facts["faults"]:
            yield Finding("no-go", "examination", f"{node}: {fault}", (node,))
    wrong: dict[str, list[str]] = defaultdict(list)
    for node, facts in nodes.items():
        for message in facts["wrong"]:
            wrong[message].append(node)
    for message, where in wrong.items():
        everywhere = len(where) == len(nodes) and len(nodes) > 1
        yield Finding("no-go", "input", message if everywhere or len(nodes) == 1 else f"{some(where)}: {message}", tuple(where))


def _why_missing(kind: str, facts: dict[str, Any]) -> bool:
    """Whether the node says itself why it has not what others have."""
    return bool(facts["faults"] or (kind == "inputs" and facts["wrong"]))


def lost(why: dict[int, str], names: list[str]) -> Iterator[Finding]:
    """Ranks that could not be examined, a finding a reason. names: node of every rank."""
    same: dict[str, list[int]] = defaultdict(list)
    for rank, reason in why.items():
        same[reason].append(rank)
    for reason, ranks in same.items():
        nodes = list(dict.fromkeys(names[r] for r in ranks))
        yield Finding("no-go", "examination", f"{some(nodes)}, rank{'s' * (len(ranks) > 1)} {spans(ranks)}: {reason}", tuple(nodes))


def hardware(nodes: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    """Memory, disks, limits, compilers and locks."""
    for name in ("kernel", "processor", "cores"):
        yield from differing(name, {n: f["hardware"][name] for n, f in nodes.items()}, "warning", "the slowest sets the pace")
    for name, what in (("memory", "of main memory free"), ("disk", "of disk free for the runs"), ("shm", "free in /dev/shm")):
        free = {n: f["hardware"][name] for n, f in nodes.items() if f["hardware"][name] is not None}
        middle = statistics.median(free.values()) if free else 0
        for node in [n for n, value in free.items() if value < LESS * middle]:
            yield Finding(
                "warning", name, f"{node} has {gib(free[node])} {what}, the others {gib(middle)}: is something else on it?", (node,)
            )
    for node, facts in nodes.items():
        h = facts["hardware"]
        for wrong, verdict, check, text in (
            (h["inodes"] is not None and h["inodes"] < LEAST_INODES, "no-go", "inodes", f"{h['inodes']} free where the runs go: delete small files"),
            (h["shm"] is not None and h["shm"] < LEAST_SHM, "warning", "shm", f"{gib(h['shm'])} free in /dev/shm: start the container with a larger one"),
            (0 <= h["open files"] < LEAST_FILES, "warning", "open files", f"a limit of {h['open files']}: ulimit -n 65536"),
            (h["infiniband"] and h["locked memory"] >= 0, "warning", "locked memory", "limited, which InfiniBand needs free: ulimit -l unlimited"),
            (not h["g++"], "no-go", "compiler", "no g++ (or CXX) for DeepSpeed's C++ op at the first start: install g++"),
            (not h["ninja"], "no-go", "compiler", "no ninja for DeepSpeed's C++ op: pip install ninja"),
            (h["extensions"], "no-go", "compiler", f"{h['extensions']}: set TORCH_EXTENSIONS_DIR"),
            (h["stale locks"], "warning", "build locks", f"{', '.join(h['stale locks'])}: a dead build's, removed by the next start"),
        ):  # fmt: skip
            if wrong:
                yield Finding(verdict, check, f"{node}: {text}", (node,))


def spans(numbers: list[int]) -> str:
    """`0-3, 7`."""
    parts: list[list[int]] = []
    for n in sorted(numbers):
        if parts and parts[-1][-1] == n - 1:
            parts[-1][-1:] = [parts[-1][-1], n] if len(parts[-1]) == 1 else [n]
        else:
            parts.append([n])
    return ", ".join("-".join(map(str, p)) for p in parts)


def gib(nbytes: float) -> str:
    unit, name = next((u, n) for u, n in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "bytes")) if nbytes >= u or u == 1)
    return f"{nbytes / unit:.{1 if name == 'GiB' else 0}f} {name}"
