"""A forecast in words and as JSON."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from train.preflight import memory_plan
from train.preflight.planner.clusters import GBIT, GIB, Cluster
from train.preflight.planner.cost import saving
from train.preflight.planner.forecast import Forecast, forecast
from train.preflight.planner.search import Found, apply
from train.recipe.vocabulary import Recipe

WORDS = {
    "products": "matrix products", "attention": "attention", "elementwise": "the memory's rate: norms, rotations, activations, loss",
    "launches": "launching kernels: more rows a micro-batch", "network": "communication", "optimizer": "the optimizer",
    "optimizer in host memory": "the optimizer in host memory", "waiting": "waiting for the slowest node",
}  # fmt: skip


SENDS_LESS = ": larger micro-batches, hpZ or optim.reduce_dtype=bf16 send less (--search)"
HELD_TO = ("A100", "A100-40", "A800", "H100", "H100 (500 W)", "H200")  # of published.json's rows


def lines(f: Forecast, measured: bool = False) -> list[str]:
    gpu, c, s = f.cluster.gpu, f.cluster, f.saving
    unit = "a GPU" if c.on_cuda else "a rank"
    each = f", {gpu.gib:g} GiB" if c.on_cuda else " processes"
    network = f", {c.network / GBIT:g} Gb/s a node" if c.nodes > 1 else ""
    rows = [
        ("cluster", f"{c.gpus} x {gpu.name}{each}, on {c.nodes} node{'s' * (c.nodes > 1)}{network}"),
        ("memory", f"about {f.peak / GIB:.1f} GiB {unit}; a node's main memory {f.host / GIB:,.0f} GiB"),
        ("verdict", _verdict(f)),
        (
            "speed" if f.fits else "if it fitted",
            f"about {f.rate:,.0f} tokens/s {unit}, {f.rate * c.gpus:,.0f} in all; {f.seconds_per_step:.2f} s a step",
        ),
        ("MFU", f"{f.mfu:.1%} (attention over whole rows; {f.mfu_causal:.1%} with its causal half alone)"),
        ("bound by", WORDS[f.bottleneck] + (SENDS_LESS if f.bottleneck == "network" and c.nodes > 1 else "")),
        ("time", ", ".join(f"{name} {share:.0%}" for name, share in sorted(f.times.parts.items(), key=lambda p: -p[1]) if share >= 0.005)),
    ]
    if f.near and not f.fits:
        rows.append(("besides", "; ".join(f.near)))
    if f.job.attended:
        rows.append(("documents", f"a token attends to {f.job.attended / 2:,.0f} tokens on average, in rows of {f.job.seq_len:,}"))
    if c.gpus > 1:
        rows.append(
            (
                "communication",
                f"{f.times.wire * f.job.micro_steps:.2f} s a step by itself; a step is {f.times.network * f.job.micro_steps:.2f} s longer for it",
            )
        )
    if f.useful < 0.995:
        rows.append(
            ("padding", f"{1 - f.useful:.0%} of the places: choose micro_batch and GPUs that divide {f.recipe.rows_per_step} rows a step")
        )
    if f.cost and c.on_cuda:
        rows.append(
            (
                "run",
                f"{_time(f.cost.hours)}, {f.cost.gpu_hours:,.0f} GPU-hours, ${f.cost.dollars:,.0f} at ${f.cost.price:.2f} an hour of {unit}",
            )
        )
    elif f.cost:
        rows.append(("run", _time(f.cost.hours)))
    else:
        rows.append(("run", "its length is not known: give tokens=… or steps=…, or make its shards"))
    rows.append(("checkpoint", f"{s.nbytes / 1e9:,.1f} GB; a save holds the run up for {s.seconds:,.0f} s"))
    rows.append(("saves", _saves(f)))
    width = max(len(name) for name, _ in rows)
    text = [f"{name:<{width}}  {value}" for name, value in rows]
    if not c.on_cuda and not measured:
        return [*text, "rates of CPUs are guesses: measure with `python launch/benchmark.py train`, and give the result to --measured"]
    if measured:
        return [*text, "rates are corrected by the measured run"]
    if unlike := _unlike(f):
        return [*text, f"no published run {unlike} is among those that the rates were held to: guesses until one is measured (--measured)"]
    return [
        *text,
        "rates are within 6% of published ones on average, and within 20% for 66 of 67; a measured run corrects them (--measured)",
    ]


def _unlike(f: Forecast) -> str:
    if f.job.adapter:
        return "of an adapter"
    return "" if f.cluster.gpu.name in HELD_TO else f"on {f.cluster.gpu.name}"


def _saves(f: Forecast) -> str:
    """What the recipe's interval costs, and the one that costs least."""
    s, steps = f.saving, f.recipe.checkpoint.every_steps
    failing = f"one every {_time(s.failure_hours)}"
    best = max(1, round(s.every / f.seconds_per_step))
    if f.steps and best >= f.steps:
        least = "least with none but the last"
    else:
        least = f"least at checkpoint.every_steps={best} ({_time(s.every / 3600)}; Young and Daly): {min(1.0, s.lost):.1%}"
    if not f.save_every:
        return f"{least}, to saves and failures ({failing})"
    if not f.recipe.checkpoint.background and f.lost > 0.02:
        behind = saving(s.nbytes, f.cluster, math.inf, True, s.failure_hours * f.cluster.gpus)
        if behind.lost_at(f.save_every) < f.lost / 2:
            least = f"{behind.lost_at(f.save_every):.1%} with checkpoint.background=true; {least}"
    now = f"every {steps} steps ({_time(f.save_every / 3600)})" if steps and not (f.steps and steps >= f.steps) else "none but the last"
    return f"{now}: {min(1.0, f.lost):.1%} of the time to saves and failures ({failing}); {least}"


def _verdict(f: Forecast) -> str:
    if f.fits:
        return f"fits, but {'; '.join(f.near)}" if f.near else "fits"
    how = "".join(f"\n    {_remedy(f, r)}" for r in f.remedies) or " nothing this trainer has"
    return f"DOES NOT FIT: {'; '.join(f.short)}. What would fit:{how}"


def _remedy(f: Forecast, words: str) -> str:
    """With the main memory that offloading takes."""
    if "offload" not in words:
        return words
    change: dict[str, Any] = dict(word.split("=", 1) for word in words.split())
    if "micro_batch" in change:
        change["micro_batch"] = int(change["micro_batch"])
    made = forecast(apply(f.recipe, change), f.model, f.cluster)
    return f"{words}  (with {made.host / GIB:,.0f} GiB of a node's main memory)"


def memory_lines(f: Forecast) -> list[str]:
    return memory_plan.lines(f.memory, f.model.shape)


def search_lines(found: list[Found], recipe: Recipe, cluster: Cluster, most: int = 5) -> list[str]:
    if recipe.rows_per_step < cluster.gpus:
        return [
            f"tokens_per_step={recipe.tokens_per_step}: {recipe.rows_per_step} rows a step for {cluster.gpus} GPUs; raise it, or take fewer GPUs"
        ]
    if not found:
        return ["nothing that was tried fits: more GPUs, or larger ones"]
    text = [f"{'tokens/s a GPU':>15}  {'MFU':>5}  {'GiB':>5}  words after the recipe"]
    for one in found[:most]:
        text.append(f"{one.forecast.rate:>15,.0f}  {one.forecast.mfu:>5.1%}  {one.forecast.peak / GIB:>5.1f}  {one.words or '(as it is)'}")
    if any("reduce_dtype=bf16" in one.words for one in found[:most]):
        text.append("(reduce_dtype=bf16 rounds the gradients that are sent: such a line stands as if it were 3% slower)")
    return text


def as_json(f: Forecast) -> dict[str, Any]:
    """`fits`, `tokens_per_second_per_gpu`, `mfu`, `bottleneck` and `peak_memory_gib` are held still."""
    s = f.saving
    return {
        "fits": f.fits, "tokens_per_second_per_gpu": f.rate, "mfu": f.mfu, "mfu_causal": f.mfu_causal, "bottleneck": f.bottleneck,
        "peak_memory_gib": f.peak / GIB, "host_memory_gib_per_node": f.host / GIB,
        "verdict": _verdict(f), "remedies": list(f.remedies), "seconds_per_step": f.seconds_per_step, "shares": f.times.parts,
        "wire_bytes_per_node_and_step": f.wire.total, "communication_seconds_per_step": f.times.wire * f.job.micro_steps, "useful": f.useful, "attended": f.job.attended,
        "cost": dataclasses.asdict(f.cost) if f.cost else None,
        "checkpoint": {"gb": s.nbytes / 1e9, "seconds": s.seconds, "save_every_seconds": s.every, "failure_hours": s.failure_hours, "lost": s.lost, "lost_as_it_is": f.lost},
        "memory": [{"what": i.what, "gib": i.nbytes / GIB, "when": i.when, "where": i.where, "sure": i.sure} for i in f.memory.items],
        "cluster": {"gpu": f.cluster.gpu.name, "gpus": f.cluster.gpus, "nodes": f.cluster.nodes, "network_gbps": f.cluster.network / GBIT},
    }  # fmt: skip


def _time(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:,.1f} days"
    return f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.0f} minutes"
