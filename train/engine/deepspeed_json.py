"""Recipe + ds_configs/*.json → one DeepSpeed config; what the recipe owns may not stand in the JSON."""

from __future__ import annotations

import json
import math
from typing import Any

from train.model_files.dtypes import BF16, OF_RECIPE
from train.recipe.load import ROOT, find_file
from train.recipe.vocabulary import Recipe, RecipeError

CONFIGS = "ds_configs/*.json"
# key of a DeepSpeed JSON -> what the recipe calls it
OWNED = {
    "train_batch_size": "tokens_per_step",
    "train_micro_batch_size_per_gpu": "micro_batch",
    "gradient_accumulation_steps": "tokens_per_step (accumulation is derived)",
    "gradient_clipping": "optim.clip",
    "optimizer": "optim",
    "scheduler": "schedule",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
    "activation_checkpointing": "model.activation_checkpointing",
    "communication_data_type": "optim.reduce_dtype",
    "compile": "model.compile",
    "tensorboard": "logging.tensorboard",
    "steps_per_print": "logging.every_steps",
}
# keys that DeepSpeed had and has no more, or keeps in another place -> what serves instead here
GONE = {
    "amp": "set model.dtype=bf16 in the recipe",
    "compression_training": "nothing does; compress the exported model",
    "curriculum_learning": "give the recipe's data.sources weights",
    "eigenvalue": "nothing does",
    "elasticity": "nothing is needed: a checkpoint resumes on any number of ranks, and accumulation is derived from tokens_per_step",
    "graph_harvesting": "set model.compile=true in the recipe",
    "nebula": "set checkpoint.background=true in the recipe",
    "progressive_layer_drop": "nothing does",
    "quantize_training": "nothing does; quantize the exported model",
    "sparse_attention": "nothing is needed: attention never leaves a document (model.attention)",
    "sparse_gradients": "nothing is needed: the embedding's gradient is cut among the ranks",
    "zero_optimization.mics_shard_size": "set zero_hpz_partition_size to the GPUs of a node",
    "zero_optimization.mics_hierarchical_params_gather": "set zero_hpz_partition_size to the GPUs of a node",
    "zero_optimization.zeropp_loco_param": "set optim.reduce_dtype=bf16 in the recipe",
    "zero_optimization.cpu_offload": 'write "offload_optimizer": {"device": "cpu"}',
    "zero_optimization.cpu_offload_param": 'write "offload_param": {"device": "cpu"}',
    "zero_optimization.cpu_offload_use_pin_memory": 'write "pin_memory": true in offload_optimizer or offload_param',
    "zero_optimization.stage3_gather_fp16_weights_on_model_save": "nothing is needed: a checkpoint is a model folder",
}


def merged_config(recipe: Recipe, world_size: int, on_cuda: bool) -> dict[str, Any]:
    """The whole DeepSpeed config of a run.

    Raises:
        RecipeError: the JSON is missing, broken, not ZeRO-3, or sets what the recipe owns.
    """
    config = read(recipe)
    faults = [
        f"{key}={json.dumps(config[key])}: the recipe owns this; take it out and set {OWNED[key]} there" for key in OWNED if key in config
    ]
    zero = config.get("zero_optimization", {})
    there = set(config) | {f"zero_optimization.{key}" for key in zero}
    faults += [f"{key}: DeepSpeed has it no more; take it out and {instead}" for key, instead in GONE.items() if key in there]
    if config.get("managed_gradient_accumulation") is False:
        faults.append("managed_gradient_accumulation=false: the trainer says itself where a step ends; take it out")
    if zero.get("stage") != 3:
        faults.append(f"zero_optimization.stage={zero.get('stage')}: checkpoints and loading here are ZeRO-3's; set it to 3")
    for part in ("offload_optimizer", "offload_param"):
        if zero.get(part, {}).get("device") == "nvme":
            faults.append(f"zero_optimization.{part}.device=nvme: not supported; use cpu")
    if zero.get("zero_quantized_nontrainable_weights"):
        faults.append(
            "zero_optimization.zero_quantized_nontrainable_weights=true: DeepSpeed fills its int8 slices from whole tensors by a CUDA kernel of its own, "
            "so that a model's files can neither be read into them in parts nor be verified there; take it out and set model.quantize=int8 in the recipe"
        )
    if recipe.model.quantize != "none":
        unfit = [part for part in ("offload_param", "offload_optimizer") if zero.get(part, {}).get("device") == "cpu"]
        unfit += ["zero_hpz_partition_size"] * (zero.get("zero_hpz_partition_size", 1) > 1)
        faults += [
            f"zero_optimization.{part}: does not go with model.quantize={recipe.model.quantize}; take ds_configs/zero3.json"
            for part in unfit
        ]
    hpz = zero.get("zero_hpz_partition_size", 1)
    if hpz > 1 and world_size % hpz:
        faults.append(
            f"zero_optimization.zero_hpz_partition_size={hpz}: does not divide the {world_size} ranks; set it to the GPUs of a node"
        )
    if hpz > 1 and zero.get("offload_param", {}).get("device") == "cpu":
        faults.append(
            f"zero_optimization.zero_hpz_partition_size={hpz} with offload_param: DeepSpeed then computes with weights that are not there (losses of 0 "
            "or NaN); take one of them out"
        )
    if faults:
        raise RecipeError(f"deepspeed={recipe.deepspeed}", faults)
    if not on_cuda:
        for part in ("offload_optimizer", "offload_param"):
            zero.get(part, {}).pop("pin_memory", None)  # pinned memory is a CUDA notion
    rows_at_once = recipe.micro_batch * world_size
    accumulation = math.ceil(recipe.rows_per_step / rows_at_once)
    return config | {
        "train_micro_batch_size_per_gpu": recipe.micro_batch,
        "gradient_accumulation_steps": accumulation,
        "train_batch_size": recipe.micro_batch * world_size * accumulation,
        "gradient_clipping": recipe.optim.clip,
        "optimizer": _optimizer(recipe, zero, on_cuda),
        "bf16": {"enabled": OF_RECIPE[recipe.model.dtype] is BF16},
        "data_types": {"grad_accum_dtype": "fp32"},
        # one rank sends nothing, and need not make fp32 of what it would send: its gradients are the same bits
        "communication_data_type": recipe.optim.reduce_dtype if world_size > 1 else recipe.model.dtype,
        "steps_per_print": 1 << 31,
        "wall_clock_breakdown": False,
    }


def read(recipe: Recipe) -> dict[str, Any]:
    """The recipe's DeepSpeed JSON as it stands. Raises RecipeError when it is missing or broken."""
    try:
        config = json.loads(find_file(recipe.deepspeed, CONFIGS).read_text(encoding="utf-8"))
        assert isinstance(config, dict)
    except OSError as error:
        known = ", ".join(sorted(f"ds_configs/{p.name}" for p in ROOT.glob(CONFIGS)))
        raise RecipeError(f"deepspeed={recipe.deepspeed}", [f"cannot be read ({error.strerror}); there are {known}"]) from None
    except (ValueError, AssertionError) as error:
        raise RecipeError(f"deepspeed={recipe.deepspeed}", [f"not a JSON object ({error}); mend it"]) from None
    return config


def meant_for_cuda(recipe: Recipe) -> bool:
    """Whether the recipe's JSON lets communication overlap with computing, which only a device with streams can."""
    return read(recipe).get("zero_optimization", {}).get("overlap_comm") is not False


def adam_kernel(recipe: Recipe, zero: dict[str, Any], on_cuda: bool) -> str:
    """Which Adam runs: torch, cpu (DeepSpeedCPUAdam) or fused (FusedAdam)."""
    if recipe.optim.kernel != "auto":
        return recipe.optim.kernel
    if zero.get("offload_optimizer", {}).get("device") == "cpu":
        return "cpu"
    return "torch"


def _optimizer(recipe: Recipe, zero: dict[str, Any], on_cuda: bool) -> dict[str, Any]:
    o, kernel = recipe.optim, adam_kernel(recipe, zero, on_cuda)
    offloaded = zero.get("offload_optimizer", {}).get("device") == "cpu"
    if kernel == "fused" and not on_cuda:
        raise RecipeError(f"optim.kernel={kernel}", ["FusedAdam needs CUDA; use auto, cpu or torch"])
    if kernel == "fused" and offloaded:
        raise RecipeError(f"optim.kernel={kernel}", [f"{recipe.deepspeed} keeps the optimizer on the CPU; use auto or cpu"])
    if kernel == "cpu" and on_cuda and not offloaded:
        raise RecipeError(
            f"optim.kernel={kernel}", [f"{recipe.deepspeed} keeps the optimizer on the GPU; use auto, fused, or an offloading config"]
        )
    params: dict[str, Any] = {"lr": o.lr, "betas": list(o.betas), "eps": o.eps, "weight_decay": o.weight_decay, "adam_w_mode": True}
    if kernel == "torch":
        params |= {"torch_adam": True, "fused": True}  # one pass over the masters instead of ten, and nothing to build first
    return {"type": "AdamW", "params": params}
