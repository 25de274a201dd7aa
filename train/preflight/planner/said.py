"""A forecast in words and as JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from train.preflight import memory_plan
from train.preflight.planner.clusters import GBIT, GIB, Cluster
from train.preflight.planner.forecast import Forecast
from train.preflight.planner.search import Found
from train.recipe.vocabulary import Recipe

WORDS = {
    "products": "matrix products", "attention": "attention", "elementwise": "the memory's rate: norms, rotations, activations, loss",
    "launches": "launching kernels: more rows a micro-batch", "network": "communication", "optimizer": "the optimizer",
    "optimizer in host memory": "the optimizer in host memory", "waiting": "waiting for the slowest node",
}  # fmt: skip


def lines(f: Forecast, measured: bool = False) -> list[str]:
    gpu, c, s = f.cluster.gpu, f.cluster, f.saving
    unit = "a GPU" if c.on_cuda else "a rank"
    each = f", {gpu.gib:g} GiB" if c.on_cuda else " processes"
    network = f", {c.network / GBIT:g} Gb/s a node" if c.nodes > 1 else ""
    rows = [
        ("cluster", f"{c.gpus} x {gpu.name}{each}, on {c.nodes} node{'s' * (c.nodes > 1)}{network}"),
        ("memory", f"about {f.peak / GIB:.1f} GiB {unit}; a node's main memory {c.here * f.memory.need('host', sure=False) / GIB:.0f} GiB"),
        ("verdict", _verdict(f)),
        ("speed", f"about {f.rate:,.0f} tokens/s {unit}, {f.rate * c.gpus:,.0f} in all; {f.times.total * f.job.micro_steps:.2f} s a step"),
        ("MFU", f"{f.mfu:.1%} (attention over whole rows; {f.mfu_causal:.1%} with its causal half alone)"),
        ("bound by", WORDS[f.bottleneck]),
        ("time", ", ".join(f"{name} {share:.0%}" for name, share in sorted(f.times.parts.items(), key=lambda p: -p[1]) if share >= 0.005)),
    ]
    if f.job.attended:
        rows.append(("documents", f"a token attends to {f.job.attended / 2:,.0f} tokens on average, in rows of {f.job.seq_len:,}"))
    if c.gpus > 1:
        rows.append(
            (
                "communication",
                f"{f.times.wire * f.job.micro_steps:.2f} s a step by itself, {f.times.network * f.job.micro_steps:.2f} s of it not hidden",
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
                f"{_time(f.cost.hours)}, {f.cost.gpu_hours:,.0f} GPU-hours, ${f.cost.dollars:,.0f} at ${f.cost.price:g} an hour of {unit}",
            )
        )
    elif f.cost:
        rows.append(("run", _time(f.cost.hours)))
    else:
        rows.append(("run", "its length is not known: give tokens=… or steps=…, or make its shards"))
    step = f.times.total * f.job.micro_steps
    rows.append(("checkpoint", f"{s.nbytes / 1e9:,.1f} GB; a save holds the run up for {s.seconds:,.0f} s"))
    rows.append(
        (
            "save every",
            f"{_time(s.every / 3600)} = checkpoint.every_steps={max(1, round(s.every / step))} (Young and Daly, a failure every {_time(s.failure_hours)})",
        )
    )
    width = max(len(name) for name, _ in rows)
    text = [f"{name:<{width}}  {value}" for name, value in rows]
    if not c.on_cuda and not measured:
        return [*text, "rates of CPUs are guesses: measure with `python launch/benchmark.py train`, and give the result to --measured"]
    if measured:
        return [*text, "rates are corrected by the measured run"]
    return [
        *text,
        "rates are within 6% of published ones on average, and within 20% for 66 of 67; a measured run corrects them (--measured)",
    ]


def _verdict(f: Forecast) -> str:
    if f.fits:
        return f"fits, but {'; '.join(f.near)}" if f.near else "fits"
    how = "".join(f"\n    {r}" for r in f.remedies) or " nothing this trainer has"
    return f"DOES NOT FIT: {'; '.join(f.short)}. What would fit:{how}"


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
    return text


def as_json(f: Forecast) -> dict[str, Any]:
    """`fits`, `tokens_per_second_per_gpu`, `mfu`, `bottleneck` and `peak_memory_gib` are held still."""
    s = f.saving
    return {
        "fits": f.fits, "tokens_per_second_per_gpu": f.rate, "mfu": f.mfu, "mfu_causal": f.mfu_causal, "bottleneck": f.bottleneck,
        "peak_memory_gib": f.peak / GIB, "host_memory_gib_per_node": f.cluster.here * f.memory.need("host", sure=False) / GIB,
        "verdict": _verdict(f), "remedies": list(f.remedies), "seconds_per_step": f.times.total * f.job.micro_steps, "shares": f.times.parts,
        "wire_bytes_per_node_and_step": f.wire.total, "communication_seconds_per_step": f.times.wire * f.job.micro_steps, "useful": f.useful, "attended": f.job.attended,
        "cost": dataclasses.asdict(f.cost) if f.cost else None,
        "checkpoint": {"gb": s.nbytes / 1e9, "seconds": s.seconds, "save_every_seconds": s.every, "failure_hours": s.failure_hours, "lost": s.lost},
        "memory": [{"what": i.what, "gib": i.nbytes / GIB, "when": i.when, "where": i.where, "sure": i.sure} for i in f.memory.items],
        "cluster": {"gpu": f.cluster.gpu.name, "gpus": f.cluster.gpus, "nodes": f.cluster.nodes, "network_gbps": f.cluster.network / GBIT},
    }  # fmt: skip


def _time(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:,.1f} days"
    return f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.0f} minutes"
