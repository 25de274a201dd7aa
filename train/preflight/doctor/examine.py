"""The examination, top to bottom: the ranks meet, each says what it found, rank 0 compares and all end alike.

1. meeting: who came; 2. facts: software, inputs, hardware, a matrix product; 3. the shared folder and the clocks;
4. the network; 5. the memory plan. A part that cannot be done is a finding of its own.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.model.adapter_spec import spec_of
from train.model_files.dtypes import OF_RECIPE
from train.model_files.folder import ModelError
from train.model_files.shapes import described
from train.preflight import memory_plan
from train.preflight.doctor import hardware, measured, network, rules, shared, software
from train.preflight.doctor.meeting import Meeting
from train.preflight.doctor.rules import Finding
from train.preflight.memory_items import Shape, plan
from train.recipe.vocabulary import Recipe
from train.world.machine import FreeBytes
from train.world.ranks import World, node_of_process

LAYER_BYTES = 64 << 20  # measured where no recipe says


@dataclass(frozen=True)
class Asked:
    """What the door was given. recipe: path of a YAML, or None; link: bytes/s a link should carry; wait: seconds for ranks to come."""

    recipe: str | None
    overrides: list[str]
    folder: Path | None
    hostfile: dict[str, int] | None
    link: float | None
    wait: float


@dataclass(frozen=True)
class Report:
    """go: no finding is a no-go. On ranks other than 0 only that."""

    go: bool
    findings: list[Finding]
    lines: list[str]  # what was seen where nothing is wrong, and the memory plan
    facts: dict[str, Any]
    seconds: float


def examine(world: World, asked: Asked) -> Report:
    """Collective: every rank of the launch calls it, all return the same `go`. Raises WorldError: this rank does not reach rank 0."""
    begun = time.monotonic()
    meeting = Meeting(world, asked.wait)
    came = meeting.gather("came", {"host": socket.gethostname(), "node": list(node_of_process())})
    names = _names(came)
    all_here = meeting.broadcast("all here", all(came), 2 * asked.wait)
    if not all_here:
        findings = list(rules.arrival(came, [n for n in names if n], asked.hostfile))
        meeting.part()
        return Report(False, findings, [], {}, time.monotonic() - begun)
    names = meeting.broadcast("names", names, asked.wait)
    leaders = [names.index(n) for n in dict.fromkeys(names)]
    recipe, own = _facts(world, asked, names, leaders)
    folder = asked.folder or (recipe.runs if recipe else None)
    folder = meeting.broadcast("folder", str(folder) if folder else None, 60 + asked.wait)
    own["shared"] = shared.examine(meeting, Path(folder), world.rank in leaders) if folder else None
    own["network"] = network.examine(meeting, _layer_bytes(recipe), leaders) if world.size > 1 else None
    ranks = meeting.gather("facts", own, seconds=90)
    report = None
    if world.rank == 0:
        report = _judged(world, asked, recipe, ranks, folder, time.monotonic() - begun)
    go = meeting.broadcast("go", report.go if report else None, 120)
    meeting.part()
    return report or Report(go, [], [], {}, time.monotonic() - begun)


def _names(came: list[dict[str, Any] | None]) -> list[str | None]:
    """A name a node: its host's, numbered where several nodes (containers) have the same."""
    nodes = list(dict.fromkeys(tuple(c["node"]) for c in came if c))
    hosts = [n[0] for n in nodes]
    named = {n: n[0] if hosts.count(n[0]) == 1 else f"{n[0]}#{hosts[: i + 1].count(n[0])}" for i, n in enumerate(nodes)}
    return [named[tuple(c["node"])] if c else None for c in came]


def _facts(world: World, asked: Asked, names: list[str], leaders: list[int]) -> tuple[Recipe | None, dict[str, Any]]:
    recipe, wrong = software.loaded(asked.recipe, asked.overrides) if asked.recipe else (None, [])
    here = names.count(names[world.rank])
    threads = int(os.environ.get("OMP_NUM_THREADS") or max(1, len(os.sched_getaffinity(0)) // here))
    facts: dict[str, Any] = {
        "rank": world.rank, "node": names[world.rank], "host": socket.gethostname(), "leader": world.rank in leaders,
        "device": hardware.of_rank(world.device, threads),
    }  # fmt: skip
    if not facts["leader"]:
        return recipe, facts
    on_cuda = world.device.type == "cuda"
    found, more = software.inputs(recipe, world.size, on_cuda) if recipe else ({}, [])
    if recipe and on_cuda and software.attention_missing(recipe):
        more.append("model.attention=flash: flash-attn is not installed; pip install 'astrollama-trainer[flash]', or use auto")
    runs = recipe.runs if recipe else asked.folder or Path(".")
    node = hardware.of_node(runs, world.device, one_node=len(leaders) == 1)
    addresses = [a for i in node["interfaces"].values() for a in i["addresses"]]
    return recipe, facts | {
        "versions": software.versions(), "code": software.code(), "environment": software.environment(), "inputs": found, "wrong": wrong + more,
        "hardware": node, "addresses": addresses,
    }  # fmt: skip


def _layer_bytes(recipe: Recipe | None) -> int:
    try:
        shape = Shape.of(described(Path(recipe.model.path) / "config.json", own_code="ignored")) if recipe else None
    except (ValueError, OSError):
        shape = None  # said by software.inputs
    return shape.layer * OF_RECIPE[recipe.model.dtype].itemsize if shape and recipe else LAYER_BYTES


def _judged(
    world: World, asked: Asked, recipe: Recipe | None, ranks: list[dict[str, Any] | None], folder: str | None, seconds: float
) -> Report:
    lost = [r for r, f in enumerate(ranks) if f is None]
    if lost:
        text = f"ranks {rules.spans(lost)} came and then said nothing more: see what their launcher says"
        return Report(False, [Finding("no-go", "ranks", text)], [], {}, seconds)
    names = [f["node"] for f in ranks]
    nodes = {f["node"]: f for f in ranks if f["leader"]}
    everyone = [f | {"addresses": nodes[f["node"]]["addresses"]} for f in ranks]
    findings = [
        *rules.arrival(everyone, names, asked.hostfile), *rules.software(nodes), *rules.hardware(nodes), *measured.devices(ranks),
        *measured.cards(nodes, {n: names.count(n) for n in nodes}), *(measured.folder(ranks, folder) if folder else []),
        *(measured.network(ranks, asked.link) if world.size > 1 else []),
    ]  # fmt: skip
    lines = _seen(ranks, nodes, names)
    if recipe:
        found, said = _fits(recipe, world, ranks, nodes, max(names.count(n) for n in nodes))
        findings, lines = findings + found, lines + said
    go = all(f.verdict != "no-go" for f in findings)
    return Report(go, findings, lines, {"ranks": ranks}, seconds)


def _seen(ranks: list[dict[str, Any]], nodes: dict[str, dict[str, Any]], names: list[str]) -> list[str]:
    count = {n: names.count(n) for n in nodes}
    few = ", ".join(f"{n} {c}" for n, c in list(count.items())[:8]) + (" …" if len(count) > 8 else "")
    rates = sorted(f["device"]["tflops"] for f in ranks)
    first = next(iter(nodes.values()))
    lines = [
        f"ranks: {len(ranks)} on {len(nodes)} nodes ({few})",
        f"software: {', '.join(f'{k} {v}' for k, v in first['versions'].items() if v != 'not installed')}; program {', '.join(first['code'].values())}",
        f"devices: {ranks[0]['device']['device']}, a product gave {rates[0]:.3g} to {rates[-1]:.3g} TFLOP/s",
        f"memory free: {rules.gib(min(f['hardware']['memory'] for f in nodes.values()))} a node at least; disk {rules.gib(min(f['hardware']['disk'] for f in nodes.values()))}",
    ]
    net = ranks[0].get("network")
    if net and "latency" in net:
        parts = [
            f"{what.replace('_', '-')} of {rules.gib(net[what][0])} at {net[what][1] / 1e9:.3g} GB/s"
            for what in ("all_gather", "reduce_scatter")
        ]
        lines.append(f"network: {net['latency'] * 1e3:.2f} ms to agree on a number, {', '.join(parts)} (bus bandwidth)")
    return lines


def _fits(
    recipe: Recipe, world: World, ranks: list[dict[str, Any]], nodes: dict[str, dict[str, Any]], here: int
) -> tuple[list[Finding], list[str]]:
    """The memory plan, against the scarcest node."""
    from train.engine.deepspeed_json import merged_config

    on_cuda = world.device.type == "cuda"
    try:
        model = described(Path(recipe.model.path) / "config.json", own_code="ignored")
        shape = Shape.of(model, spec_of(recipe.adapter, model, recipe.adapter.path) if recipe.adapter else None)
        p = plan(recipe, shape, world.size, here, merged_config(recipe, world.size, on_cuda)["zero_optimization"], on_cuda)
    except (ModelError, ValueError, OSError) as error:
        return [Finding("no-go", "memory plan", f"cannot be made: {error}")], []
    disk = float("inf") if recipe.checkpoint.to else min(f["hardware"]["disk"] for f in nodes.values())
    devices = [f["device"]["free"] for f in ranks if f["device"]["free"] is not None]
    there = FreeBytes(min(f["hardware"]["memory"] for f in nodes.values()), min(devices) if devices else None, disk)
    found = []
    if short := memory_plan.short_of(p, there):
        scarce = min(nodes, key=lambda n: nodes[n]["hardware"]["memory"])
        found = [Finding("no-go", "memory plan", memory_plan.refusal(recipe, shape, p, there, on_cuda, short), (scarce,))]
    found += [Finding("warning", "memory plan", f"may not fit: {w}") for w in memory_plan.short_of(p, there, sure=False) if not short]
    return found, memory_plan.lines(p, shape)
