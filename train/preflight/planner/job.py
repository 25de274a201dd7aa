"""What a step does, as far as its time and memory depend on it: of this trainer's recipes, and of others' runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from train.engine.deepspeed_json import merged_config
from train.model.activations import kept, product_elements
from train.model_files.dtypes import OF_RECIPE
from train.model_files.quantized import saved_bytes
from train.preflight.memory_items import Shape
from train.recipe.vocabulary import Recipe

# weights over all GPUs; whole in every node (HSDP); over all, with a copy in every node (hpZ); ZeRO-2; ZeRO-1, over all or in each node;
# plain data parallel
Sharding = Literal["zero3", "in node", "hpz", "gradients", "optimizer", "optimizer in node", "whole"]
Kernels = Literal["eager", "partly", "fused"]


@dataclass(frozen=True)
class Again:
    """What the backward pass computes again: shares of the layers' matrix products and attention, and of their elementwise work.

    kept: bytes of activations that stay, as a share of a whole layer's.
    """

    products: float
    elementwise: float
    kept: float


NOTHING, WHOLE = Again(0, 0, 1), Again(1, 1, 0)
# `selective` keeps what matrix products and attention make (a block's norms, rotations and activations are computed again);
# `selective op` is torchtitan's and keeps every second product
AGAIN = {
    "none": NOTHING, "every_other": Again(0.5, 0.5, 0.5), "full": WHOLE, "selective": Again(0, 1, 0.6), "selective op": Again(0.5, 1, 0.45),
}  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """Of a model, in elements. width: heads x head width; tied: the head is the embedding; gated: three matrices in the MLP, not two."""

    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    mlp: int
    kv_width: int
    width: int
    tied: bool = False
    gated: bool = True
    alibi: bool = False  # MPT's: attention by an older kernel

    @classmethod
    def of(cls, shape: Shape, width: int, tied: bool) -> Sizes:
        return cls(shape.parameters, shape.layers, shape.hidden, shape.vocabulary, shape.mlp, shape.kv_width, width, tied)

    @property
    def head(self) -> int:
        return self.vocabulary * self.hidden

    @property
    def computed(self) -> int:
        """Elements that multiply something: all but the input embedding."""
        return self.parameters - (0 if self.tied else self.head)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One GPU's part of a step.

    Args:
        micro_batch: rows; of all tensor-parallel ranks together. attended: tokens a token's attention is counted over (None: seq_len).
        gradient_bytes: an element as it is reduced. adapter: the base is frozen, a LoRA is trained, of `trained` elements. split: GPUs that share one row
            (context or Ulysses parallel). stages: of a pipeline; virtual: its stages a GPU.
        weight_bytes: of a weight (a quantised base has fewer). summed_bytes: a gradient as it is kept; optimizer_bytes: masters and moments. chunked_loss: logits never stand for all tokens. keeps_small: small models
        stay gathered from forward to backward (engine/gathering.py). gathers: of a layer and micro-step; DeepSpeed without leaf modules has one a matrix.
        copies: of a block's elementwise work, against that of transformers' Llama. by_parts: each rank's part of weights and gradients is sent by itself (ZeRO-1 of InternEvo and Colossal-AI). sums_last: gradients between
        nodes are summed after the backward pass (XLA). early: libraries of 2023, whose products on Hopper were not yet today's.
    """

    sizes: Sizes
    seq_len: int
    micro_batch: float
    micro_steps: int = 1
    again: Again = NOTHING
    sharding: Sharding = "zero3"
    gradient_bytes: int = 4
    kernels: Kernels = "fused"
    fp8: bool = False
    adapter: bool = False
    trained: int | None = None
    offload: Literal["none", "optimizer", "all"] = "none"
    tensor: int = 1
    split: int = 1
    stages: int = 1
    virtual: int = 1
    attended: float | None = None
    weight_bytes: float = 2
    summed_bytes: float = 4
    optimizer_bytes: float = 12
    chunked_loss: bool = True
    keeps_small: bool = False
    gathers: float = 2
    copies: float = 1.0
    by_parts: bool = False
    sums_last: bool = False
    early: bool = False

    @property
    def tokens(self) -> float:
        """Of a micro-step, per GPU."""
        return self.micro_batch * self.seq_len / self.tensor / self.split / self.stages

    def flops_per_token(self, attended: float | None = None) -> float:
        """6 (N - input embedding) + 12 L d T, 4 of a frozen element: the convention tables are compared in (train/model/flops.py)."""
        return (4 if self.adapter else 6) * self.sizes.computed + 12 * self.sizes.layers * self.sizes.width * (
            self.seq_len if attended is None else attended
        )


def of_recipe(recipe: Recipe, sizes: Sizes, ranks: int, on_cuda: bool = True, attended: float | None = None) -> Job:
    """A recipe's step on so many ranks."""
    config: dict[str, Any] = merged_config(recipe, ranks, on_cuda)
    zero = config["zero_optimization"]
    away = [part for part in ("offload_optimizer", "offload_param") if zero.get(part, {}).get("device") == "cpu"]
    m = recipe.model
    saved = saved_bytes(m.quantize, 2) * (sizes.computed - sizes.head) / sizes.parameters
    reduced = 2 if config.get("communication_data_type", "fp32") in ("bf16", "fp16") else 4
    return Job(
        sizes=sizes, seq_len=recipe.data.seq_len, micro_batch=recipe.micro_batch, micro_steps=config["gradient_accumulation_steps"],
        again=_again(recipe, sizes), keeps_small=True, sharding="hpz" if zero.get("zero_hpz_partition_size", 1) > 1 else "zero3", gradient_bytes=reduced,
        kernels="fused" if on_cuda and (m.compile or m.fused_kernels == "auto") else "eager", offload=("none", "optimizer", "all")[len(away)], weight_bytes=2 - saved, attended=attended, adapter=recipe.adapter is not None,
    )  # fmt: skip


def _again(recipe: Recipe, sizes: Sizes) -> Again:
    m = recipe.model
    a_layer = (
        recipe.micro_batch * recipe.data.seq_len * OF_RECIPE[m.dtype].itemsize * product_elements(sizes.hidden, sizes.mlp, sizes.kv_width)
    )
    keep = kept(m.activation_checkpointing, sizes.layers, m.activation_budget and m.activation_budget * 2**30, a_layer)
    return Again(keep.input / sizes.layers, (keep.input + keep.products) / sizes.layers, keep.all / sizes.layers)
