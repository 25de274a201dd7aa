"""What every derived number of a run is, before a GPU is rented: no process group, no weights, no engine."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from data_tools.shards import ShardError, Shards, tokenizer_fingerprint
from train import mixture
from train.checkpoint import predicted_bytes
from train.config import Recipe, find_file
from train.engine import adam_kernel, merged_config
from train.mixture import SourceSpec

# so that a recipe can be checked before its model has been downloaded
PUBLISHED_PARAMETERS = {
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-2-13b-hf": 13_015_864_320,
    "meta-llama/Llama-2-70b-hf": 68_976_648_192,
}


def count_parameters(model: str) -> int | None:
    """Parameters of a model path: from its config, or the published count; None when neither is here."""
    folder = Path(model)
    if not (folder / "config.json").is_file():
        return PUBLISHED_PARAMETERS.get(model)
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    from train.model import config_of

    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config_of(folder))
    model.tie_weights()  # a tied head counts once
    return sum(p.numel() for p in model.parameters())


def explain(recipe: Recipe, ranks: int) -> str:
    """The table of derived numbers, then what is not here yet.

    Raises:
        RecipeError, MixtureError, ShardError: what is here is wrong.
    """
    config = merged_config(recipe, ranks, on_cuda=recipe.deepspeed.name != "cpu.json")
    accumulation = config["gradient_accumulation_steps"]
    padding_rows = accumulation * ranks * recipe.micro_batch - recipe.rows_per_step
    steps, warmup = recipe.total_steps, recipe.warmup_steps
    parameters = count_parameters(recipe.model.path)
    missing = [] if parameters else [f"model.path={recipe.model.path}: not here, and its size is not known"]
    if parameters and not Path(recipe.model.path).exists():
        missing.append(f"model.path={recipe.model.path}: not downloaded; sizes below are of the published model")
    facts, warnings = _data(recipe, missing)
    rows: list[tuple[str, str]] = [
        ("run", f"{recipe.name} → {recipe.run_dir}"),
        ("ranks", f"{ranks}"),
        ("global batch", f"{recipe.tokens_per_step:,} tokens = {recipe.rows_per_step} rows of {recipe.data.seq_len}"),
        ("micro-batch", f"{recipe.micro_batch} rows a rank"),
        (
            "accumulation",
            f"{accumulation} micro-batches a step"
            + (
                f", {padding_rows} rows of padding a step: choose ranks and micro_batch that divide {recipe.rows_per_step}"
                if padding_rows
                else ""
            ),
        ),
        ("steps", f"{steps:,}"),
        ("tokens", f"{steps * recipe.tokens_per_step:,}"),
        ("warm-up", f"{warmup:g} steps = {round(warmup * recipe.tokens_per_step):,} tokens"),
        ("learning rate", f"{recipe.schedule.kind} from {recipe.optim.lr:g} to {_final_lr(recipe):g}"),
        (
            "optimizer",
            f"AdamW ({adam_kernel(recipe, config['zero_optimization'], recipe.deepspeed.name != 'cpu.json')}), betas {recipe.optim.betas}, eps {recipe.optim.eps:g}, decay {recipe.optim.weight_decay:g}, clip {recipe.optim.clip:g}",
        ),
        ("engine", f"ZeRO-3 by {recipe.deepspeed}, {recipe.model.dtype}"),
        *facts,
        *_sizes(recipe, parameters, ranks, config["zero_optimization"]),
    ]
    width = max(len(name) for name, _ in rows)
    text = [f"{name:<{width}}  {value}" for name, value in rows]
    text += [f"warning: {w}" for w in warnings]
    text += ["not here yet:"] + [f"  - {m}" for m in missing] if missing else ["all inputs are here"]
    return "\n".join(text)


def _final_lr(recipe: Recipe) -> float:
    from train.loop import learning_rate

    return learning_rate(recipe, recipe.total_steps)


def _data(recipe: Recipe, missing: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Facts of the shards that are here; missing ones are noted."""
    rows, warnings, totals, specs = [], [], [], []
    named = [(f"data.sources.{n}", s.path, SourceSpec(n, s.weight, s.max_repeats)) for n, s in recipe.data.sources.items()]
    named += [(f"heldout.sources.{n}", s.path, None) for n, s in recipe.heldout.sources.items()]
    tokenizer = _tokenizer(recipe)
    for place, path, spec in named:
        if not path.exists():
            missing.append(f"{place}.path={path}: make it with python -m data_tools.prepare")
            continue
        shards = Shards.open(path, verify="size")
        if tokenizer:
            shards.require_tokenizer(tokenizer, f"{place}.path={path}")
        rows.append(
            (place.split(".", 2)[0] + " " + place.split(".", 2)[2], f"{len(shards):,} documents, {int(shards.lengths.sum()):,} tokens")
        )
        if spec:
            totals.append(int(shards.lengths.sum()))
            specs.append(spec)
    wanted = recipe.total_steps * recipe.tokens_per_step
    if len(specs) == len(recipe.data.sources):
        mixture.require_tokens(totals, specs, wanted)
        weights = [s.weight or t for s, t in zip(specs, totals, strict=True)]
        for spec, total, weight in zip(specs, totals, weights, strict=True):
            rows.append((f"passes over {spec.name}", f"{wanted * weight / sum(weights) / total:.2f}"))
    return rows, warnings


def _tokenizer(recipe: Recipe) -> str | None:
    try:
        return tokenizer_fingerprint(Path(recipe.model.path))
    except ShardError:
        return None


def _sizes(recipe: Recipe, parameters: int | None, ranks: int, zero: dict) -> list[tuple[str, str]]:
    if not parameters:
        return []
    c, nbytes = recipe.checkpoint, 2 if recipe.model.dtype == "bf16" else 4
    one = predicted_bytes(parameters, nbytes, c.trainer_state)
    saves = math.ceil(recipe.total_steps / c.every_steps) if c.every_steps else 1
    forever = recipe.total_steps // c.keep_every if c.keep_every else 0
    kept = min(saves, c.keep_last + c.keep_best + forever) + 1  # and the one being written
    there = find_file(recipe.runs) if recipe.runs.exists() else Path(".")
    free = shutil.disk_usage(there).free
    device, host = _states(parameters, nbytes, ranks, zero)
    return [
        ("parameters", f"{parameters:,}"),
        (
            "model states",
            f"{device / 2**30:.2f} GiB a GPU"
            + (f", {host / 2**30:.2f} GiB of host memory a rank" if host else "")
            + ", before activations",
        ),
        (
            "checkpoint",
            f"{one / 1e9:.2f} GB each ({nbytes} bytes a parameter of weights" + (", 12 of trainer state)" if c.trainer_state else ")"),
        ),
        (
            "disk",
            f"up to {kept} checkpoints at once: {kept * one / 1e9:.2f} GB; {free / 1e9:.0f} GB free here"
            + (" — NOT ENOUGH" if kept * one > free else ""),
        ),
    ]


def _states(parameters: int, weight_bytes: int, ranks: int, zero: dict) -> tuple[float, float]:
    """Bytes a rank keeps on its device and in host memory: parameters, fp32 gradients (4), master and moments (12).

    DeepSpeed's own estimate (estimate_zero3_model_states_mem_needs) counts the same 18 bytes a bf16 parameter.
    """
    device, host = weight_bytes + 4 + 12, 0
    if zero.get("offload_optimizer", {}).get("device") == "cpu":
        device, host = weight_bytes, 4 + 12
    if zero.get("offload_param", {}).get("device") == "cpu":
        device, host = device - weight_bytes, host + weight_bytes
    hpz = zero.get("zero_hpz_partition_size", 1)
    second = weight_bytes * parameters / hpz if hpz > 1 else 0
    return device * parameters / ranks + second, host * parameters / ranks
