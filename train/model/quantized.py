"""A frozen base in four or eight bits: each linear layer of the decoder keeps its weight as packed bytes and computes with what they stand for.

`attach`, on the meta device, gives every frozen linear layer of the decoder a flat `weight` of packed bytes under the compute dtype, so that
ZeRO-3 cuts, gathers and releases it like any other; engine/packed.py fills it from the files. Forward and backward unpack it when they need it:
nothing but the bytes is kept. (The formats: model_files/quantized.py.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from train.model import products
from train.model_files.quantized import ELEMENTS, PIECE, Format

Own = Callable[[torch.Tensor], torch.Tensor]


class Packed(nn.Linear):
    """A linear layer whose `weight` is packed: (bytes / bytes of an element,) of the compute dtype."""

    own: Own | None = None  # gives the weight that was packed, in the dtype and on the device of its argument, while a run compares the two

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(self, x)


def linear(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """W x + bias, of a layer whose weight is packed or not."""
    if layer.weight.dim() == 2:
        how = products.linear if getattr(layer, "onednn", False) else nn.functional.linear
        return how(x, layer.weight, layer.bias)
    if layer.own is not None:
        return nn.functional.linear(x, layer.own(x), layer.bias)
    product = _Product.apply(x, layer.weight, layer.packed_format, layer.packed_shape)
    return product if layer.bias is None else product + layer.bias


def attach(layers: Sequence[nn.Module], format: Format) -> int:
    """Pack what is frozen and can be cut into whole blocks; returns how many weights are left as they are."""
    left = 0
    for block in layers:
        for name, module in list(block.named_modules()):
            if not isinstance(module, nn.Linear) or module.weight.requires_grad:
                continue
            if module.weight.numel() % ELEMENTS:
                left += 1
                continue
            dtype, shape = module.weight.dtype, tuple(module.weight.shape)
            if type(module) in (nn.Linear, products.Linear):
                with torch.device("meta"):
                    packed = Packed(module.in_features, module.out_features, bias=False, dtype=dtype)
                packed.bias = module.bias
                parent, _, own = name.rpartition(".")
                setattr(block.get_submodule(parent), own, packed)
                module = packed
            elements = format.packed_bytes(shape[0] * shape[1]) // dtype.itemsize
            module.weight = nn.Parameter(torch.empty(elements, dtype=dtype, device="meta"), requires_grad=False)
            module.packed_shape, module.packed_format = shape, format
    return left


def mark(model: nn.Module) -> None:
    """Let each packed parameter say, as `packed_shape` and `packed_format`, what it is; sharding has put new ones into the modules."""
    for module in model.modules():
        if shape := getattr(module, "packed_shape", None):
            module.weight.packed_shape, module.weight.packed_format = shape, module.packed_format


def shape_of(parameter: nn.Parameter) -> tuple[int, ...]:
    """Of the tensor that a sharded parameter stands for."""
    return getattr(parameter, "packed_shape", None) or tuple(parameter.ds_shape)


def numel_of(parameter: nn.Parameter) -> int:
    return torch.Size(shape_of(parameter)).numel()


@functools.cache
def _table(format: Format, device: torch.device) -> torch.Tensor:
    """(256, values) fp32: those of a byte; 2 or 1."""
    values = torch.tensor(format.values, dtype=torch.float32, device=device)
    byte = torch.arange(256, device=device)
    if format.code_bits == 4:
        return torch.stack([values[byte >> 4], values[byte & 15]], dim=1)
    return values[byte.clamp(max=len(values) - 1)][:, None]


def unpack(weight: torch.Tensor, format: Format, shape: tuple[int, int]) -> torch.Tensor:
    """(rows, columns) in the dtype that the packed (elements,) weight lies in."""
    blocks = weight.detach().view(torch.uint8).view(-1, format.bytes)
    made = torch.empty(len(blocks), ELEMENTS, dtype=weight.dtype, device=weight.device)
    for at in range(0, len(blocks), PIECE):
        piece = blocks[at : at + PIECE]
        most = piece[:, format.code_bytes :].contiguous().view(torch.float32)
        values = _table(format, weight.device)[piece[:, : format.code_bytes].long()].view(len(piece), ELEMENTS)
        made[at : at + PIECE] = torch.mul(values, most, out=values)
    return made.view(shape)


class _Product(torch.autograd.Function):
    """x W^T with a packed W, which has no gradient; the backward unpacks it once more."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, format: Format, shape: tuple[int, int]) -> torch.Tensor:
        ctx.weight, ctx.format, ctx.shape = weight, format, shape  # the parameter itself: ZeRO-3 gathers it again before the backward
        return nn.functional.linear(x, unpack(weight, format, shape))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None]:
        return grad @ unpack(ctx.weight, ctx.format, ctx.shape) if ctx.needs_input_grad[0] else None, None, None, None
