"""What is wrong with what was measured: devices, links, the shared folder, clocks. Pure, as rules.py is."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from train.preflight.doctor.rules import CLOCK_SECONDS, SLOW_DEVICE, SLOW_LINK, Finding, Verdict, differing, gib, some

HOT = 85  # °C, idle or after a short product
LATE_SECONDS = 0.005  # a round trip between nodes
BUSY = 0.05  # of a device's memory taken by others before a run starts

Way = tuple[str, str]  # from a node to a node


def devices(ranks: list[dict[str, Any]]) -> Iterator[Finding]:
    """ranks: facts of every rank that arrived, `node`, `rank` and `device` (hardware.of_rank) among them."""
    kinds: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for facts in ranks:
        kinds[facts["device"]["device"]].append(facts)
    if len(kinds) > 1:
        verdict: Verdict = "no-go" if "cpu" in kinds else "warning"
        remedy = "a GPU that torch does not see (nvidia-smi, its driver, torch's build)" if "cpu" in kinds else "the slowest sets the pace"
        yield from differing("devices", {f["node"]: f["device"]["device"] for f in ranks}, verdict, remedy)
    for kind, those in kinds.items():
        middle = statistics.median(f["device"]["tflops"] for f in those)
        limit = SLOW_DEVICE["cpu" if kind == "cpu" else "cuda"] * middle
        for f in [f for f in those if f["device"]["tflops"] < limit]:
            yield Finding(
                "no-go" if kind != "cpu" else "warning", "matrix product",
                f"rank {f['rank']} on {f['node']}: {f['device']['tflops']:.3g} TFLOP/s, the median is {middle:.3g}: look at its clocks, heat and other work",
                (f["node"],),
            )  # fmt: skip
    owners: dict[tuple[str, str], list[int]] = defaultdict(list)
    for f in ranks:
        if f["device"]["uuid"]:
            owners[f["node"], f["device"]["uuid"]].append(f["rank"])
            if f["device"]["total"] - f["device"]["free"] > BUSY * f["device"]["total"] + (1 << 30):
                taken = gib(f["device"]["total"] - f["device"]["free"])
                yield Finding(
                    "warning", "device memory", f"rank {f['rank']} on {f['node']}: {taken} of its GPU are taken already", (f["node"],)
                )
    for (node, _), sharing in owners.items():
        if len(sharing) > 1:
            yield Finding(
                "no-go", "devices", f"{node}: ranks {', '.join(map(str, sharing))} share one GPU: see CUDA_VISIBLE_DEVICES", (node,)
            )


def cards(nodes: dict[str, dict[str, Any]], ranks_of: dict[str, int]) -> Iterator[Finding]:
    """What nvidia-smi tells of each node's cards."""
    seen = {n: f["hardware"]["gpus"] for n, f in nodes.items() if f["hardware"]["gpus"]}
    if not seen:
        return
    yield from differing("driver", {n: g[0].get("driver_version") for n, g in seen.items()}, "no-go", "install the same on every node")
    yield from differing("GPUs", {n: len(g) for n, g in seen.items()}, "no-go", "a card is missing: see nvidia-smi and dmesg there")
    for node, gpus in seen.items():
        if ranks_of[node] < len(gpus):
            yield Finding("warning", "GPUs", f"{node}: {len(gpus)} cards, {ranks_of[node]} ranks: the others idle", (node,))
        for g in gpus:
            card = f"{node}, card {g.get('index', '?')}"
            if int(g.get("ecc.errors.uncorrected.volatile.total") or 0):
                yield Finding("no-go", "ECC", f"{card}: uncorrected memory errors since the driver started: reset or replace it", (node,))
            if float(g.get("temperature.gpu") or 0) >= HOT:
                yield Finding("warning", "heat", f"{card}: {g['temperature.gpu']} °C", (node,))
            now, most = float(g.get("pcie.link.width.current") or 0), float(g.get("pcie.link.width.max") or 0)
            if now < most:
                yield Finding("warning", "PCIe", f"{card}: {now:.0f} of {most:.0f} lanes: seat it anew", (node,))


def folder(ranks: list[dict[str, Any]], path: str) -> Iterator[Finding]:
    """The shared folder and the clocks; ranks with `shared` (shared.examine's answer, None on ranks that did not look)."""
    looked = [f for f in ranks if f["shared"]]
    node_of = {f["rank"]: f["node"] for f in ranks}
    for f in looked:
        if f["shared"]["wrong"]:
            yield Finding("no-go", "shared folder", f"{f['node']}: {f['shared']['wrong']}", (f["node"],))
    unseen = {f["node"]: [node_of[r] for r in f["shared"]["unseen"]] for f in looked if f["shared"]["unseen"]}
    if unseen:
        # who sees least, or is seen least, stands apart
        apart = max(node_of.values(), key=lambda n: len(unseen.get(n, [])) + sum(n in others for others in unseen.values()))
        yield Finding(
            "no-go",
            "shared folder",
            f"{path}: what {apart} writes there and what the others write is not in one folder: mount the same disk",
            (apart,),
        )
    clocks = {f["node"]: f["shared"]["clock"] for f in looked}
    middle = statistics.median(clocks.values()) if clocks else 0
    for node, clock in clocks.items():
        if abs(clock - middle) > CLOCK_SECONDS:
            yield Finding("no-go", "clock", f"{node}: {clock - middle:+.1f} s against the others: start chrony or ntpd", (node,))


def network(ranks: list[dict[str, Any]], expected: float | None) -> Iterator[Finding]:
    """Links that carry less than the others, or nothing. ranks with `network` (network.examine's); expected: bytes/s of a link, as told."""
    node_of = {f["rank"]: f["node"] for f in ranks}
    silent = [f for f in ranks if f["network"] is None]
    if len(silent) == len(ranks):
        return  # not measured: ranks that cannot talk the same way, which `devices` says
    for f in silent:
        yield Finding("no-go", "network", f"rank {f['rank']} on {f['node']} did not come back from the measurement", (f["node"],))
    for f in [f for f in ranks if f["network"] and f["network"]["error"]]:
        yield Finding("no-go", "network", f"rank {f['rank']} on {f['node']}: {f['network']['error']}", (f["node"],))
    cut = [(f["node"], node_of[r]) for f in ranks if f["network"] for r in f["network"]["unreached"]]
    if cut:
        yield _cut(cut)
    rates, trips = {}, {}
    for f in [f for f in ranks if f["network"]]:
        for other, (rate, trip) in f["network"]["pairs"].items():
            rates[f["node"], node_of[int(other)]], trips[f["node"], node_of[int(other)]] = rate, trip
    if not rates:
        return
    usual = sorted(rates.values())[len(rates) * 3 // 4]  # the upper quartile: one slow node of three spoils four of six ways
    limit = SLOW_LINK["cpu" if ranks[0]["device"]["device"] == "cpu" else "cuda"] * max(usual, expected or 0)
    slow = {way: rate for way, rate in rates.items() if rate < limit}
    if slow:
        worst = min(slow, key=slow.get)
        text = f"{slow[worst] / 1e9:.3g} GB/s, {usual / 1e9:.3g} is usual" + (f", {expected / 1e9:.3g} expected" if expected else "")
        yield _ways("no-go", [worst, *(way for way in slow if way != worst and slow[way] < 2 * slow[worst])], text)
    usual_trip = sorted(trips.values())[(len(trips) - 1) // 4]
    late = {way: trip for way, trip in trips.items() if len(trips) > 2 and trip > max(LATE_SECONDS, 5 * usual_trip)}
    if late:
        worst = max(late, key=late.get)
        text = f"{late[worst] * 1e3:.1f} ms there and back, {usual_trip * 1e3:.2f} is usual"
        yield _ways("warning", [worst, *(way for way in late if way != worst and late[way] > late[worst] / 2)], text)


def _ways(verdict: Verdict, ways: list[Way], said: str) -> Finding:
    """One finding for the ways between nodes that are as bad as the first of them."""
    more = f", and {len(ways) - 1} ways like it" if len(ways) > 1 else ""
    who = _concerned(ways)
    where = f"of {some(list(who))}" if len(who) < 4 else "of these nodes"
    cure = f"see cable, switch, MTU and GLOO_/NCCL_SOCKET_IFNAME {where}"
    return Finding(verdict, "network", f"{ways[0][0]} → {ways[0][1]}: {said}{more}: {cure}", who)


def _cut(ways: list[Way]) -> Finding:
    """Ways on which nothing arrives."""
    who = _concerned(ways)
    shown = "; ".join(f"{a} → {b}" for a, b in ways[:4]) + (f" and {len(ways) - 4} more" if len(ways) > 4 else "")
    return Finding(
        "no-go", "network", f"nothing arrives on {shown}: see routes, firewall and GLOO_/NCCL_SOCKET_IFNAME of {some(list(who))}", who
    )


def _concerned(ways: list[Way]) -> tuple[str, ...]:
    """The node that all ways have in common, if there is one; else all of them."""
    nodes = tuple(dict.fromkeys(n for way in ways for n in way))
    common = tuple(n for n in nodes if all(n in way for way in ways))
    return common if len(common) == 1 else nodes
