"""How near a step is to what this machine allows: its share of the matrix products' own rate, ZeRO-3 beside plain data parallel, the start.

Each pair measures, in turn, every question asked by `--questions`; ratios are of the two within a pair, medians over the pairs:
products  one rank: tokens/s of the step, against those at which the model's own linear products alone would run, forward and backward
plain     the ranks asked for: seconds of a step under ZeRO-3, against the same model, loss and rows under torch's DistributedDataParallel
start     from the command to the first step's line, against a script that imports the same, loads the same model into DeepSpeed and steps once
Only on CPUs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from train.benchmark.made_models import shape_of, write
from train.benchmark.ranks import BenchError, launch, prepared
from train.benchmark.step.job import Job, add_row_arguments, of_rows, recipe_of
from train.recipe.load import ROOT

NEEDS = "--model DIR --shards DIR"
QUESTIONS = {
    "products": ("step, useful tokens/s, 1 rank", "its linear products alone"),
    "plain": ("ZeRO-3, seconds a step", "plain data parallel"),
    "start": ("command to first step, seconds", "DeepSpeed's least script, same imports and model"),
}
KEPT = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_TOP_PAD_": "268435456"}
LONGEST = 300  # seconds a start may take


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", type=Path, metavar="DIR", help="a model folder")
    which.add_argument("--parameters", type=float, metavar="N", help="or a Llama shape of about so many, with random weights; no start")
    add("--shards", type=Path, metavar="DIR", required=True, help="documents: shards of that model's tokenizer")
    add("--questions", nargs="+", choices=QUESTIONS, default=list(QUESTIONS), help="default: all")
    add_row_arguments(parser, ranks="of the second and third question ")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Raises BenchError, or the ValueErrors of the trainer's parts."""
    questions = [q for q in QUESTIONS if q in args.questions and (q != "start" or args.model)]
    if not questions:
        raise BenchError("--questions start: needs --model DIR, a folder with a tokenizer; a made model has none")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        model = args.model or _made(args, folder / "model")
        job = of_rows(args, model)
        ask = {"products": _products, "plain": _plain, "start": _start}
        found: dict[str, list[tuple[float, float]]] = {question: [] for question in questions}
        for pair in range(args.pairs):
            for question in questions:
                one, other = ask[question](job, args.ranks, folder)
                found[question].append((one, other))
                print(f"pair {pair + 1} of {args.pairs}: {QUESTIONS[question][0]} {one:.2f}, {QUESTIONS[question][1]} {other:.2f}",
                      file=sys.stderr, flush=True)  # fmt: skip
    rows = [_row(question, pairs) for question, pairs in found.items()]
    said = "; ".join(f"{row['what']} / {row['against']}: {row['ratio']}" for row in rows)
    return {"figure": said, "model": str(args.model or f"{args.parameters:.3g} parameters, random"), "ranks": args.ranks, "pairs": args.pairs,
            "steps": args.steps, "rows": rows}  # fmt: skip


def _row(question: str, pairs: list[tuple[float, float]]) -> dict[str, Any]:
    what, against = QUESTIONS[question]
    ratios = [one / other for one, other in pairs]
    return {
        "what": what, "against": against, "ours": round(statistics.median(p[0] for p in pairs), 2),
        "theirs": round(statistics.median(p[1] for p in pairs), 2), "ratio": round(statistics.median(ratios), 3),
        "from": round(min(ratios), 3), "to": round(max(ratios), 3),
    }  # fmt: skip


def _made(args: argparse.Namespace, folder: Path) -> Path:
    import torch

    from data_tools.shards.reader import Shards

    return write(folder, shape_of(args.parameters, Shards.open(args.shards, verify="size").vocab_size), torch.float32)


def _products(job: Job, ranks: int, folder: Path) -> tuple[float, float]:
    """Useful tokens/s of the step, and of its products alone, one rank each."""
    ours = launch("train.benchmark.step.measure", job.to_dict(), 1)["rows"][0]["useful tokens/s"]
    with tempfile.TemporaryDirectory(dir=folder) as own:
        command, result, env = prepared("train.benchmark.limits.products", job.to_dict(), 1, Path(own))
        subprocess.run(command, env=env | KEPT, stdout=sys.stderr, check=False)
        if not result.exists():
            raise BenchError("the products' measurement did not finish; its message stands above")
        return ours, json.loads(result.read_text())["tokens/s"]


def _plain(job: Job, ranks: int, folder: Path) -> tuple[float, float]:
    """Seconds of a step under ZeRO-3, and under plain data parallel."""
    ours = launch("train.benchmark.step.measure", job.to_dict(), ranks)
    seconds = statistics.median(step["seconds"] for step in ours["steps_taken"]["packed"])
    return seconds, launch("train.benchmark.limits.plain", job.to_dict(), ranks)["seconds"]


def _start(job: Job, ranks: int, folder: Path) -> tuple[float, float]:
    """Seconds from the command to the first step, ours and the least script's."""
    recipe = recipe_of(job, ranks, on_cuda=False).to_dict() | {
        "name": "start",
        "steps": 1,
        "deepspeed": str(ROOT / "ds_configs" / "cpu.json"),
    }
    (folder / "start.yaml").write_text(yaml.safe_dump(recipe))
    given = {"model": job.model, "seq_len": recipe["data"]["seq_len"], "deepspeed": json.loads((ROOT / "ds_configs" / "cpu.json").read_text()),
             "done": str(folder / "least.done")}  # fmt: skip
    (folder / "least.json").write_text(json.dumps(given))
    with tempfile.TemporaryDirectory(dir=folder) as place:
        metrics = Path(place) / "runs" / "start" / "metrics.jsonl"
        ours = _until([str(ROOT / "launch" / "pretrain.py"), str(folder / "start.yaml")], ranks, Path(place), lambda: _has_step(metrics))
    least = Path(given["done"])
    least.unlink(missing_ok=True)
    words = [str(Path(__file__).with_name("least_script.py")), str(folder / "least.json")]
    return ours, _until(words, ranks, folder, least.is_file)


def _has_step(metrics: Path) -> bool:
    lines = metrics.read_text().splitlines() if metrics.is_file() else []
    return any('"step": 1,' in line and line.endswith("}") for line in lines)


def _until(words: list[str], ranks: int, place: Path, there: Any) -> float:
    """Seconds from the launcher's start until what it is to leave is there; it is waited for."""
    from train.world.ranks import free_port

    env = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // ranks))} | os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", str(ranks), "--master_port", str(free_port()), *words]
    begun = time.perf_counter()
    with subprocess.Popen(command, env=env, cwd=place, stdout=sys.stderr) as process:
        while not there():
            if process.poll() is not None and not there():
                raise BenchError(f"{words[0]} ended before its first step; its own message stands above")
            if time.perf_counter() - begun > LONGEST:
                process.terminate()
                raise BenchError(f"{words[0]} made no step in {LONGEST} s")
            time.sleep(0.02)
        seconds = time.perf_counter() - begun
    return seconds
