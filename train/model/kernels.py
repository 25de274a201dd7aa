"""Liger's fused kernels on CUDA: RMSNorm, RoPE and SwiGLU in the layers, linear cross-entropy in the head.

Optional (`pip install 'astrollama-trainer[cuda]'`) and imported only here, only when asked for.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import nn

from train.data.packing import IGNORED


def available() -> bool:
    return importlib.util.find_spec("liger_kernel") is not None


def apply(hf: nn.Module, compiled: bool = False, selective: bool = False) -> str:
    """Patch the layers of a model in place; returns what was done, in words.

    Args:
        compiled: torch's compiler fuses the layers itself, and these kernels would cut its graphs.
        selective: what matrix products gave is kept for the backward pass; liger's RoPE turns queries and keys in place, and would turn
            what was kept a second time.
    """
    if not available():
        return "fused kernels: none (liger-kernel not found: pip install 'astrollama-trainer[cuda]', about 20% faster)"
    if compiled:
        return "fused kernels: liger (linear cross-entropy; the layers are compiled)"
    from liger_kernel.transformers import _apply_liger_kernel_to_instance

    rope = not selective
    _apply_liger_kernel_to_instance(hf, rope=rope, rms_norm=True, swiglu=True, cross_entropy=False, fused_linear_cross_entropy=False)
    return f"fused kernels: liger (RMSNorm, {'RoPE, ' * rope}SwiGLU, linear cross-entropy)"


def fused_loss(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, source: torch.Tensor, sources: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Liger's fused linear cross-entropy: (sum of token losses, per-source sums (sources,), detached)."""
    return _FusedLoss.apply(hidden, weight, labels, source, sources)


class _FusedLoss(torch.autograd.Function):
    """Liger's kernel over all tokens at once: asked for no reduction it gives each token's loss, and the gradients of their sum."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, source: torch.Tensor, sources: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        from liger_kernel.ops.fused_linear_cross_entropy import fused_linear_cross_entropy_forward

        losses, *_, of_hidden, of_weight, _ = fused_linear_cross_entropy_forward(
            hidden, weight, labels, ignore_index=IGNORED, reduction="none", accum_dtype=torch.float32
        )
        ctx.save_for_backward(of_hidden, of_weight)
        # index 0 takes the padding (source -1)
        per_source = losses.new_zeros(sources + 1).index_add_(0, source.long() + 1, losses)[1:]
        ctx.mark_non_differentiable(per_source)
        return losses.sum(), per_source

    @staticmethod
    def backward(ctx: Any, grad_total: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        from liger_kernel.ops.fused_linear_cross_entropy import fused_linear_cross_entropy_backward

        of_hidden, of_weight, _ = fused_linear_cross_entropy_backward(grad_total, *ctx.saved_tensors, None)
        return of_hidden, of_weight, None, None, None
