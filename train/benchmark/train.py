"""Training: tokens/s of the real step, MFU and memory, on one machine's ranks.

Steps are the trainer's own (train/engine/step.py) on its own loader, at lr 0, so that every step computes the same.
`--model` takes a model folder, `--size` makes random weights of a known shape, in memory. Documents are made, as long as those of a
chat mixture (mean 654 tokens), or come from `--shards`.
`--compare padded` trains on the very documents of each packed step again, one a row, padded to the longest of a micro-batch, and to
whole rows: steps take turns, and the ratios are of the medians of useful tokens/s.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from train.benchmark.ranks import BenchError, launch
from train.data.mixture import SourceSpec, generator
from train.data.plans import DataSettings
from train.recipe.vocabulary import Data, Model, Optim, Recipe, Source

# (hidden, layers, heads, key-value heads, MLP, vocabulary)
SIZES = {
    "25m": (288, 6, 6, 6, 768, 32000), "135m": (576, 30, 9, 3, 1536, 49152), "1b": (2048, 22, 32, 4, 5632, 32000), "7b": (4096, 32, 32, 32, 11008, 32000),
    "8b": (4096, 32, 32, 8, 14336, 128256), "13b": (5120, 40, 40, 40, 13824, 32000), "70b": (8192, 80, 64, 8, 28672, 32000),
}  # fmt: skip
MEAN_TOKENS, SIGMA = 654, 0.9  # a chat mixture's conversations, lognormal
PADDED = {"padded to the longest of the micro-batch": False, "padded to whole rows": True}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", metavar="DIR", help="a model folder")
    which.add_argument("--size", choices=SIZES, default="25m", help="or random weights of this size (default: %(default)s)")
    add("--seq-len", type=int, default=2048, help="tokens of a row (default: %(default)s)")
    add("--micro-batch", type=int, default=4, help="rows a rank computes at once (default: %(default)s)")
    add("--accumulation", type=int, default=1, help="micro-batches a step (default: %(default)s)")
    add("--steps", type=int, default=10, help="steps measured, of each kind (default: %(default)s)")
    add("--warmup", type=int, default=2, help="steps before, not measured (default: %(default)s)")
    add("--ranks", type=int, default=1, help="processes, by the deepspeed launcher when more than one (default: %(default)s)")
    add("--packing", choices=("split", "whole"), default="whole", help="default: %(default)s")
    add("--shards", type=Path, metavar="DIR", help="documents of these shards instead of made ones")
    add("--compare", choices=("padded",), help="also train on the same documents padded")
    add("--mean-tokens", type=int, default=MEAN_TOKENS, help="mean length of made documents (default: %(default)s)")
    add("--deepspeed", type=Path, metavar="JSON", help="default: ds_configs/zero3.json, on a CPU ds_configs/cpu.json")
    add("--dtype", choices=("bf16", "fp32"), help="default: bf16, on a CPU fp32")
    add("--attention", choices=("auto", "flash", "torch_varlen", "sdpa"), default="auto")
    add("--activation-checkpointing", choices=("none", "full", "every_other"), default="none")
    add("--compile", action="store_true", help="torch.compile of each layer")
    add("--peak-tflops", type=float, metavar="N", help="dense peak of one device, for MFU (default: known GPUs by their name)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Raises BenchError, or the ValueErrors of the trainer's parts."""
    for name in ("seq_len", "micro_batch", "accumulation", "steps", "ranks", "mean_tokens"):
        if getattr(args, name) < 1:
            raise BenchError(f"--{name.replace('_', '-')} {getattr(args, name)}: give 1 or more")
    job = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k != "json"}
    if args.ranks > 1:
        return launch("train.benchmark.train", job, args.ranks)
    from train.world.ranks import World

    world = World.from_env()
    world.connect(600)
    return measure(job, world)


def measure(job: dict[str, Any], world: Any) -> dict[str, Any]:
    """One rank's part; every rank calls it."""
    import torch

    from train.data.loader import Loader

    on_cuda = world.device.type == "cuda"
    recipe = _recipe(job, world.size, on_cuda)
    engine, said = _engine(recipe, job, world)
    world.log0(said)
    vocabulary = engine.model.hf.config.vocab_size
    shards = _open(job["shards"], vocabulary) if job["shards"] else MadeDocuments(_lengths(job), vocabulary)
    settings = DataSettings(
        specs=[SourceSpec("documents")], seq_len=recipe.data.seq_len, packing=recipe.data.packing, long_documents="drop", seed=0,
        rows_per_step=recipe.rows_per_step, micro_batch_rows=recipe.micro_batch,
    )  # fmt: skip
    loader = Loader({"documents": shards}, settings, world.rank, world.size)
    engine.set_lr(0.0)  # every step computes the same, and both kinds the same losses
    kinds = ["packed", *(PADDED if job["compare"] else ())]
    taken: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(world.device)
    for number in range(job["warmup"] + job["steps"]):
        packed = loader.next_step()
        for kind in kinds:
            rng = generator(0, kind, number, world.rank)
            batches = packed if kind == "packed" else _padded(packed, recipe.micro_batch, PADDED[kind] and recipe.data.seq_len, rng, world)
            one = _step(engine, batches, world)
            world.log0(f"{kind}, step {number + 1}/{job['warmup'] + job['steps']}: {one['useful'] / one['seconds']:,.0f} useful tokens/s")
            if number >= job["warmup"]:
                taken[kind].append(one)
    loader.close()
    return _result(job, recipe, engine, taken, said, world)


def _recipe(job: dict[str, Any], ranks: int, on_cuda: bool) -> Recipe:
    return Recipe(
        name="benchmark", steps=1, tokens_per_step=job["micro_batch"] * job["accumulation"] * ranks * job["seq_len"], micro_batch=job["micro_batch"],
        model=Model(
            path=job["model"] or job["size"], dtype=job["dtype"] or ("bf16" if on_cuda else "fp32"), attention=job["attention"],
            activation_checkpointing=job["activation_checkpointing"], compile=job["compile"],
        ),
        data=Data(sources={"documents": Source(path=Path(job["shards"] or "made"))}, seq_len=job["seq_len"], packing=job["packing"]),
        deepspeed=Path(job["deepspeed"] or ("ds_configs/zero3.json" if on_cuda else "ds_configs/cpu.json")),
        optim=Optim(kernel="auto"),
    )  # fmt: skip


def _engine(recipe: Recipe, job: dict[str, Any], world: Any) -> tuple[Any, str]:
    from train.engine import deepspeed_json
    from train.engine import zero3 as engine_room
    from train.model import causal_lm as model_room
    from train.model_files.fetch import resolve

    if job["model"]:
        engine, _, said = engine_room.start(recipe, world, resolve(job["model"], world), 1)
        return engine, said
    from transformers import LlamaConfig

    hidden, layers, heads, kv_heads, mlp, vocabulary = SIZES[job["size"]]
    config = LlamaConfig(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads, intermediate_size=mlp,
        vocab_size=vocabulary, max_position_embeddings=job["seq_len"], tie_word_embeddings=job["size"] == "135m",
    )  # fmt: skip
    merged = deepspeed_json.merged_config(recipe, world.size, world.device.type == "cuda")
    model, said = model_room.build(config, recipe.model, world.device, 1)
    model_room.shard(model, merged, world.device)
    for parameter in model.parameters():  # each rank its own slice: no file, no full copy, no broadcast
        parameter.ds_tensor.fill_(1.0) if len(parameter.ds_shape) < 2 else parameter.ds_tensor.normal_(0, 0.02)
    return engine_room.Engine(recipe, world, model, merged), said


def _lengths(job: dict[str, Any]) -> np.ndarray:
    tokens = 1.5 * job["ranks"] * job["micro_batch"] * job["accumulation"] * job["seq_len"] * (job["steps"] + job["warmup"])
    mean = job["mean_tokens"]
    made = generator(0, "lengths").lognormal(np.log(mean) - SIGMA**2 / 2, SIGMA, max(64, int(tokens / mean)))
    return np.clip(made.astype(np.int64), 2, job["seq_len"])


class MadeDocuments:
    """Random tokens of given lengths, as the loader reads shards."""

    has_mask = False
    fingerprint = "made for a benchmark"

    def __init__(self, lengths: np.ndarray, vocabulary: int) -> None:
        self.lengths, self._vocabulary = lengths, vocabulary

    def __len__(self) -> int:
        return len(self.lengths)

    def tokens(self, i: int) -> np.ndarray:
        return generator(i, "tokens").integers(0, self._vocabulary, self.lengths[i], np.uint32)

    def check_unchanged(self, documents: object = None) -> None:
        pass


def _open(folder: str, vocabulary: int) -> Any:
    from data_tools.shards.reader import Shards

    shards = Shards.open(Path(folder), verify="size")
    if shards.vocab_size > vocabulary:
        raise BenchError(
            f"--shards {folder}: made with a vocabulary of {shards.vocab_size:,}, the model has {vocabulary:,}; give its --model, or another --size"
        )
    return shards


def _padded(packed: list, micro_batch: int, row: int, rng: np.random.Generator, world: Any) -> list:
    """The documents of a step's packed batches in random order, `micro_batch` of them at a time, each padded to one length.

    row: pad to this many tokens; 0: to the longest of each micro-batch. A padded row is one segment: a causal mask keeps its
    padding, at the end, from what comes before, and costs what it costs in any padded training.
    """
    pieces = []
    for batch in packed:
        edges = batch.cu_seqlens.tolist()
        spans = [(a, b) for a, b in zip(edges, edges[1:]) if batch.source[a] >= 0]
        pieces += [(batch.tokens[0, a:b], batch.labels[0, a:b]) for a, b in spans]
    order = rng.permutation(len(pieces)).tolist()
    groups = [[pieces[i] for i in order[k : k + micro_batch]] for k in range(0, len(order), micro_batch)]
    [count] = world.max([len(groups)])
    groups += [[] for _ in range(int(count) - len(groups))]  # every rank makes the same calls
    return [_pad(group, row or max((len(t) for t, _ in group), default=2)) for group in groups]


def _pad(group: list, length: int) -> Any:
    import torch

    from train.data.batch import PackedBatch
    from train.data.packing import IGNORED

    rows = max(1, len(group))
    tokens, labels = torch.zeros(rows, length, dtype=torch.int64), torch.full((rows, length), IGNORED)
    source = torch.full((rows, length), -1, dtype=torch.int16)
    for i, (t, y) in enumerate(group):
        tokens[i, : len(t)], labels[i, : len(t)], source[i, : len(t)] = t, y, 0
    edges = torch.arange(rows + 1, dtype=torch.int32) * length
    positions = torch.arange(length).repeat(rows)[None]
    return PackedBatch(tokens.view(1, -1), labels.view(1, -1), positions, edges, length, source.view(-1), int((labels != IGNORED).sum()))


def _step(engine: Any, batches: list, world: Any) -> dict[str, float]:
    """One step of the trainer's own, timed; counts are of all ranks."""
    from train.engine import step

    places = float(sum(b.tokens.numel() for b in batches))
    world.barrier()
    begun = time.perf_counter()
    totals = step.take(engine, batches, ["documents"], world, own=lambda: {"places": places})
    seconds = time.perf_counter() - begun
    return {
        "useful": totals.tokens, "places": totals.agreed["places"], "attended": totals.attended, "seconds": seconds, "loss": totals.loss,
    }  # fmt: skip


def _result(
    job: dict[str, Any], recipe: Recipe, engine: Any, taken: dict[str, list[dict[str, float]]], said: str, world: Any
) -> dict[str, Any]:
    """Rates by train.run.metrics_log, of each kind's median step."""
    from train.model.flops import flops_per_token
    from train.run.rates import Flops, StepNumbers, rates
    from train.world.machine import peak_memory_bytes, peak_tflops

    peak = job["peak_tflops"]
    if peak is None and world.device.type == "cuda":
        import torch

        peak = peak_tflops(torch.cuda.get_device_name(world.device))
    dense = flops_per_token(engine.model.hf.config, engine.total_parameters, 0)
    attention = flops_per_token(engine.model.hf.config, engine.total_parameters, 1) - dense
    flops = Flops(world.size, job["seq_len"], dense, attention, peak)
    rows, speed = [], {}
    attended = statistics.median(s["attended"] for s in taken["packed"])  # what the documents need, however they are laid out
    for kind, steps in taken.items():
        speed[kind] = statistics.median(s["useful"] / s["seconds"] for s in steps)
        middle = min(steps, key=lambda s: abs(s["useful"] / s["seconds"] - speed[kind]))
        numbers = StepNumbers(0, 0, 0, 0, 0, int(middle["useful"]), 0, middle["seconds"], 0, attended=attended)
        r = rates(numbers, flops, 0, 0)
        rows.append({
            "batches": kind, "useful tokens/s": speed[kind], "a rank": speed[kind] / world.size, "seconds a step": middle["seconds"],
            "useful %": 100 * sum(s["useful"] for s in steps) / sum(s["places"] for s in steps),
            "MFU %": None if r["mfu"] is None else 100 * r["mfu"], "MFU attended %": None if r["mfu_attended"] is None else 100 * r["mfu_attended"],
        })  # fmt: skip
    [memory] = world.max([float(peak_memory_bytes(world.device))])
    result: dict[str, Any] = {
        "model": f"{recipe.model.path}, {engine.total_parameters:,} parameters, {recipe.model.dtype}", "ranks": world.size, "device": _device(world),
        "batch": f"{recipe.tokens_per_step:,} places a step: {job['accumulation']} micro-batches of {job['micro_batch']} rows of {job['seq_len']} a rank",
        "engine": f"{recipe.deepspeed}, {said}", "peak memory GiB a rank": round(memory / 2**30, 2), "steps": job["steps"],
    }  # fmt: skip
    for kind in list(taken)[1:]:
        result[f"packed / {kind}"] = round(speed["packed"] / speed[kind], 2)
        pairs = zip(taken["packed"], taken[kind])
        result[f"largest loss difference, {kind}"] = max(abs(a["loss"] - b["loss"]) for a, b in pairs)
    return result | {"rows": rows}


def _device(world: Any) -> str:
    if world.device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(world.device)
    return "cpu"
