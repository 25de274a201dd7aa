"""Saving checkpoints: time, bytes and memory of each rank, in the foreground and behind the steps, beside the disk's own rate.

`--parameters` makes a model of random weights, `--model` takes a folder. Memory is what a rank has for itself (USS, sampled every 20 ms):
in the foreground above the training state, behind the steps above the same steps without a save. "stalled" is how long the steps
stood still. "read back" hashes a whole checkpoint as a resume does; "disk" writes as many bytes with nothing else to do.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from train.benchmark import disk
from train.benchmark.ranks import BenchError, Watch, give_back, launch, own_memory, small_recipe, timed
from train.recipe.vocabulary import Recipe

SLACK = 256 << 20  # what a save may take besides two largest tensors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", type=Path, metavar="DIR", help="a model folder of safetensors")
    which.add_argument(
        "--parameters", type=float, default=0.1e9, metavar="N", help="or random weights, about so many (default: %(default)g)"
    )
    add("--dtype", choices=("bf16", "fp32"), default="fp32", help="compute dtype (default: %(default)s)")
    add("--ranks", type=int, default=2, help="processes (default: %(default)s)")
    add("--repeats", type=int, default=3, help="saves of each kind; the median counts, of memory the largest (default: %(default)s)")
    add("--deepspeed", type=Path, metavar="JSON", help="default: ds_configs/zero3.json, on a CPU ds_configs/cpu.json")
    add("--scratch", type=Path, metavar="DIR", help="the disk to be measured (default: the folder for temporary files)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Raises BenchError, or the ValueErrors of the trainer's parts."""
    if args.ranks < 1 or args.repeats < 1 or not args.model and args.parameters < 1e5:
        raise BenchError(f"--ranks {args.ranks}, --repeats {args.repeats}, --parameters {args.parameters:g}: give at least 1, 1 and 1e5")
    import torch

    from train.benchmark import made_models

    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        folder = args.model or made_models.write(Path(scratch) / "model", made_models.shape_of(args.parameters), torch.bfloat16)
        job = {
            "folder": str(folder), "scratch": scratch, "dtype": args.dtype, "repeats": args.repeats,
            "deepspeed": str(args.deepspeed) if args.deepspeed else None,
        }  # fmt: skip
        got = launch("train.benchmark.checkpoint", job, args.ranks)
    share, largest, nbytes = got["share"], got["largest"], got["bytes"]
    bars = {"foreground": 2 * largest + SLACK, "behind the steps": 2 * largest + SLACK + share}
    rows = [{"what": "disk, write and sync", "seconds": got["disk"], "GB": nbytes / 1e9, "GB/s": nbytes / 1e9 / got["disk"]}]
    for name, bar in bars.items():
        one = got[name]
        rows.append({
            "what": f"save, {name}", "seconds": one["seconds"], "GB": nbytes / 1e9, "GB/s": nbytes / 1e9 / one["seconds"],
            "stalled s": one["stalled"], "peak MB a rank": max(one["peaks"]) / 1e6, "bar MB": bar / 1e6,
        })  # fmt: skip
    rows.append(
        {"what": "read back and hash", "seconds": got["verify"], "GB": nbytes / 1e9, "GB/s": nbytes / 1e9 / got["verify"]}
        | {"s/GB": got["verify"] / (nbytes / 1e9)}
    )
    return {
        "parameters": got["parameters"], "ranks": args.ranks, "dtype": args.dtype, "share of masters and moments, MB": share / 1e6,
        "largest tensor, MB": largest / 1e6, "stall / foreground save": got["behind the steps"]["stalled"] / got["foreground"]["seconds"],
        "rows": rows,
    }  # fmt: skip


def measure(job: dict[str, Any], world: Any) -> dict[str, Any]:
    """One rank's part."""
    from train.checkpoint import layout, manifest, trainer_state
    from train.checkpoint.folder import Extras
    from train.checkpoint.retention import Keep, retain
    from train.checkpoint.saver import Saver
    from train.engine.zero3 import start

    recipe, root = small_recipe(job, world), Path(job["scratch"]) / "checkpoints"
    engine, _, _ = start(recipe, world, Path(job["folder"]), 1)
    _step(engine, recipe, world)
    _step(engine, recipe, world)
    give_back()
    slices = trainer_state.live(engine)
    step = 0
    got: dict[str, Any] = {"parameters": engine.total_parameters, "largest": max(slices.numels.values()) * slices.dtype.itemsize}
    got["share"] = 12 * sum(p.ds_tensor.numel() for p in engine.parameters.values())
    with Watch() as alone:
        _step(engine, recipe, world)
        _step(engine, recipe, world)
    for name, background in (("foreground", False), ("behind the steps", True)):
        saver = Saver(engine, root, Keep(99, 0, 0), world, background)
        seconds, stalled, peaks = [], [], []
        for _ in range(job["repeats"]):
            step += 1
            give_back()
            world.barrier()
            base = own_memory()
            with Watch() as watch:
                begun = time.perf_counter()
                saver.save(Extras({"step": step}, Path(job["folder"])))
                called = time.perf_counter() - begun
                while world.sum([float(saver.busy)])[0]:
                    _step(engine, recipe, world, saver)
                seconds.append(time.perf_counter() - begun if not background else saver.last_seconds)
            saver.finish()
            stalled.append(called if not background else called + saver.stalled_seconds)
            peaks.append(watch.peak - (max(base, alone.peak) if background else base))
            retain(root, Keep(1, 0, 0), root / layout.folder_name(step), world)
        middle = sorted(seconds)[len(seconds) // 2], sorted(stalled)[len(stalled) // 2]
        worst = world.max([*middle, max(peaks)])
        got[name] = {"seconds": worst[0], "stalled": worst[1], "peaks": [worst[2]]}
    newest = root / layout.folder_name(step)
    got["bytes"] = sum(p.stat().st_size for p in newest.rglob("*") if p.is_file())
    got["verify"], faults = timed(lambda: manifest.verify(newest, world), world)
    assert not faults, faults
    plain, plainly = root / f"plain_{world.rank}", []
    for _ in range(2):
        plainly.append(timed(lambda: disk.write_plainly(plain, got["bytes"] // world.size), world)[0])
        plain.unlink()
    got["disk"] = min(plainly)
    return got


def _step(engine: Any, recipe: Recipe, world: Any, saver: Any = None) -> None:
    """The trainer's step on made tokens; with a saver, as the loop makes it while a save is in flight."""
    import dataclasses

    import torch

    from train.data.batch import PackedBatch
    from train.data.packing import IGNORED
    from train.engine import step

    ids = [(7919 * i) % 1000 for i in range(recipe.data.seq_len)]
    labels = torch.tensor([[*ids[1:], IGNORED]])
    batch = dataclasses.replace(PackedBatch.of_ids(ids), labels=labels, supervised=len(ids) - 1)
    engine.set_lr(1e-6)
    if saver:
        step.take(engine, [batch], ["made"], world, lambda: {"save failed": saver.failed}, lambda _: saver.before_update())
    else:
        step.take(engine, [batch], ["made"], world)
