"""Rows of published figures, in the words their sources use → jobs on clusters.

Columns: id, system, model, n_gpu, gpu, interconnect, seq_len, micro_batch_seqs, global_batch_seqs, parallelism, act_ckpt, precision, kernels,
tok_s_gpu, mfu_reported_pct, hfu_reported_pct, peak_mem_gib, source; nodes, where they are not of eight GPUs. What a row leaves out is taken as
usual, and said.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.preflight.planner.clusters import GBIT, GIB, NO_BF16, Cluster, ClusterError, Gpu, gpu_named
from train.preflight.planner.footprint import peak
from train.preflight.planner.job import AGAIN, NOTHING, WHOLE, Again, Job, Kernels, Sharding
from train.preflight.planner.models import ModelUnknown, sizes_of

FILLED = 8  # micro-batches a stage, of a pipeline whose batch is not told
MOST_TOKENS = 1 << 26  # of a micro-batch
FP8 = re.compile(r"fp8|float8|e4m3", re.IGNORECASE)
USUAL_TOKENS = 8192  # of a micro-batch, where a row does not say
MOST_GPUS = 1 << 20
USABLE = 0.9  # of a GPU's memory: the rest is libraries' and what falls between blocks
# what runs Llama-like models with norms, rotations or activations of its own in one kernel each
PARTLY = re.compile(r"internevo|internlm|colossal|paddle", re.IGNORECASE)
FUSED = re.compile(
    r"torch\.?compile|\bcompile|liger|fused|\bTE\b|transformer.engine|cudnn|splash|unsloth|\bxla\b|\bjax\b|megatron|nemo|maxtext|foundry|composer|arctic|alst|deepcompile|tinyllama|litgpt|lit-gpt|levanter",
    re.IGNORECASE,
)
IN_BF16 = re.compile(r"fms|internevo|internlm|colossal", re.IGNORECASE)  # whose gradients are summed as they come from the backward pass
BY_PARTS = re.compile(r"internevo|internlm|colossal", re.IGNORECASE)  # InternEvo's hybrid_zero_optim.py: one broadcast a rank
# maxtext's scripts for several nodes join sums up to 1 GiB, and a scan over layers has all its gradients at its end
XLA = re.compile(r"\bxla\b|\bjax\b|maxtext|levanter", re.IGNORECASE)
# fms's Llama turns queries and keys by 2 x 2 matrices in fp32 (fms/modules/positions.py, March 2024): 18 reads and writes of each where
# transformers' has 10, of a block's 67 forward
MATRICES = (67 + 16) / 67
# of before the second half of 2024, by the row's date or by what published at that time
EARLY = re.compile(r"foundry|composer|fms-fsdp|\bA3\b(?! (ultra|mega))|\b202[0-3]\b|\b2024-0[1-6]\b", re.IGNORECASE)
UNTOLD = re.compile(
    r"^\s*(n\.?/?[sr]\.?|not (stated|reported|given|known)|none stated|unknown|unspecified|-+|–|—|n\.?/?a\.?|\?+|nan|none|null|auto|tuned|various|varies|tbd)?\s*$",
    re.IGNORECASE,
)
# ways a model is shared, as they are written: TP8, tp=8, tensor_parallel_size: 8, 8-way tensor parallel
WAYS = {"tensor": r"tp|tensor", "stages": r"pp|pipeline", "split": r"cp|sp|context|ulysses|sequence", "virtual": r"vp(?:p)?|virtual"}
# names of networks, gigabits a second of a port
PORTS = {"xdr": 800, "ndr": 400, "hdr": 200, "edr": 100}
NO_FP8 = (
    "A100",
    "A100-40",
    "A100 PCIe",
    "A100-40 PCIe",
    "A800",
    "A30",
    "A6000",
    "A5000",
    "A10G",
    "RTX 3090",
    "MI250X",
    "MI210",
    "V100",
    "T4",
)


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
    _require_precision(
        text.get("precision", ""), "lora" in " ".join((words, text.get("model", ""), text.get("kernels", ""))).lower(), gpu, notes
    )

    def number(column: str, default: float, least: float = 1) -> float:
        return _number(text, column, default, least, notes)

    gpus, seq_len = _gpus(text, notes), int(number("seq_len", 4096))
    if gpus > MOST_GPUS or seq_len > 1 << 27:
        raise RowError(f"n_gpu={gpus}, seq_len={seq_len}: out of range")
    ways = {name: _way(names, words) for name, names in WAYS.items()}
    apart = ways["tensor"] * ways["stages"] * ways["split"]
    if apart > gpus or gpus % apart:
        raise RowError(f"parallelism {text.get('parallelism')}: {apart} GPUs share a model, n_gpu is {gpus}")
    micro, micro_steps = _batches(text, number, gpus / apart, seq_len, notes)
    if ways["stages"] > 1 and micro_steps == 1 and UNTOLD.match(text.get("global_batch_seqs", "")):
        micro_steps = FILLED * ways["stages"]
        notes.append(f"global_batch_seqs: not given, {micro_steps} micro-batches through a pipeline taken")
    if micro * seq_len > MOST_TOKENS * apart:
        raise RowError(f"micro_batch_seqs={micro:g}, seq_len={seq_len}: out of range")
    again = _again(text)
    job = Job(
        sizes=sizes, seq_len=seq_len, micro_batch=micro, micro_steps=micro_steps, again=again or NOTHING,
        sharding=_sharding(text.get("parallelism", ""), words, notes if gpus > 1 else []), kernels=_kernels(text), offload=_offload(words), **ways, **_habits(text, words, notes),
    )  # fmt: skip
    there = Cluster(gpu, gpus, _a_node(text, gpus), _network(text.get("interconnect", ""), gpu, gpus, notes))
    if again is None:
        job = _least_again(job, there, text.get("act_ckpt", ""), notes)
    return Read(job, there, tuple(notes))


def _habits(text: Mapping[str, str], words: str, notes: list[str]) -> dict[str, Any]:
    """What a system does by itself: element sizes, gathers, losses by chunks; adapters."""
    kernel_words = f"{text.get('kernels', '')} {text.get('precision', '')}"
    everything = " ".join((kernel_words, words, text.get("model", "")))
    by_matrix = bool(
        re.search(r"deepspeed|zero-?3", f"{text.get('system', '')} {text.get('parallelism', '')}", re.IGNORECASE)
    )  # as it is by default
    pure = bool(re.search(r"pure bf16|bf16 pure", words))  # no masters; llm-foundry's MP PURE has them
    quantised = bool(re.search(r"qlora|nf4|\bint4|4-?bit(?! adam)|gptq", everything, re.IGNORECASE))
    if re.search(r"nvme|ssd|infinity", words, re.IGNORECASE):
        notes.append("states on disks are not counted")
    return dict(
        summed_bytes=0 if "in-backward" in kernel_words else 2 if pure else 6 if "fp32 grad acc" in words else 4,
        optimizer_bytes=2 if re.search(r"8-?bit", kernel_words) else 4 if pure else 12, weight_bytes=0.57 if quantised else 1.07 if re.search(r"\bint8\b", everything) else 2,
        chunked_loss=bool(re.search(r"liger|/CE\b|chunked|fused (linear )?(CE|cross)|tiled", kernel_words + words, re.IGNORECASE)),
        gathers=10 if by_matrix else 2, fp8=bool(FP8.search(text.get("precision", ""))), adapter=quantised or bool(re.search(r"lora", everything, re.IGNORECASE)),
        gradient_bytes=2 if by_matrix or re.search(r"PURE|pure bf16|bf16 pure", words) or IN_BF16.search(text.get("system", "")) else 4,
        by_parts=bool(BY_PARTS.search(words)), sums_last=bool(XLA.search(kernel_words + words)),
        copies=MATRICES if re.search(r"\bfms\b", words) and _kernels(text) == "eager" else 1.0,
        early=bool(EARLY.search(" ".join(text.get(k, "") for k in ("system", "interconnect", "source", "notes")))),
    )  # fmt: skip


def _require_precision(words: str, on_adapter: bool, gpu: Gpu, notes: list[str]) -> None:
    """Raises RowError: products that are not counted here."""
    if re.search(r"(nv|mx)?fp4\b|\bint8\b|fp64", words, re.IGNORECASE) and not on_adapter:  # whose base may lie in any
        raise RowError(f"precision={words}: products in bf16, fp16 and fp8 are known")
    if re.search(r"tf32|fp32|float32|single", words, re.IGNORECASE) and not re.search(
        r"bf16|bfloat|fp16|half|mixed|amp|fp8|master", words, re.IGNORECASE
    ):
        raise RowError(f"precision={words}: products in bf16, fp16 and fp8 are known")
    if FP8.search(words) and gpu.name in NO_FP8:
        raise RowError(f"precision={words}: {gpu.name} has no fp8")
    if re.search(r"bf16|bfloat", words, re.IGNORECASE) and gpu.name in NO_BF16:
        notes.append(f"precision={words}: {gpu.name} has no bf16, its fp16 taken")


def _gpus(text: Mapping[str, str], notes: list[str]) -> int:
    """`16`, `2x8`, `2 nodes x 8`, or before the GPU's name: `8x H100`."""
    said = text.get("n_gpu", "")
    if found := re.match(r"^\s*(\d+)\s*(?:nodes?)?\s*[x×*]\s*(\d+)\b", said):
        return int(found[1]) * int(found[2])
    if UNTOLD.match(said) and (found := re.match(r"^\s*(\d+)\s*[x×*]\s*[a-z]", text.get("gpu", ""), re.IGNORECASE)):
        return int(found[1])
    return int(_number(text, "n_gpu", 8, 1, notes))


def _a_node(text: Mapping[str, str], gpus: int) -> int:
    """GPUs of a node: eight, but where a row names its nodes."""
    where = f"{text.get('n_gpu', '')} {text.get('interconnect', '')}"
    found = re.match(r"\s*(\d+)", text.get("nodes", "")) or re.search(r"\b(\d+)\s*nodes?\b", where, re.IGNORECASE)
    nodes = int(found[1]) if found else 0
    return gpus // nodes if nodes and gpus % nodes == 0 and gpus // nodes <= 72 else min(8, gpus)


def _batches(text: Mapping[str, str], number, replicas: float, seq_len: int, notes: list[str]) -> tuple[float, int]:
    """Rows of a micro-batch, micro-steps of a step."""
    micro, per_step = (
        number(column, 0, 0) / (seq_len if re.search(r"\d\s*[kKM]?\s*tok", text.get(column, ""), re.IGNORECASE) else 1)
        for column in ("micro_batch_seqs", "global_batch_seqs")
    )
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


def _sharding(words: str, all_words: str, notes: list[str]) -> Sharding:
    if re.search(r"HSDP|hybrid.?shard|in.node x DP|MiCS|replicate", words, re.IGNORECASE):
        return "in node"
    if re.search(r"hpz|zero\+\+", words, re.IGNORECASE):
        return "hpz"
    if re.search(r"ZeRO-?2\b|stage[- _]?2\b|SHARD_GRAD_OP", words, re.IGNORECASE):
        return "gradients"
    if re.search(r"ZeRO-?0\b|stage[- _]?0\b|\bDDP\b|plain data", words, re.IGNORECASE):
        return "whole"
    if re.search(r"ZeRO-?1\b|stage[- _]?1\b|dist\. optimizer|distributed optimizer", words, re.IGNORECASE):
        return "optimizer in node" if re.search(r"over 8\b|in node", words) else "optimizer"
    if re.search(r"FSDP|ZeRO|shard|Gemini|single|offload|stage[- _]?3\b|1 ?GPU", words, re.IGNORECASE):
        return "zero3"
    if _way(WAYS["stages"], words) > 1 or re.search(r"megatron|nemo|nanotron", all_words, re.IGNORECASE):
        return "optimizer"  # pipelines keep their weights whole
    notes.append("parallelism: not given, ZeRO-3 taken" if UNTOLD.match(words) else f"parallelism {words!r}: not known, ZeRO-3 taken")
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
    if re.match(r"(no|none|off|false|0|disabled|without)\b|w/o|never", word):
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
    if re.match(r"(full|on|true|yes|y|1|enabled|all|whole)\b", word):
        return WHOLE
    if re.search(r"block|layer|every|other|partial|half", word):
        return AGAIN["every_other"]
    if word.startswith("sel"):
        return AGAIN["selective"]
    return WHOLE if re.search(r"checkpoint|recomput|remat", word) else None


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
    if found := re.search(r"(\d+)\s*[x×]\s*(\d+)\s*G(?:b/s|bps|bit|b?e\b|\b)", words, re.IGNORECASE):
        return int(found[1]) * int(found[2]) * GBIT or gpu.network
    if found := re.search(r"(?:(\d+)\s*[x×]\s*)?\b([xnhe]dr)(\d{3})?\b", words, re.IGNORECASE):
        if found[1]:
            return int(found[1]) * PORTS[found[2].lower()] * GBIT or gpu.network
    if found := re.search(r"(\d+)\s*Gb?E\b", words, re.IGNORECASE):
        return int(found[1]) * GBIT or gpu.network
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


def rate(row: Mapping[str, str]) -> float:
    """Tokens/s of a GPU as a row says it; 0.0 where it says none."""
    try:
        return _number({"tok_s_gpu": str(row.get("tok_s_gpu") or "").strip()}, "tok_s_gpu", 0.0, 0.0, [], thousand=1000)
    except RowError:
        return 0.0


def _way(names: str, text: str) -> int:
    """GPUs that share a model one way: the number after its name, or before `-way`."""
    after = rf"(?<![a-z])(?:{names})(?:[-_ ]?parallel(?:ism|_size)?)?(?:[-_ ]?(?:size|degree))?[-\s=:(]*(\d+)(?!\s?-?way)"
    before = rf"(\d+)-?\s?way[- ](?:{names})(?![a-z]*\d)"
    found = re.search(before, text, re.IGNORECASE) or re.search(after, text, re.IGNORECASE)
    return max(1, int(found[1])) if found else 1


def _number(text: Mapping[str, str], column: str, default: float, least: float, notes: list[str], thousand: int = 1024) -> float:
    value = text.get(column, "")
    if UNTOLD.match(value):
        if column in ("n_gpu", "seq_len"):
            notes.append(f"{column}: not given, {default:g} taken")
        return default
    found = re.match(r"[~≈<>= ]*(\d[\d,_]*(?:\.\d+)?(?:e[+-]?\d+)?)\s*([kKM]?)(.*)", value, re.DOTALL)
    if not found or re.match(r"\s*[\^*x×/]", found[3]):
        raise RowError(f"{column}={value}: not a number")
    number = float(re.sub("[,_]", "", found[1])) * {"k": thousand, "K": thousand, "M": thousand**2, "": 1}[found[2]]
    if number < least or number != number or number == float("inf"):
        raise RowError(f"{column}={value}: at least {least:g}")
    if found[3].strip(" )") and not re.match(r"\s*(gpus?|tok|rows?|seq|samples?|\()", found[3], re.IGNORECASE):
        notes.append(f"{column}={value}: {number:g} taken")
    return number
