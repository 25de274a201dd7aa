"""Training: tokens/s of the real step, model and hardware FLOP/s, MFU, memory, time by phase, on a recipe's own data or on made ones.

`train RECIPE [key=value …]` measures a recipe as it would run, its own model and shards; `train --size 1b [key=value …]` random weights of
a known shape and made documents, in memory; both together the recipe's settings on a shape. Steps are the trainer's own
(train/engine/step.py) on its own loader, at lr 0, so that every step computes the same. Ranks: `--ranks N` starts them, or a launcher does
(`deepspeed --num_gpus 8 launch/benchmark.py train RECIPE`).

`--sweep key=value,value …` measures every combination in fresh processes and goes on past those that run out of memory, crash or hang;
given again it goes on where it was cut. `--find-micro-batch` looks for the largest that fits. `--compare padded` trains on the very
documents of each packed step again, one a row; `--compare A.json B.json` says whether B is slower than A, exit code 3 if so.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from train.benchmark.ranks import BenchError, launch
from train.benchmark.step.job import Job, full_word
from train.benchmark.step.made import MEAN_TOKENS, SIZES
from train.world.launchers import place_of

NEEDS = "launch/recipes/quickstart.yaml"
# options that are keys of the recipe
KEYS = {
    "model": "model.path", "seq_len": "data.seq_len", "micro_batch": "micro_batch", "packing": "data.packing", "deepspeed": "deepspeed",
    "dtype": "model.dtype", "attention": "model.attention", "activation_checkpointing": "model.activation_checkpointing", "compile": "model.compile",
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "words",
        nargs="*",
        metavar="RECIPE key=value",
        help="a recipe, or the name of one, and values to replace; keys of a recipe go with --size, too",
    )
    add("--size", choices=SIZES, help="random weights of this size and made documents (default without a recipe: 25m)")
    add("--layers", type=int, help="so many layers of it")
    add("--shards", type=Path, metavar="DIR", help="documents of these shards instead")
    add("--mean-tokens", type=int, default=MEAN_TOKENS, help="mean length of made documents (default: %(default)s)")
    add("--accumulation", type=int, help="micro-batches a step (default: as the recipe's batch has it; without a recipe 1)")
    add("--steps", type=int, default=10, help="steps measured, of each kind (default: %(default)s)")
    add("--warmup", type=int, default=2, help="steps before, not measured (default: %(default)s)")
    add("--ranks", type=int, help="processes, by the deepspeed launcher when more than one (default: 1, or those of the launcher)")
    add(
        "--peak-tflops",
        type=float,
        metavar="N",
        help="dense peak of one device, for MFU (default: known GPUs by name; a CPU's matrix products)",
    )
    add("--profile", type=Path, metavar="DIR", help="also leave a trace there, for TensorBoard or ui.perfetto.dev")
    add("--collectives", action="store_true", help="also time all-gather and reduce-scatter at the recipe's sizes")
    add("--no-phases", action="store_true", help="only the steps that count: no time by phase, no communication, no dearest operations")
    add(
        "--sweep",
        nargs="+",
        metavar="key=value,value",
        help="measure all combinations; quote a value that has spaces, write lists as [a,b]",
    )
    add("--find-micro-batch", action="store_true", help="the largest that fits, and the fastest")
    add("--out", type=Path, metavar="DIR", help="where a sweep or search keeps its results (default: runs/benchmarks/NAME)")
    add("--limit", type=int, default=600, help="seconds for one measurement of a sweep or search (default: %(default)s)")
    add("--compare", nargs="+", metavar="padded|A.json B.json", help="padded batches of the same documents, or two results")
    add("--again", action="store_true", help="add the run to those in the --json file, to compare it by pairs")
    for name, kind in (("model", str), ("seq-len", int), ("micro-batch", int), ("packing", str), ("deepspeed", str), ("dtype", str)):
        add(f"--{name}", type=kind, help=f"short for {KEYS[name.replace('-', '_')]}=")
    for name in ("attention", "activation-checkpointing"):
        add(f"--{name}", help=f"short for {KEYS[name.replace('-', '_')]}=")
    add("--compile", action="store_true", help="short for model.compile=true")
    add("--device", choices=("cpu",), help="cpu: as if there were no GPU")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Raises BenchError, or the ValueErrors of the trainer's parts."""
    if args.compare and args.compare != ["padded"]:
        if len(args.compare) != 2:
            raise BenchError(f"--compare {' '.join(args.compare)}: give padded, or two files of --json")
        from train.benchmark.paired import compare

        found = compare(*map(Path, args.compare))
        return found
    if args.device == "cpu":
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    job, launched = job_of(args), place_of(os.environ).size
    if args.ranks and launched > 1:
        raise BenchError(f"--ranks {args.ranks}: a launcher has started {launched} already; leave one of the two out")
    if args.sweep or args.find_micro_batch:
        if launched > 1:
            raise BenchError("--sweep and --find-micro-batch start processes of their own: call them by python, with --ranks")
        return _many(args, job)
    result = _once(job, args.ranks or 1)
    if not args.again:
        return result | {"runs": [_run(result)]}
    return result | {"runs": [*_runs_before(args.json, result), _run(result)]}


def job_of(args: argparse.Namespace) -> Job:
    """The options as one measurement."""
    recipes = [word for word in args.words if "=" not in word]
    if len(recipes) > 1:
        raise BenchError(f"{' '.join(recipes)}: one recipe at a time")
    recipe = recipes[0] if recipes else None
    given = {KEYS[name]: value for name in KEYS if (value := getattr(args, name))}
    words = [f"{key}={str(value).lower() if value is True else value}" for key, value in given.items() if key != "model.path"]
    words += [full_word(word) for word in args.words if "=" in word]
    size = args.size or (None if recipe or args.model else "25m")
    if args.model and size:
        raise BenchError("--model and --size: give one of them")
    if args.model and recipe:
        words.append(f"model.path={args.model}")
    return Job(
        recipe=recipe, overrides=tuple(words), size=size, model=None if recipe else args.model, layers=args.layers, shards=args.shards and str(args.shards),
        accumulation=args.accumulation, steps=args.steps, warmup=args.warmup, padded=args.compare == ["padded"], mean_tokens=args.mean_tokens,
        peak_tflops=args.peak_tflops, trace=args.profile and str(args.profile), phases=not args.no_phases, collectives=args.collectives,
    )  # fmt: skip


def _once(job: Job, ranks: int) -> dict[str, Any]:
    if ranks > 1:
        return launch("train.benchmark.step.measure", job.to_dict(), ranks)
    from train.benchmark.step.measure import measure
    from train.world.ranks import World

    world = World.from_env()
    world.connect(600)
    return measure(job.to_dict(), world)


def _many(args: argparse.Namespace, job: Job) -> dict[str, Any]:
    from train.benchmark.sweep import grid, sweeper

    if args.sweep and args.find_micro_batch:
        raise BenchError("--sweep and --find-micro-batch: one after the other")
    named = f"{Path(job.recipe).stem if job.recipe else job.size or Path(job.model).name}"
    ranks = args.ranks or 1
    combinations = grid.combinations(args.sweep) if args.sweep else []
    _refuse_wrong(job, combinations, ranks)
    folder = args.out or Path("runs/benchmarks") / (f"{named}-micro-batch" if args.find_micro_batch else named)
    sweep = sweeper.Sweep(folder, ranks, args.limit, shlex.join(["python", "launch/benchmark.py", *sys.argv[1:]]))
    if args.sweep:
        return sweeper.over(sweep, job, combinations, f"{named} on {ranks} rank{'s' * (ranks > 1)}")
    return _find(sweep, job, named)


def _refuse_wrong(job: Job, combinations: list[tuple[str, ...]], ranks: int) -> None:
    """All faults of what is common to all combinations are told before the first is started."""
    import torch

    from train.benchmark.step.job import recipe_of

    first = job.with_words(combinations[0]) if combinations else job
    recipe_of(first, ranks, torch.cuda.is_available())


def _find(sweep: Any, job: Job, named: str) -> dict[str, Any]:
    import dataclasses

    import torch

    from train.benchmark.sweep import page, search, sweeper
    from train.world.machine import host_available

    job = dataclasses.replace(job, accumulation=job.accumulation or 1)
    on_cpu = not torch.cuda.is_available()
    with sweeper.ended_by_exception():
        found = search.find(
            lambda size: sweep.take(job, (f"micro_batch={size}",)), (lambda: host_available() / 2**30 / sweep.ranks) if on_cpu else None
        )
    rows = [page.row((f"micro_batch={size}",), one.outcome, one.said, one.result) for size, one in found.tried.items()]
    more = next(({key: one.result[key] for key in ("model", "ranks", "device", "peak")} for one in found.tried.values() if one.result), {})
    if not found.largest:
        raise BenchError(f"not even micro_batch=1 could be measured: {rows[0]['outcome']}: {rows[0].get('said', '')}")
    lacking = sweep.write(f"{named}: micro-batches", rows, more)
    said = found.words
    return more | {"figure": said, "largest": found.largest, "fastest": found.fastest, "folder": str(sweep.folder)} | (
        {"picture": lacking} if lacking else {}
    ) | {"rows": rows}  # fmt: skip


def _run(result: dict[str, Any]) -> dict[str, Any]:
    from train.benchmark.paired import run_of

    return run_of(result, time.time())


def _runs_before(path: Path | None, result: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that stand in the file, of the same measurement."""
    if not path:
        raise BenchError("--again adds to a file of results: give it by --json")
    if not path.exists() or not path.stat().st_size:
        return []
    old = json.loads(path.read_text())
    changed = [key for key in ("recipe", "ranks", "device") if old.get(key) != json.loads(json.dumps(result[key]))]
    if changed:
        raise BenchError(f"--again --json {path}: holds runs of another {' and '.join(changed)}; give another file")
    return old["runs"]
