"""What every derived number of a run is, before a GPU is rented: no process group, no weights, no engine."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_tools.shards.fingerprint import tokenizer_fingerprints
from data_tools.shards.format import ShardError
from data_tools.shards.reader import Shards
from train.data.mixture import SourceSpec, tokens_available
from train.data.plans import Plans
from train.engine.deepspeed_json import adam_kernel, meant_for_cuda, merged_config
from train.engine.gathering import sized
from train.model.adapter_spec import spec_of
from train.model_files.dtypes import OF_RECIPE
from train.model_files.shapes import described, of_llama, read_config, require_plain_head
from train.preflight import memory_plan
from train.preflight.epochs import data_settings, passes
from train.preflight.memory_items import Plan, Shape, activations_kept, held_elements, plan
from train.preflight.planner.clusters import cluster, gpu_named
from train.preflight.planner.forecast import Setting, attended, forecast, of_some_length
from train.preflight.planner.models import PUBLISHED, ModelUnknown, of_recipe
from train.preflight.unready import beyond_positions, nearest, unready
from train.preflight.wire import Wire, bytes_a_step, cheaper
from train.recipe.vocabulary import Adapter, Recipe
from train.world.machine import FreeBytes

GPUS_OF_A_NODE = 8  # where nothing says otherwise


def shape_of_path(model: str, adapter: Adapter | None = None) -> Shape | None:
    """Sizes of a model path: from its config, or as published; None when neither is here.

    Raises:
        AdapterError: the adapter that is to be trained on it does not fit.
    """
    config_file = Path(model) / "config.json"
    if config_file.is_file():
        found = described(config_file, own_code="ignored")  # the rehearsal refuses it, with all else that is wrong
        require_plain_head(found.config, config_file)
    elif Path(model).name in PUBLISHED:
        found = of_llama(PUBLISHED[Path(model).name])
    else:
        return None
    return Shape.of(found, spec_of(adapter, found, adapter.path) if adapter else None)


def _require_supported(recipe: Recipe) -> None:
    """Raises ModelError for a model that is here and would not be computed exactly; a plain Llama needs no look, and no transformers."""
    folder = Path(recipe.model.path)
    if (folder / "config.json").is_file():
        config = read_config(folder / "config.json")
        if (
            config.get("model_type") != "llama"
            or config.get("rope_scaling")
            or config.get("rope_parameters", {}).get("rope_type", "default") != "default"
        ):
            from train.model.causal_lm import config_of
            from train.model.support import require_supported

            require_supported(config_of(folder), recipe.data.seq_len, f"model.path={recipe.model.path}")


@dataclass(frozen=True)
class Explained:
    """text: the derived numbers, then what is not here yet; faults: what is here and would end the run, each with its remedy."""

    text: str
    faults: list[str]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a dry run is asked about the machines of a run.

    Args:
        device: what the run is for; None: as its DeepSpeed JSON is meant. gpu_bytes: memory of a GPU there, to compare the plan with.
        elsewhere: the run will start on another machine than this.
    """

    ranks: int
    device: Literal["cuda", "cpu"] | None = None
    gpu_bytes: float | None = None
    elsewhere: bool = False


def explain(recipe: Recipe, asked: Asked) -> Explained:
    """A run as far as it can be known without starting it.

    Raises:
        RecipeError, MixtureError, ShardError: what is here is wrong.
    """
    written, ranks, device = recipe, asked.ranks, asked.device
    recipe = of_some_length(recipe)
    on_cuda = meant_for_cuda(recipe) if device is None else device == "cuda"
    config = merged_config(recipe, ranks, on_cuda)
    accumulation = config["gradient_accumulation_steps"]
    padding_rows = accumulation * ranks * recipe.micro_batch - recipe.rows_per_step
    shape = shape_of_path(recipe.model.path, recipe.adapter)
    _require_supported(recipe)
    memory = plan(recipe, shape, ranks, min(ranks, GPUS_OF_A_NODE), config["zero_optimization"], on_cuda) if shape else None
    here = Path(recipe.model.path).exists()  # what is wrong with it is a fault, and told below
    missing = [] if shape or here else [f"model.path={recipe.model.path}: not here, and its size is not known"]
    if shape and not here:
        missing.append(f"model.path={recipe.model.path}: not downloaded; sizes above are of the published model")
    facts = _data(recipe, missing)
    if written.epochs is not None:
        missing.append(f"epochs={written.epochs:g}: its steps are known when the shards of all data.sources are here")
    rows: list[tuple[str, str]] = [
        ("run", f"{recipe.name} → {recipe.run_dir}"),
        (
            "ranks",
            f"{ranks} {'GPUs' if on_cuda else 'CPU processes'}"
            + ("" if device else f", as {recipe.deepspeed} is meant; else give --device"),
        ),
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
        *_length(recipe, written),
        ("learning rate", f"{recipe.schedule.kind} from {recipe.optim.lr:g} to {_final_lr(recipe):g}"),
        (
            "optimizer",
            f"AdamW ({adam_kernel(recipe, config['zero_optimization'], on_cuda)}), betas {recipe.optim.betas}, eps {recipe.optim.eps:g}, decay {recipe.optim.weight_decay:g}, clip {recipe.optim.clip:g}",
        ),
        (
            "engine",
            f"ZeRO-3 by {recipe.deepspeed}, {recipe.model.dtype}{f', base in {recipe.model.quantize}' * (recipe.model.quantize != 'none')}, a layer gathered at a time{' and compiled' * recipe.model.compile}, "
            f"gradients sent in {recipe.optim.reduce_dtype}",
        ),
        *(_work(recipe, shape) if shape else []),
        *(_between_nodes(recipe, shape, ranks, config, accumulation) if shape and on_cuda and ranks > GPUS_OF_A_NODE else []),
        *facts,
        *(_sizes(recipe, shape, memory) if shape else []),
        *(_speed(recipe, ranks) if shape and on_cuda else []),
    ]
    width = max(len(name) for name, _ in rows)
    text = [f"{name:<{width}}  {value}" for name, value in rows]
    text += memory_plan.lines(memory, shape) if shape else []
    if warning := beyond_positions(Path(recipe.model.path), recipe.data.seq_len):
        text.append(f"warning: {warning}")
    faults = [*unready(recipe, memory, asked.elsewhere), *_too_large(recipe, shape, memory, asked.gpu_bytes, on_cuda)]
    text += ["not here yet:"] + [f"  - {m}" for m in missing] if missing else ["all inputs are here"] if not faults else []
    return Explained("\n".join(text), faults)


def _work(recipe: Recipe, shape: Shape) -> list[tuple[str, str]]:
    keep = activations_kept(recipe, shape)
    more = keep.more_work(shape.layer, shape.parameters - shape.vocabulary * shape.hidden)
    return [("activations", f"{recipe.model.activation_checkpointing}: {keep.words()}" + (f"; {more:.0%} more work" if more else ""))]


def _between_nodes(recipe: Recipe, shape: Shape, ranks: int, config: dict[str, Any], accumulation: int) -> list[tuple[str, str]]:
    """What crosses between nodes, and what would make it less."""
    held = held_elements(recipe, shape)
    zero = sized(config["zero_optimization"], int(held.layer), int(held.model)) | {"stage3_param_persistence_threshold": 0}
    element = OF_RECIPE[recipe.model.dtype].itemsize
    sent = {"fp32": 4, "bf16": 2}

    def of(zero: dict[str, Any], gradient: int) -> Wire:
        made = bytes_a_step([round(held.model)], zero, ranks, -(-ranks // GPUS_OF_A_NODE), accumulation, element, gradient)
        return made.of_trained(shape.trained / held.model)

    now, gradient = of(zero, gradient=sent[recipe.optim.reduce_dtype]), sent[recipe.optim.reduce_dtype]
    possible = (
        zero.get("zero_hpz_partition_size", 1) == 1 and zero.get("offload_param", {}).get("device") != "cpu" and not ranks % GPUS_OF_A_NODE
    ) and recipe.model.quantize == "none"
    hpz = of(zero | {"zero_hpz_partition_size": GPUS_OF_A_NODE}, gradient=gradient) if possible else None
    low = of(zero, gradient=2) if gradient > 2 else None
    first, *more = cheaper(now, hpz, low, element * shape.parameters / GPUS_OF_A_NODE)
    return [("between nodes", first), *(("", line) for line in more)]


def _length(recipe: Recipe, written: Recipe) -> list[tuple[str, str]]:
    if written.epochs is not None:
        return [("steps", f"not known yet: {passes(written)}")]
    steps, warmup = recipe.total_steps, recipe.warmup_steps
    return [
        ("steps", f"{steps:,}"),
        ("tokens", f"{steps * recipe.tokens_per_step:,}"),
        ("warm-up", f"{warmup:g} steps = {round(warmup * recipe.tokens_per_step):,} tokens"),
    ]


def _too_large(recipe: Recipe, shape: Shape | None, memory: Plan | None, gpu_bytes: float | None, on_cuda: bool) -> Iterator[str]:
    """Whether the plan fits GPUs of that memory; nothing is known of their nodes' main memory and disks."""
    if memory and gpu_bytes is not None and on_cuda:
        there = FreeBytes(host=math.inf, device=gpu_bytes, disk=math.inf)
        if short := memory_plan.short_of(memory, there):
            yield memory_plan.refusal(recipe, shape, memory, there, on_cuda, short)


def _speed(recipe: Recipe, ranks: int) -> list[tuple[str, str]]:
    """What the planner says of the usual GPUs, whose kind is not known here."""
    try:
        model = of_recipe(recipe)
    except ModelUnknown:
        return []
    here = Setting(attended=attended(recipe))
    plans = {name: forecast(recipe, model, cluster(gpu_named(name), ranks), here) for name in ("A100", "H100")}
    rates = [f"{made.rate:,.0f} on {name}{'' if made.fits else ' (too small for it)'}" for name, made in plans.items()]
    return [("speed", f"about {' or '.join(rates)}, tokens/s a GPU; python launch/plan.py tells the time, the cost and faster settings")]


def _final_lr(recipe: Recipe) -> float:
    from train.recipe.schedule import learning_rate

    return learning_rate(recipe, recipe.total_steps)


def _data(recipe: Recipe, missing: list[str]) -> list[tuple[str, str]]:
    """Facts of the shards that are here; missing ones are noted."""
    rows, opened, specs = [], [], []
    named = [(f"data.sources.{n}", s.path, SourceSpec(n, s.weight, s.max_repeats)) for n, s in recipe.data.sources.items()]
    named += [(f"heldout.sources.{n}", s.path, None) for n, s in recipe.heldout.sources.items()]
    tokenizer = _tokenizer(recipe)
    absent: list[tuple[str, SourceSpec | None]] = []
    for place, path, spec in named:
        if not path.exists():
            absent.append((f"{place}.path={path}: make it with python -m data_tools.prepare", spec))
            continue
        shards = Shards.open(path, verify="size")
        if tokenizer:
            shards.require_tokenizer(tokenizer, f"{place}.path={path}")
        rows.append(
            (place.split(".", 2)[0] + " " + place.split(".", 2)[2], f"{len(shards):,} documents, {int(shards.lengths.sum()):,} tokens")
        )
        if spec:
            opened.append(shards)
            specs.append(spec)
    wanted = recipe.total_steps * recipe.tokens_per_step
    totals = [int(shards.lengths.sum()) for shards in opened]
    wanting = [spec for _, spec in absent if spec]
    if not wanting:
        _require_tokens(recipe, opened, wanted)
    missing += [f"{what}{_must_give(spec, totals, specs, wanted) if len(wanting) == 1 and spec else ''}" for what, spec in absent]
    weighted = sum(s.weight or 0 for s in (*specs, *wanting))
    if weighted or not wanting:
        for spec, total in zip(specs, totals, strict=True):
            share = spec.weight / weighted if weighted else total / sum(totals)
            rows.append((f"passes over {spec.name}", f"{wanted * share / total:.2f}"))
    return rows


def _must_give(absent: SourceSpec, totals: list[int], specs: list[SourceSpec], wanted: int) -> str:
    """What the one source that is not here must hold, so that all of them together last for the run."""
    here = tokens_available(totals, specs) if specs else 0
    if here is None or here >= wanted:
        return ""
    tokens = math.ceil((wanted - here) / absent.max_repeats) if absent.max_repeats else 0
    least = (
        f"at least {tokens:,} tokens in a pass of it, {absent.max_repeats:g} of which are allowed"
        if tokens
        else "the rest, in passes over it"
    )
    return f"; the others give at most {here:,} of the run's {wanted:,} tokens, so it must give {least}"


def _require_tokens(recipe: Recipe, shards: list[Shards], tokens: int) -> None:
    plans = Plans(shards, data_settings(recipe))
    try:
        plans.require_tokens(tokens)
    finally:
        plans.close()


def _tokenizer(recipe: Recipe) -> tuple[str, ...] | None:
    try:
        return tokenizer_fingerprints(Path(recipe.model.path))
    except ShardError:
        return None


def _sizes(recipe: Recipe, shape: Shape, memory: Plan) -> list[tuple[str, str]]:
    nbytes, one, kept = 4 if shape.frozen else OF_RECIPE[recipe.model.dtype].itemsize, memory.checkpoint_bytes, memory.checkpoints
    free = shutil.disk_usage(nearest(recipe.runs)).free
    device, host = memory.state("device"), memory.state("host")
    places = [f"{device / 2**30:.2f} GiB a GPU"] * bool(device) + [f"{host / 2**30:.2f} GiB of host memory a rank"] * bool(host)
    return [
        ("parameters", f"{shape.parameters:,}" + (f", frozen but for {shape.trained:,} of the adapter" if shape.frozen else "")),
        ("model states", f"{', '.join(places)}, before activations"),
        (
            "checkpoint",
            f"{one / 1e9:.2f} GB each ({nbytes} bytes a {'trained ' if shape.frozen else ''}parameter of weights"
            + (", 12 of trainer state)" if recipe.checkpoint.trainer_state else ")"),
        ),
        (
            "disk",
            f"up to {kept} checkpoints at once: {kept * one / 1e9:.2f} GB; {free / 1e9:.0f} GB free here"
            + (" — NOT ENOUGH" if kept * one > free else ""),
        ),
    ]
