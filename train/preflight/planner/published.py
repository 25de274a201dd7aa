"""Rows of published figures, in the words their sources use → jobs on clusters.

Columns: id, system, model, n_gpu, gpu, interconnect, seq_len, micro_batch_seqs, global_batch_seqs, parallelism, act_ckpt, precision, kernels,
tok_s_gpu, mfu_reported_pct, hfu_reported_pct, peak_mem_gib, source. What a row leaves out is taken as usual, and said.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from train.preflight.planner.clusters import GBIT, GIB, Cluster, ClusterError, Gpu, gpu_named
from train.preflight.planner.footprint import peak
from train.preflight.planner.job import AGAIN, NOTHING, WHOLE, Again, Job, Kernels, Sharding
from train.preflight.planner.models import ModelUnknown, sizes_of

USUAL_TOKENS = 8192  # of a micro-batch, where a row does not say
MOST_GPUS = 1 << 20
USABLE = 0.9  # of a GPU's memory: the rest is libraries' and what falls between blocks
# what runs Llama-like models with norms, rotations or activations of its own in one kernel each
PARTLY = re.compile(r"internevo|internlm|colossal|paddle", re.IGNORECASE)
FUSED = re.compile(
    r"torch\.?compile|\bcompile|liger|fused|\bTE\b|transformer.engine|cudnn|splash|unsloth|\bxla\b|\bjax\b|megatron|nemo|maxtext|foundry|composer|arctic|alst|deepcompile|tinyllama|litgpt|lit-gpt|levanter",
    re.IGNORECASE,
)
UNTOLD = re.compile(r"^\s*(n\.?/?s\.?|not stated|none stated|unknown|-|n/?a|\?|nan|none)?\s*$", re.IGNORECASE)


class RowError(ValueError):
    """A row that cannot be predicted: the column, its value, why."""


@dataclass(frozen=True)
class Read:
    """What a row asks: a job on a cluster, and what had to be assumed."""

    job: Job
    cluster: Cluster
    notes: tuple[str, ...]


def rows() -> list[dict[str, str]]:
    return json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))


def read(row: Mapping[str, str]) -> Read:
    """Raises RowError: a model, GPU or number that is not known."""
    text = {key: str(value).strip() for key, value in row.items() if key and value is not None}
    if not text.get("model"):
        raise RowError("model: empty; which one?")
    try:
        sizes, alike = sizes_of(text["model"])
        gpu = gpu_named(text.get("gpu", ""))
    except (ModelUnknown, ClusterError) as error:
        raise RowError(str(error)) from None
    words = " ".join(text.get(k, "") for k in ("parallelism", "system", "precision"))
    notes = [alike] if alike else []

    def number(column: str, default: float, least: float = 1) -> float:
        return _number(text, column, default, least, notes)

    gpus = int(number("n_gpu", 8))
    seq_len = int(number("seq_len", 4096))
    if gpus > MOST_GPUS or seq_len > 1 << 27:
        raise RowError(f"n_gpu={gpus}, seq_len={seq_len}: out of range")
    tensor, stages, split, virtual = (
        _way(pattern, words) for pattern in (r"TP\s*=?\s*(\d+)", r"\bPP\s*=?\s*(\d+)", r"(?:\bCP|\bSP)\s*=?\s*(\d+)", r"\bVP\s*=?\s*(\d+)")
    )
    apart = tensor * stages * split
    if apart > gpus:
        raise RowError(f"parallelism {text.get('parallelism')}: {apart} GPUs share a model, n_gpu is {gpus}")
    replicas = gpus / apart
    micro, micro_steps = _batches(text, number, replicas, seq_len, notes)
    again = _again(text)
    kernels, sharding = _kernels(text), _sharding(text.get("parallelism", ""), notes)
    kernel_words = f"{text.get('kernels', '')} {text.get('precision', '')}"
    by_matrix = bool(
        re.search(r"deepspeed|zero-?3", f"{text.get('system', '')} {text.get('parallelism', '')}", re.IGNORECASE)
    )  # as it is by default
    pure = bool(re.search(r"pure bf16|bf16 pure", words))  # no masters; llm-foundry's MP PURE has them
    job = Job(
        sizes=sizes, seq_len=seq_len, micro_batch=micro, micro_steps=micro_steps, again=again or NOTHING, sharding=sharding,
        summed_bytes=0 if "in-backward" in kernel_words else 2 if pure else 6 if "fp32 grad acc" in words else 4,
        optimizer_bytes=2 if re.search(r"8-?bit", kernel_words) else 4 if pure else 12,
        chunked_loss=bool(re.search(r"liger|/CE\b|chunked|fused (linear )?(CE|cross)|tiled", kernel_words + words, re.IGNORECASE)),
        gathers=10 if by_matrix else 2,
        gradient_bytes=2 if by_matrix or re.search(r"PURE|pure bf16|bf16 pure", words) or "fms" in text.get("system", "") else 4,
        kernels=kernels, fp8="fp8" in text.get("precision", "").lower(),
        adapter=bool(re.search(r"lora", " ".join(text.get(k, "") for k in ("parallelism", "system", "precision", "kernels", "model")), re.IGNORECASE)),
        offload=_offload(words), tensor=tensor, split=split, stages=stages, virtual=virtual,
    )  # fmt: skip
    there = Cluster(gpu, gpus, min(8, gpus), _network(text.get("interconnect", ""), gpu, gpus, notes))
    if again is None:
        job = _least_again(job, there, text.get("act_ckpt", ""), notes)
    return Read(job, there, tuple(notes))


def _batches(text: Mapping[str, str], number, replicas: float, seq_len: int, notes: list[str]) -> tuple[float, int]:
    """Rows of a micro-batch, micro-steps of a step."""
    micro, per_step = number("micro_batch_seqs", 0, 0), number("global_batch_seqs", 0, 0)
    words = text.get("parallelism", "")
    accumulated = re.search(r"(?:grad(?:ient)?[- ]?acc\w*\.?|\bga)\s*=?\s*(\d+)", words, re.IGNORECASE)
    if not micro:
        micro = max(1.0, USUAL_TOKENS / seq_len)
        if per_step:
            micro = max(min(micro, per_step / replicas), 1 / replicas)
        notes.append(f"micro_batch_seqs: not given, {micro:g} taken")
    if accumulated:
        return micro, max(1, int(accumulated[1]))
    return micro, max(1, round(per_step / micro / replicas)) if per_step else 1


def _sharding(words: str, notes: list[str]) -> Sharding:
    if re.search(r"HSDP|hybrid.?shard|in.node x DP|MiCS|replicate", words, re.IGNORECASE):
        return "in node"
    if re.search(r"hpz|zero\+\+", words, re.IGNORECASE):
        return "hpz"
    if re.search(r"ZeRO-?2\b|stage ?-?2\b|SHARD_GRAD_OP", words, re.IGNORECASE):
        return "gradients"
    if re.search(r"ZeRO-?[01]\b|stage ?-?1\b|\bDDP\b|dist\. optimizer|distributed optimizer|\bDP\d+\b.*ZeRO-0", words, re.IGNORECASE):
        return "optimizer in node" if re.search(r"over 8\b|in node", words) else "optimizer"
    if not re.search(r"FSDP|ZeRO|shard|Gemini|single|offload", words, re.IGNORECASE):
        notes.append(
            f"parallelism {words!r}: not known, ZeRO-3 taken" if not UNTOLD.match(words) else "parallelism: not given, ZeRO-3 taken"
        )
    return "zero3"


def _offload(words: str) -> str:
    if not re.search(r"offload", words, re.IGNORECASE):
        return "none"
    return "all" if re.search(r"(weight|param\w*)s? (cpu )?offload|offload_param|weights", words, re.IGNORECASE) else "optimizer"


def _kernels(text: Mapping[str, str]) -> Kernels:
    words = f"{text.get('system', '')} {text.get('kernels', '')} {text.get('parallelism', '')}"
    words = re.sub(r"no (torch\.?)?compile( stated)?", "", words, flags=re.IGNORECASE)
    return "fused" if FUSED.search(words) else "partly" if PARTLY.search(words) else "eager"


def _again(text: Mapping[str, str]) -> Again | None:
    """What is computed again: by the row's word, or by its hardware over model FLOPs; None: not told."""
    word = text.get("act_ckpt", "").lower()
    if re.match(r"(no|none|off|false|0|disabled)\b", word):
        return NOTHING
    if re.search(r"\bops?\b|per.op", word):
        return AGAIN["selective op"]
    if "except_mlp" in word:  # three of a gated layer's seven products, the wide ones
        return Again(0.67, 1, 0.3)
    if re.search(r"minimal|save_dot|save.*(dot|matmul|product)", word):
        return AGAIN["selective"]
    try:
        model, hardware = float(text.get("mfu_reported_pct", "")), float(text.get("hfu_reported_pct", ""))
        share = min(1.0, max(0.0, 3 * (hardware / model - 1)))
        return Again(share, share, 1 - share)
    except (ValueError, ZeroDivisionError):
        pass
    if re.match(r"(full|on|true|yes|1|enabled)\b", word):
        return WHOLE
    if re.search(r"block|layer|every|other|partial", word):
        return AGAIN["every_other"]
    if word.startswith("sel"):
        return AGAIN["selective"]
    return None


def _least_again(job: Job, there: Cluster, word: str, notes: list[str]) -> Job:
    """The least that fits, where a row does not say what is computed again."""
    for name in ("none", "selective", "full"):
        job = dataclasses.replace(job, again=AGAIN[name])
        if peak(job, there) < USABLE * there.gpu.gib * GIB:
            break
    notes.append(f"act_ckpt {word or 'not given'}: {name} taken, the least that fits")
    return job


def _network(words: str, gpu: Gpu, gpus: int, notes: list[str]) -> float:
    """Bytes/s of a node."""
    if found := re.search(r"(\d+)\s*x\s*(\d+)\s*G(?:b/s|bps|bit)", words, re.IGNORECASE):
        return int(found[1]) * int(found[2]) * GBIT
    if found := re.search(r"([\d.]+)\s*([GT])(b/s|bps|bit|B/s)(?:\s*(?:per|/|a)\s*GPU)?", words, re.IGNORECASE):
        each = 8 if re.search(r"(per|/|a)\s*GPU", found[0], re.IGNORECASE) else 1
        return (
            float(found[1].strip(".") or 0) * (1000 if found[2].upper() == "T" else 1) * each * GBIT * (8 if found[3] == "B/s" else 1)
            or gpu.network
        )
    if re.search(r"\bA3\b", words) and "ltra" not in words:
        return (1600 if "ega" in words else 800) * GBIT  # Google's: four NICs of 200 Gb/s; A3 Mega has eight
    if gpus > 8:
        notes.append(f"interconnect: no rate given, {gpu.network / GBIT:g} Gb/s a node taken")
    return gpu.network


def _way(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return max(1, int(found[1])) if found else 1


def _number(text: Mapping[str, str], column: str, default: float, least: float, notes: list[str]) -> float:
    value = text.get(column, "")
    if UNTOLD.match(value):
        if column in ("n_gpu", "seq_len"):
            notes.append(f"{column}: not given, {default:g} taken")
        return default
    found = re.match(r"[~≈<>= ]*(\d[\d,_]*(?:\.\d+)?(?:e[+-]?\d+)?)\s*([kKM]?)", value)
    if not found:
        raise RowError(f"{column}={value}: not a number")
    number = float(re.sub("[,_]", "", found[1])) * {"k": 1024, "K": 1024, "M": 1 << 20, "": 1}[found[2]]
    if number < least or number != number or number == float("inf"):
        raise RowError(f"{column}={value}: at least {least:g}")
    return number
