"""Low-rank adapters in a model's linear layers, its base frozen: y = W x + scale * B (A x), W in the compute dtype, A and B trained.

adapter_spec.py says where they stand → `attach`, on the meta device: an `Adapted` layer keeps its base's own name and weight, so that files load as
they do without an adapter, and everything else stops wanting a gradient → `start_values`, the same at any number of ranks.

B begins as zero: before the first step the model is the base, bit by bit. (Hu et al., arXiv 2106.09685; rslora: arXiv 2312.03732.)
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from train.model import products, quantized
from train.model_files.adapter import A, B, Spec

if TYPE_CHECKING:
    from train.model.causal_lm import PackedCausalLM


class Adapted(nn.Linear):
    """A linear layer with an adapter: `weight` and `bias` are the frozen base's."""

    lora_A: nn.Linear  # (rank, in)
    lora_B: nn.Linear  # (out, rank)
    scale: float
    onednn: bool = False  # whether the products are oneDNN's: products.py
    own: quantized.Own | None = None  # of a packed base: model/quantized.py

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return quantized.linear(self, x) + self.lora_B(self.lora_A(x)) * self.scale


def attach(model: PackedCausalLM, spec: Spec) -> None:
    """Put the adapter into a model on the meta device; what is neither adapter nor trained beside it is frozen."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.removeprefix("hf.") in spec.whole)
    for name, rank in spec.ranks.items():
        parent, _, own = name.rpartition(".")
        base = model.hf.get_submodule(name)
        setattr(model.hf.get_submodule(parent), own, _adapted(base, rank, spec.scale(name)))


def _adapted(base: nn.Linear, rank: int, scale: float) -> Adapted:
    kind = products.Linear if type(base) is products.Linear else nn.Linear
    with torch.device("meta"):
        layer = Adapted(base.in_features, base.out_features, bias=False, dtype=base.weight.dtype)
        layer.lora_A = kind(base.in_features, rank, bias=False, dtype=base.weight.dtype)
        layer.lora_B = kind(rank, base.out_features, bias=False, dtype=base.weight.dtype)
    layer.onednn = kind is products.Linear
    layer.weight, layer.bias, layer.scale = base.weight, base.bias, scale
    return layer.train(base.training)


def trained(model: nn.Module) -> int:
    """Elements that want a gradient."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def is_adapter(name: str) -> bool:
    """Whether a parameter is an adapter's, by its name."""
    return name.endswith((A, B))


def start_value(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """(numel,) fp32, flat: B zero, A uniform within 1 / sqrt(in), as peft begins; of the seed and the name alone."""
    if name.endswith(B):
        return torch.zeros(math.prod(shape))
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    return torch.empty(math.prod(shape)).uniform_(-1, 1, generator=generator) / math.sqrt(shape[1])
