"""Matrix products on a CPU: oneDNN's where MKL, torch's own choice for fp32, leaves the processor's widest units unused.

MKL takes AVX-512 on Intel's processors alone; on others it computes with AVX2, at less than half the rate of those that have AVX-512.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn


@cache
def chosen(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether products of fp32 matrices go to oneDNN here: by the processor's make alone, so that each start on it computes the same."""
    try:
        text = cpuinfo.read_text()
    except OSError:
        return False
    vendor = re.search(r"^vendor_id\s*:\s*(\w+)", text, re.MULTILINE)
    wide = re.search(r"^flags\s*:.*\bavx512f\b", text, re.MULTILINE)
    return bool(vendor and vendor[1] != "GenuineIntel" and wide and torch.backends.mkldnn.is_available() and _op() is not None)


@torch.library.custom_op("astrollama::product", mutates_args=())
def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a (m, k) times b (n, k) transposed, by oneDNN: (m, n). One operation for a compiler, which has rules of its own for torch's."""
    return _op()(a, b, None, "none", [], "")


@product.register_fake
def _(a, b):
    return a.new_empty(a.shape[0], b.shape[0])


def times_transposed(a: torch.Tensor, b: torch.Tensor, onednn: bool) -> torch.Tensor:
    """a (m, k) times b (n, k) transposed: (m, n). Both may be views with their dimensions exchanged; gradients are the caller's."""
    return product(a, b) if onednn else a @ b.t()


def linear(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """As torch's own, by oneDNN, forward and backward."""
    out = _Product.apply(hidden, weight)
    return out if bias is None else out + bias


class Linear(nn.Linear):
    """A linear layer whose three products are oneDNN's."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return linear(hidden, self.weight, self.bias)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(hidden, weight)
        flat = hidden.reshape(-1, hidden.shape[-1])
        return times_transposed(flat, weight, onednn=True).view(*hidden.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        hidden, weight = ctx.saved_tensors
        grad, flat = grad.reshape(-1, grad.shape[-1]), hidden.reshape(-1, hidden.shape[-1])
        of_hidden, of_weight = ctx.needs_input_grad
        return (
            times_transposed(grad, weight.t(), onednn=True).view_as(hidden) if of_hidden else None,
            times_transposed(grad.t(), flat.t(), onednn=True) if of_weight else None,
        )


def apply(hf: nn.Module) -> str:
    """Give a model's plain linear layers these products; returns what was done, in words."""
    for module in hf.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear
    return "matrix products: oneDNN (MKL would leave AVX-512 unused on this processor)"


def _op() -> Any:
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)
