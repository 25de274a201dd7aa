"""A low-rank adapter in plain torch, independent of ours: over transformers' own model, from tensors by peft's names."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from tests.made import tiny

PREFIX = "base_model.model."


def named_products(model: nn.Module, tensors: dict[str, torch.Tensor], scale: Callable[[str], float]) -> None:
    """Let every linear layer that has an A and a B add scale * B(A x) to what it computes."""
    for name, module in model.named_modules():
        a, b = (tensors.get(f"{name}.lora_{part}.weight") for part in "AB")
        if a is not None:
            module.register_forward_hook(functools.partial(_add, a, b, scale(name)))


def _add(a: torch.Tensor, b: torch.Tensor, scale: float, module: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
    return output + scale * nn.functional.linear(nn.functional.linear(inputs[0], a), b)


def read_plainly(folder: Path, base: Path) -> nn.Module:
    """transformers' model of a base with an adapter's folder, read by safetensors and json alone."""
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = {k.removeprefix(PREFIX): v.float() for k, v in load_file(folder / "adapter_model.safetensors").items()}
    r, alpha = config["r"], config["lora_alpha"]
    named_products(model, tensors, lambda name: alpha / math.sqrt(r) if config["use_rslora"] else alpha / r)
    own = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, value in tensors.items():
            if ".lora_" not in name:
                own[name].copy_(value)
    return model


def logits(model: nn.Module, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def write(
    folder: Path, base: nn.Module, *, rank: int = 4, alpha: float = 6, seed: int = 5, changes: dict | None = None, layers: tuple = ()
) -> dict:
    """A peft folder with random A and B at every linear layer of the decoder (or at `layers`), written by hand; returns its tensors."""
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, module in base.named_modules():
        if isinstance(module, nn.Linear) and ".layers." in name and (not layers or name.endswith(layers)):
            tensors[f"{PREFIX}{name}.lora_A.weight"] = torch.randn(rank, module.in_features, generator=generator) * 0.1
            tensors[f"{PREFIX}{name}.lora_B.weight"] = torch.randn(module.out_features, rank, generator=generator) * 0.1
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "somewhere/else", "r": rank, "lora_alpha": alpha,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], "lora_dropout": 0.05, "bias": "none",
        "use_rslora": False, "use_dora": False, "fan_in_fan_out": False, "modules_to_save": None, "inference_mode": True,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config | (changes or {})))
    return tensors


def tiny_base(folder: Path, **changes) -> nn.Module:
    tiny.save_tiny(folder, **changes)
    return tiny.tiny_model(**changes)
