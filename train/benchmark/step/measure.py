"""One rank's part of a measurement; every rank calls `measure`, rank 0's result counts.

1. the engine, on the recipe's own model and data or on made ones, as a run starts it;
2. steps of the trainer's own (engine/step.py) at lr 0, so that every step computes the same; the first are not counted, the device is
   waited for before and after each;
3. a few more with a clock at each phase, then one under the profiler: neither slows what was counted.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from train.benchmark.ranks import BenchError
from train.benchmark.step import account, collectives, made, phases
from train.benchmark.step.account import Taken
from train.benchmark.step.job import Job, recipe_of
from train.benchmark.step.padded import PADDED, padded
from train.data.batch import PackedBatch
from train.data.loader import Loader
from train.data.mixture import SourceSpec, generator
from train.engine import step
from train.preflight.epochs import data_settings
from train.recipe.vocabulary import Recipe
from train.world import garbage, machine
from train.world.ranks import World

CLOCKED, PROFILED = 2, 1  # steps


def measure(values: dict[str, Any], world: World) -> dict[str, Any]:
    """Raises BenchError, or the ValueErrors of the trainer's parts."""
    job = Job.of(values)
    watch = phases.Stopwatch(world.device)
    world = dataclasses.replace(world, beat=watch)
    assert world.local_size >= 1  # a collective: asked here, where all ranks are
    recipe = recipe_of(job, world.size, world.device.type == "cuda")
    if world.device.type == "cpu" and not world.threads_set_by_user:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // world.local_size))  # as the engine will, for the peak
    peak, said_peak = _peak(job, recipe, world)
    begun = time.perf_counter()
    engine, loader, said = _started(job, recipe, world)
    start_seconds = time.perf_counter() - begun
    world.log0(said)
    try:
        with garbage.collected_by_hand():
            engine.set_lr(0.0)
            taken = _steps(job, recipe, engine, loader, world)
            memory = _memory(world)
            looked = _looked(job, engine, loader, world) if job.phases or job.trace else {}
    finally:
        loader.close()
    config = engine.model.hf.config
    shape = account.Shape.of(
        config, engine.total_parameters, recipe.model.activation_checkpointing, recipe.data.seq_len, peak, engine.frozen_parameters
    )
    attended = statistics.median(one.attended for one in taken["packed"])
    rows = [account.row(kind, steps, shape, world.size, attended) for kind, steps in taken.items()]
    result = _described(job, recipe, engine, said, world) | {"peak": said_peak, "seconds of the start": round(start_seconds, 1)} | memory
    result |= _of_padded(taken, rows) | looked
    if job.collectives:
        layer = sum(p.ds_numel for p in engine.model.hf.base_model.layers[0].parameters())
        numels = [p.ds_numel for p in engine.parameters.values()]
        zero = engine.config["zero_optimization"]
        result |= collectives.measured(numels, layer, 2 if recipe.model.dtype == "bf16" else 4, zero, loader.accumulation, world)
    first = rows[0]
    unit = "GPU" if world.device.type == "cuda" else "rank"
    result["figure"] = f"{first['a rank']:,.1f} useful tokens/s a {unit} (quartiles {first['spread %']:.1f}% apart)" + (
        f", MFU {first['MFU %']:.1f}%" if peak and world.device.type == "cuda" else ""
    )
    return result | {
        "tokens_per_second_per_gpu": first["a rank"], "mfu": first["MFU %"] and first["MFU %"] / 100, "steps_taken": {k: [dataclasses.asdict(t) for t in v] for k, v in taken.items()},
        "rows": rows,
    }  # fmt: skip


def _started(job: Job, recipe: Recipe, world: World) -> tuple[Any, Loader, str]:
    """The engine and the loader, the recipe's own or made ones, and what was chosen."""
    from train.engine import zero3
    from train.model.causal_lm import config_of
    from train.model_files.fetch import resolve

    folder = None if job.size else resolve(recipe.model.path, world)
    shape = config_of(folder) if folder else made.shape_of(job.size, job.layers, recipe.data.seq_len)
    settings = data_settings(recipe)
    shards: dict[str, Any] = {}
    if job.shards:
        shards = {"documents": opened(Path(job.shards), shape.vocab_size)}
    elif job.size or not job.recipe:
        places = 1.5 * recipe.tokens_per_step * (job.steps + job.warmup + CLOCKED + PROFILED + settings.prefetch_steps)
        shards = {"documents": made.MadeDocuments(made.lengths(places, job.mean_tokens, recipe.data.seq_len), shape.vocab_size)}
    else:
        shards = {name: opened(source.path, shape.vocab_size) for name, source in recipe.data.sources.items()}
    if list(shards) != [spec.name for spec in settings.specs]:
        settings = dataclasses.replace(settings, specs=[SourceSpec(name) for name in shards])
    if folder:
        engine, _, said = zero3.start(recipe, world, folder, len(shards), adapter_from=recipe.adapter.path if recipe.adapter else None)
    else:
        engine, said = made.engine_of(shape, recipe, world, len(shards))
    return engine, Loader(shards, settings, world.rank, world.size), said


def opened(folder: Path, vocabulary: int) -> Any:
    from data_tools.shards.reader import Shards

    shards = Shards.open(folder, verify="size")
    if shards.vocab_size > vocabulary:
        raise BenchError(
            f"{folder}: made with a vocabulary of {shards.vocab_size:,}, the model has {vocabulary:,}; give its own model or shards"
        )
    return shards


def _steps(job: Job, recipe: Recipe, engine: Any, loader: Loader, world: World) -> dict[str, list[Taken]]:
    """The steps that count, of each kind."""
    kinds = ["packed", *(PADDED if job.padded else ())]
    taken: dict[str, list[Taken]] = {kind: [] for kind in kinds}
    for number in range(job.warmup + job.steps):
        if number == job.warmup and world.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(world.device)
        begun = time.perf_counter()
        packed = loader.next_step()
        waited = time.perf_counter() - begun
        for kind in kinds:
            batches = packed
            if kind != "packed":
                rng = generator(0, kind, number, world.rank)
                batches, waited = padded(packed, recipe.micro_batch, PADDED[kind] and recipe.data.seq_len, rng, world), 0.0
                world.barrier()
            one = _take(engine, batches, loader.source_names, waited, world)
            world.log0(f"{kind}, step {number + 1}/{job.warmup + job.steps}: {one.per_second:,.0f} useful tokens/s")
            if number >= job.warmup:
                taken[kind].append(one)
        garbage.collect(number)
    return taken


def _take(engine: Any, batches: list[PackedBatch], sources: list[str], waited: float, world: World) -> Taken:
    """One step, timed on the slowest rank, with what was waited for its data."""
    places = float(sum(b.tokens.numel() for b in batches))
    phases.settle(world.device)
    begun = time.perf_counter()
    totals = step.take(engine, batches, sources, world, own=lambda: {"places": places})
    phases.settle(world.device)
    seconds, waited = world.max([time.perf_counter() - begun + waited, waited])
    return Taken(totals.tokens, totals.agreed["places"], totals.attended, seconds, waited, totals.loss)


def _looked(job: Job, engine: Any, loader: Loader, world: World) -> dict[str, Any]:
    """Time by phase, communication, and the dearest operations, of steps that are not counted."""
    watch: phases.Stopwatch = world.beat
    for number in range(CLOCKED):
        watch.at_step(number + 1)
        with watch.running():
            batches = loader.next_step()
            step.take(engine, batches, loader.source_names, world)
    seconds = dict(zip(watch.seconds, world.max(list(watch.seconds.values()))))
    found: dict[str, Any] = {"of a step": account.besides(seconds), "phases": account.phase_rows(seconds, CLOCKED)}
    on_cuda = world.device.type == "cuda"
    watch.at_step(CLOCKED + 1)
    batches = loader.next_step()
    with phases.profiled(world.device) as seen, watch.running():
        step.take(engine, batches, loader.source_names, world)
    sent = phases.communication(seen.events(), on_cuda)
    busy, exposed, hidden = world.max([sent.busy, sent.exposed, sent.hidden])
    found["communication, seconds of a step under the profiler, on the slowest rank"] = {
        "busy": busy,
        "exposed": exposed,
        "hidden": hidden,
    }
    found["dearest"] = phases.dearest(seen, on_cuda)
    if job.trace and world.rank == 0:
        found["trace"] = str(phases.write_trace(seen, Path(job.trace), world.rank))
    return found


def _memory(world: World) -> dict[str, Any]:
    """The most that any rank held: on its device, allocated and reserved, and of the host."""
    import resource

    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    allocated = reserved = 0
    if world.device.type == "cuda":
        allocated, reserved = torch.cuda.max_memory_allocated(world.device), torch.cuda.max_memory_reserved(world.device)
    gib = [round(n / 2**30, 3) for n in world.max([float(allocated), float(reserved), float(host)])]
    on_cuda = world.device.type == "cuda"
    return {
        "peak memory GiB a rank": gib[0] if on_cuda else gib[2], "reserved GiB a rank": gib[1] if on_cuda else None, "host GiB a rank": gib[2],
        "peak_memory_gib": gib[0] if on_cuda else gib[2],
    }  # fmt: skip


def _peak(job: Job, recipe: Recipe, world: World) -> tuple[float | None, str]:
    """FLOP/s of one device that MFU is a share of, and where it is from; of a CPU what its own matrix products reach here."""
    given = job.peak_tflops or recipe.logging.peak_tflops
    if given:
        return given * 1e12, f"{given:g} TFLOP/s, as given"
    if world.device.type == "cuda":
        known = machine.peak_tflops(torch.cuda.get_device_name(world.device))
        return (known * 1e12, f"{known:g} TFLOP/s, dense bf16, data sheet") if known else (None, "unknown; give --peak-tflops")
    from train.preflight.doctor import hardware

    [rate] = world.max([hardware.of_rank(world.device, torch.get_num_threads())["tflops"]])
    return rate * 1e12, f"{1e3 * rate:,.0f} GFLOP/s, this machine's own fp32 matrix products, {torch.get_num_threads()} threads a rank"


def _described(job: Job, recipe: Recipe, engine: Any, said: str, world: World) -> dict[str, Any]:
    rows = recipe.rows_per_step
    cut = f", {job.layers} layers" if job.layers else ""
    return {
        "model": f"{recipe.model.path}{cut}, {engine.total_parameters:,} parameters, {recipe.model.dtype}", "ranks": world.size,
        "device": torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "cpu",
        "batch": f"{rows * recipe.data.seq_len:,} places a step: {engine.config['gradient_accumulation_steps']} micro-batches of "
        f"{recipe.micro_batch} rows of {recipe.data.seq_len} a rank",
        "engine": f"{recipe.deepspeed}, {said}", "activation checkpointing": recipe.model.activation_checkpointing, "steps": job.steps,
        "recipe": recipe.to_dict(), "job": job.to_dict(),
    }  # fmt: skip


def _of_padded(taken: dict[str, list[Taken]], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Packing's ratio, and how far the losses of the same documents are apart."""
    found: dict[str, Any] = {}
    for kind, one in list(zip(taken, rows))[1:]:
        found[f"packed / {kind}"] = round(rows[0]["useful tokens/s"] / one["useful tokens/s"], 2)
        found[f"largest loss difference, {kind}"] = max(abs(a.loss - b.loss) for a, b in zip(taken["packed"], taken[kind]))
    return found
