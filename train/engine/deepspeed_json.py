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
    "tensorboard": "logging.tensorboard",
    "steps_per_print": "logging.every_steps",
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
    if zero.get("stage") != 3:
        faults.append(f"zero_optimization.stage={zero.get('stage')}: checkpoints and loading here are ZeRO-3's; set it to 3")
    for part in ("offload_optimizer", "offload_param"):
        if zero.get(part, {}).get("device") == "nvme":
            faults.append(f"zero_optimization.{part}.device=nvme: not supported; use cpu")
    hpz = zero.get("zero_hpz_partition_size", 1)
    if hpz > 1 and world_size % hpz:
        faults.append(
            f"zero_optimization.zero_hpz_partition_size={hpz}: does not divide the {world_size} ranks; set it to the GPUs of a node"
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
        "communication_data_type": "fp32",
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
    return "fused" if on_cuda else "torch"


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
        params["torch_adam"] = True
    return {"type": "AdamW", "params": params}
