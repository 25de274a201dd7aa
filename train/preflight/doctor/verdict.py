"""From what the ranks told to go or no-go: every rule, what was seen, and the memory plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from train.model.adapter_spec import spec_of
from train.model_files.folder import ModelError
from train.model_files.shapes import described
from train.preflight import memory_plan
from train.preflight.doctor import measured, rules, software
from train.preflight.doctor.report import Asked, Report
from train.preflight.doctor.rules import Finding
from train.preflight.memory_items import Shape, plan
from train.recipe.vocabulary import Recipe
from train.world.machine import FreeBytes
from train.world.ranks import World


def of(
    world: World,
    asked: Asked,
    names: list[str],
    ranks: list[dict[str, Any] | None],
    lost: dict[int, str],
    folder: str | None,
    seconds: float,
) -> Report:
    """Raises nothing of its own. names: node of every rank; ranks: what it found, or None and a reason in `lost`."""
    if None in ranks:
        why = {r: lost.get(r, "said only a part of what it was asked") for r, f in enumerate(ranks) if f is None}
        there = {f["node"]: f for f in ranks if f and f["leader"]}
        findings = [*rules.lost(why, names), *rules.software(there), *rules.hardware(there)]
        return Report(False, findings, [], {"ranks": ranks}, seconds)
    nodes = {f["node"]: f for f in ranks if f["leader"]}
    everyone = [f | {"addresses": nodes[f["node"]]["addresses"]} for f in ranks]
    findings = [
        *rules.arrival(everyone, names, asked.hostfile), *rules.software(nodes), *rules.hardware(nodes), *measured.devices(ranks),
        *measured.cards(nodes, {n: names.count(n) for n in nodes}), *(measured.folder(ranks, folder) if folder else []),
        *(measured.network(ranks, asked.link) if world.size > 1 else []),
    ]  # fmt: skip
    lines = _seen(ranks, nodes, names)
    recipe, _ = software.loaded(asked.recipe, asked.overrides) if asked.recipe else (None, [])
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
        if ranks[0]["wrong"]:
            return [], []  # said of this node already
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
