"""Loading a model into ZeRO-3 slices: time, bytes read and memory of each rank, beside the disk's own rate.

`--model` takes a model folder, `--parameters` makes one of random weights. "load" builds the module tree, gives every parameter its slice
and fills it; memory is what a rank has for itself (USS, sampled every 20 ms) above what it had before. Then the same is timed
unwatched, with the files cold and warm in the page cache. "start" is the engine's whole start and a step: masters, gradients and
moments too, beside what train/preflight/memory_plan.py says.
`--compare from_pretrained` loads the same files with transformers under `zero.Init`.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from train.benchmark import disk
from train.benchmark.ranks import BenchError, Watch, bytes_read, give_back, launch, own_memory, small_recipe, timed
from train.model_files.dtypes import OF_RECIPE, in_torch
from train.recipe.vocabulary import Recipe

SLACK = 256 << 20  # what a load may take besides the rank's share and 1.5 largest tensors
OURS, THEIRS, START = "load", "from_pretrained under zero.Init", "start and a step"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", type=Path, metavar="DIR", help="a model folder of safetensors")
    which.add_argument(
        "--parameters", type=float, default=0.1e9, metavar="N", help="or random weights, about so many (default: %(default)g)"
    )
    add("--files-dtype", choices=("bf16", "fp16", "fp32"), default="bf16", help="of the weights that are made (default: %(default)s)")
    add("--dtype", choices=("bf16", "fp32"), default="fp32", help="compute dtype (default: %(default)s)")
    add("--ranks", type=int, default=2, help="processes (default: %(default)s)")
    add("--deepspeed", type=Path, metavar="JSON", help="default: ds_configs/zero3.json, on a CPU ds_configs/cpu.json")
    add("--compare", choices=("from_pretrained",), help="also load with transformers")
    add("--start", action="store_true", help="also start the whole engine and make a step")
    add("--scratch", type=Path, metavar="DIR", help="where made weights are written (default: the folder for temporary files)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Raises BenchError, or the ValueErrors of the trainer's parts."""
    if args.ranks < 1 or not args.model and args.parameters < 1e5:
        raise BenchError(f"--ranks {args.ranks}, --parameters {args.parameters:g}: give at least 1 and 1e5")
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        return _run(args, args.model or _made(args, Path(scratch)))


def _made(args: argparse.Namespace, scratch: Path) -> Path:

    from train.benchmark import made_models

    dtype = in_torch(OF_RECIPE[args.files_dtype])
    return made_models.write(scratch / "model", made_models.shape_of(args.parameters), dtype)


def _run(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from train.model_files.folder import read_folder

    entries = read_folder(folder)
    files = sorted({e.file for e in entries.values()})
    nbytes, parameters = sum(f.stat().st_size for f in files), sum(e.numel for e in entries.values())
    cold, warm = (disk.read_rate(files, cold=cold) / 1e9 for cold in (True, False))
    job = {"folder": str(folder), "files": [str(f) for f in files], "dtype": args.dtype}
    job["deepspeed"] = str(args.deepspeed) if args.deepspeed else None
    element = max(OF_RECIPE[args.dtype].itemsize, max(e.dtype.itemsize for e in entries.values()))  # a slice as it waits for its master
    share, largest = element * parameters / args.ranks, element * max(e.numel for e in entries.values())
    ways = [OURS] + [THEIRS] * bool(args.compare) + [START] * args.start
    got = {way: launch("train.benchmark.load", job | {"way": way}, args.ranks) for way in ways}
    result = {
        "model": f"{parameters:,} parameters, {nbytes / 1e9:.2f} GB in {len(files)} files of {_dtypes(entries)}, computed in {args.dtype}",
        "ranks": args.ranks, "a rank's share MiB": round(share / 2**20, 1), "largest tensor MiB": round(largest / 2**20, 1),
        "bar: share + 1.5 largest tensors + 256 MiB": round((share + 1.5 * largest + SLACK) / 2**20, 1),
        "disk, one reader": f"{cold:.2f} GB/s cold, {warm:.2f} GB/s warm",
    }  # fmt: skip
    if args.compare:
        ours, theirs = got[OURS], got[THEIRS]
        result["seconds against from_pretrained"] = f"{ours['cold'] / theirs['cold']:.2f} cold, {ours['warm'] / theirs['warm']:.2f} warm"
        result["rank 0's peak against from_pretrained"] = round(ours["peaks"][0] / theirs["peaks"][0], 3)
    if args.start:
        start = got[START]
        low, high = (n / 2**20 for n in start["planned peak"])
        result["training state after a step, MiB a rank"] = f"{start['state'] / 2**20:,.1f}, planned {start['planned state'] / 2**20:,.1f}"
        result["planned / measured state"] = round(start["planned state"] / start["state"], 3)
        result["peak of start and step, MiB a rank"] = f"{max(start['peaks']) / 2**20:,.0f}, planned {low:,.0f} to {high:,.0f}"
    return result | {"rows": [_row(way, got[way], nbytes, share * args.ranks) for way in ways]}


def _row(way: str, got: dict[str, Any], nbytes: int, model_bytes: float) -> dict[str, Any]:
    row: dict[str, Any] = {"what": way}
    for cache in ("cold", "warm"):
        seconds = got.get(cache)
        row |= {f"s {cache}": seconds, f"GB/s {cache}": nbytes / 1e9 / seconds if seconds else None}
    return row | {
        "read / file": got["read"] / nbytes if "read" in got else None,
        "by the kernel": got["rchar"] / nbytes if way == OURS else None,  # the others map files, or import more
        "rank 0 MiB": got["peaks"][0] / 2**20,
        "largest MiB": max(got["peaks"]) / 2**20,
        "ranks / model": sum(got["peaks"]) / model_bytes,
        "held after MiB": max(got["held"]) / 2**20,
    }


def _dtypes(entries: dict[str, Any]) -> str:
    return ", ".join(sorted({str(e.dtype).removeprefix("torch.") for e in entries.values()}))


def measure(job: dict[str, Any], world: Any) -> dict[str, Any]:
    """One rank's part: watched once, then timed cold and warm; every rank calls it."""
    import deepspeed  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401 what is imported on first use must not count as the load's

    import train.engine.zero3  # noqa: F401

    recipe, folder = small_recipe(job, world), Path(job["folder"])
    way: Callable[[], Any] = {
        OURS: lambda: _ours(recipe, folder, world),
        THEIRS: lambda: _theirs(recipe, folder, world),
        START: lambda: _start(recipe, folder, world, before),
    }[job["way"]]
    if job["way"] == START:
        _first_engine(job, world)
    _forget(job, world, cold=True)
    before, characters = own_memory(), bytes_read()
    with Watch() as watch:
        kept = way()
        characters = bytes_read() - characters - watch.characters
        held = own_memory() - before
    own = {"peaks": watch.peak - before, "held": held, "rchar": characters}
    got: dict[str, Any] = {key: [r[key] for r in world.gather(own)] for key in own}
    got["rchar"] = sum(got["rchar"])
    if job["way"] == OURS:
        got["read"] = sum(world.gather(kept[1].bytes_read))
    if job["way"] == START:
        return got | kept
    for name in ("cold", "warm"):
        kept = None
        _forget(job, world, cold=name == "cold")
        got[name], kept = timed(way, world)
    return got


def _forget(job: dict[str, Any], world: Any, cold: bool) -> None:
    gc.collect()
    world.barrier()
    if cold and world.rank == 0:
        disk.forget([Path(f) for f in job["files"]])
    world.barrier()


def _ours(recipe: Recipe, folder: Path, world: Any) -> Any:
    from train.engine import deepspeed_json, weights
    from train.engine import zero3 as engine
    from train.model import causal_lm as model

    config = deepspeed_json.merged_config(recipe, world.size, world.device.type == "cuda")
    built, _ = model.build(model.config_of(folder), recipe.model, world.device, 1)
    model.shard(built, config, world.device)
    return built, weights.load(model.parameters_by_name(built), engine.tied_names(built), folder, world)


def _theirs(recipe: Recipe, folder: Path, world: Any) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.integrations import HfDeepSpeedConfig

    from train.engine import deepspeed_json

    config = deepspeed_json.merged_config(recipe, world.size, world.device.type == "cuda")
    said = HfDeepSpeedConfig(config)  # alive while the model is made: this is how transformers learns of ZeRO-3
    return AutoModelForCausalLM.from_pretrained(folder, dtype=in_torch(OF_RECIPE[recipe.model.dtype])), said


def _first_engine(job: dict[str, Any], world: Any) -> None:
    """A small engine and a step of it, so that what is imported and built on first use does not count."""
    import torch

    from train.benchmark import made_models

    with tempfile.TemporaryDirectory() as scratch:
        folder = made_models.write(Path(scratch) / "model", made_models.shape_of(1e6, 500), torch.float32)
        _start(small_recipe(job | {"folder": str(folder)}, world), folder, world, 0)


def _start(recipe: Recipe, folder: Path, world: Any, before: int) -> dict[str, Any]:
    """The engine as a run starts it, and a step on random tokens: what stands after each, and what the plan says."""
    import numpy as np

    from train.benchmark.train import MadeDocuments
    from train.data.loader import Loader
    from train.data.mixture import SourceSpec
    from train.data.plans import DataSettings
    from train.engine import step
    from train.engine import zero3 as engine_room
    from train.model_files.shapes import described
    from train.preflight.memory_items import Shape, plan

    engine, _, _ = engine_room.start(recipe, world, folder, 1)
    give_back()
    started = own_memory() - before
    documents = MadeDocuments(np.full(4 * world.size, recipe.data.seq_len), engine.model.hf.config.vocab_size)
    settings = DataSettings(
        specs=[SourceSpec("made")], seq_len=recipe.data.seq_len, packing="split", seed=0, rows_per_step=recipe.rows_per_step
    )
    loader = Loader({"made": documents}, settings, world.rank, world.size)
    engine.set_lr(1e-5)
    step.take(engine, loader.next_step(), ["made"], world)
    loader.close()
    engine.release()
    give_back()
    on_cuda = world.device.type == "cuda"
    shape = Shape.of(described(folder / "config.json"))
    planned = plan(recipe, shape, world.size, world.size, engine.config["zero_optimization"], on_cuda)
    where = "device" if on_cuda else "host"
    return {
        "started": started, "state": own_memory() - before, "planned state": planned.held(where),
        "planned peak": [planned.need(where, sure=True), planned.need(where, sure=False)],
    }  # fmt: skip
