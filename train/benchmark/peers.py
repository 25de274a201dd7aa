"""Other trainers beside this one: useful tokens/s on the same model, documents, rows, ranks and DeepSpeed settings, in turn.

`--python` is the interpreter of an environment with the peers: python -m venv E && E/bin/pip install torch deepspeed transformers trl,
of the same versions as here, so that only the trainer differs. Each pair starts this trainer, then each peer: HF Trainer + DeepSpeed with
its own flattening collator (the very rows), TRL's SFTTrainer (its own packing of the same documents). Ratios are of medians within a pair.
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
from pathlib import Path
from typing import Any

from train.benchmark.made_models import shape_of, write
from train.benchmark.ranks import BenchError, launch
from train.benchmark.step import measure
from train.benchmark.step.job import add_row_arguments, of_rows
from train.data.loader import Loader
from train.data.mixture import SourceSpec
from train.data.plans import DataSettings
from train.recipe.load import ROOT

NEEDS = "--model DIR --shards DIR --python E/bin/python"
PEERS = {"hf": "HF Trainer + DeepSpeed ZeRO-3, flattening collator", "trl": "TRL SFTTrainer + DeepSpeed ZeRO-3, packing"}
OURS = "astrollama-trainer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", type=Path, metavar="DIR", help="a model folder")
    which.add_argument("--parameters", type=float, metavar="N", help="or a Llama shape of about so many, with random weights")
    add("--shards", type=Path, metavar="DIR", required=True, help="documents: shards of that model's tokenizer")
    add("--tokenizer", type=Path, metavar="DIR", help="with --parameters: a model folder with the shards' tokenizer, which TRL wants")
    add("--python", type=Path, metavar="FILE", required=True, help="interpreter of the peers' environment")
    add("--peers", nargs="+", choices=PEERS, default=list(PEERS), help="default: both")
    add_row_arguments(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Raises BenchError, or the ValueErrors of the trainer's parts."""
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or _made(args, Path(folder) / "model")
        job = of_rows(args, model)
        rows = _rows(args, model)
        rates: dict[str, list[float]] = {}
        versions: dict[str, str] = {}
        for pair in range(args.pairs):
            result = launch("train.benchmark.step.measure", job.to_dict(), args.ranks)
            rates.setdefault(OURS, []).append(result["rows"][0]["useful tokens/s"])
            for peer in args.peers:
                told = _peer(args, peer, model, rows, Path(folder))
                versions = told["versions"]
                rates.setdefault(PEERS[peer], []).append(statistics.median(told["tokens a second"]))
            said = ", ".join(f"{name.split(',')[0]} {values[-1]:.1f}" for name, values in rates.items())
            print(f"pair {pair + 1} of {args.pairs}: useful tokens/s: {said}", file=sys.stderr, flush=True)
    table = []
    for name, values in rates.items():
        ratios = [ours / peer for ours, peer in zip(rates[OURS], values, strict=True)]
        table.append({
            "trainer": name, "useful tokens/s": round(statistics.median(values), 1), "from": round(min(values), 1), "to": round(max(values), 1),
            "ours / this": round(statistics.median(ratios), 2), "smallest": round(min(ratios), 2), "largest": round(max(ratios), 2),
        })  # fmt: skip
    near = min(table[1:], key=lambda row: row["ours / this"])
    said = (
        f"{table[0]['useful tokens/s']} useful tokens/s at {args.ranks} ranks, {near['ours / this']} x the best peer's, {near['trainer']} "
        f"({near['smallest']} to {near['largest']}, {args.pairs} pairs)"
    )
    return {
        "figure": said,
        "model": result["model"],
        "ranks": args.ranks,
        "pairs": args.pairs,
        "steps": args.steps,
        "peers": versions,
        "rows": table,
    }


def _made(args: argparse.Namespace, folder: Path) -> Path:
    import torch

    if not args.tokenizer:
        raise BenchError("--parameters: TRL wants a tokenizer; give --tokenizer DIR, a model folder with the shards' own")
    vocabulary = json.loads((args.tokenizer / "config.json").read_text())["vocab_size"]
    return write(folder, shape_of(args.parameters, vocabulary), torch.float32)


def _rows(args: argparse.Namespace, model: Path) -> list[list[list[int]]]:
    """Each step's rows, rank by rank, as lists of documents' ids."""
    vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
    shards = measure.opened(args.shards, vocabulary)
    settings = DataSettings(
        specs=[SourceSpec("documents")], seq_len=args.seq_len, packing="whole", long_documents="drop", seed=0, rows_per_step=args.ranks, micro_batch_rows=1
    )  # fmt: skip
    loaders = [Loader({"documents": shards}, settings, rank, args.ranks) for rank in range(args.ranks)]
    rows = []
    for _ in range(args.warmup + args.steps):
        step = [batch for loader in loaders for batch in loader.next_step()]
        rows += [[batch.tokens[0, a:b].tolist() for a, b in _documents(batch)] for batch in step]
    for loader in loaders:
        loader.close()
    return rows


def _documents(batch: Any) -> list[tuple[int, int]]:
    edges = batch.cu_seqlens.tolist()
    return [(a, b) for a, b in zip(edges, edges[1:], strict=False) if b > a and batch.source[a] >= 0]


def _peer(args: argparse.Namespace, peer: str, model: Path, rows: list, folder: Path) -> dict[str, Any]:
    """The peer's tokens a second, by DeepSpeed's launcher in its own environment."""
    from train.world.ranks import free_port

    zero = json.loads((ROOT / "ds_configs" / "cpu.json").read_text())
    threads = max(1, (os.cpu_count() or 1) // args.ranks)
    given = {
        "peer": peer, "model": str(model), "tokenizer": str(args.tokenizer or model), "rows": rows, "seq_len": args.seq_len, "steps": args.steps,
        "warmup": args.warmup, "threads": threads, "result": str(folder / "result.json"),
        "deepspeed": zero | {
            "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1, "gradient_clipping": 1.0, "zero_allow_untested_optimizer": True,
        },
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(given))
    Path(given["result"]).unlink(missing_ok=True)
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "LD_PRELOAD")}
    env |= {
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": str(threads),
        "PATH": f"{args.python.absolute().parent}{os.pathsep}{os.environ['PATH']}",
    }
    words = [
        "--num_gpus",
        str(args.ranks),
        "--master_port",
        str(free_port()),
        str(ROOT / "train/benchmark/peer_trainer.py"),
        str(folder / "job.json"),
    ]
    command = [str(args.python.absolute()), "-m", "deepspeed.launcher.runner", *words]
    subprocess.run(command, env=env, stdout=sys.stderr, check=False)
    if not Path(given["result"]).exists():
        raise BenchError(f"{PEERS[peer]} did not finish; its own message stands above")
    return json.loads(Path(given["result"]).read_text())
