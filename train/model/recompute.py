"""Layers told which activations to keep for the backward pass and which to compute again."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from train.model.activations import Kept

# by name, since the kernels' packages need not be there
DEAR = frozenset({
    "aten::mm", "aten::addmm", "aten::bmm", "aten::linear", "astrollama::product", "astrollama::by_document", "astrollama::flash4", "torch_attn::_varlen_attn",
    "flash_attn::_flash_attn_varlen_forward", "flash_attn::_flash_attn_varlen_forward_v3",
})  # fmt: skip


def keep_dear_ones(_: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """Matrix products and attention are kept, whatever else there is is computed again."""
    return CheckpointPolicy.MUST_SAVE if op._schema.name in DEAR else CheckpointPolicy.PREFER_RECOMPUTE


whole_layer = partial(checkpoint, use_reentrant=False)
all_but_the_dear = partial(checkpoint, use_reentrant=False, context_fn=partial(create_selective_checkpoint_contexts, keep_dear_ones))


def set_checkpointing(layers: list[nn.Module], kept: Kept) -> None:
    """Of transformers' layers, which call `_gradient_checkpointing_func` where `gradient_checkpointing` is set."""
    for index, layer in enumerate(layers):
        selective = index < kept.products
        keeps_all = index % 2 == 1 if 0 < kept.all < len(layers) else kept.all > 0
        layer.gradient_checkpointing = selective or not keeps_all
        layer._gradient_checkpointing_func = all_but_the_dear if selective else whole_layer


def inside(layer: nn.Module) -> Any:
    """The layer's forward with a selective checkpoint inside of it, for a graph to see; the one around the layer is taken off."""
    forward = layer.forward
    if not layer.gradient_checkpointing or layer._gradient_checkpointing_func is not all_but_the_dear:
        return forward
    layer.gradient_checkpointing = False

    def checkpointed(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return all_but_the_dear(forward, hidden_states, *args, **kwargs)

    return checkpointed
