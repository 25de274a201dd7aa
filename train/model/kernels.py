"""Liger's fused kernels on CUDA: RMSNorm, RoPE and SwiGLU in the layers, linear cross-entropy in the head.

Optional (`pip install 'astrollama-trainer[cuda]'`) and imported only here, only when asked for.
"""

from __future__ import annotations

import importlib.util

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
    """Liger's fused linear cross-entropy: (sum of token losses, per-source sums, detached).

    With several sources each one's tokens go through the kernel by themselves: it returns one sum a call.
    """
    from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction as Fused

    def one(h: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        # arguments by position: bias, class weights, ignore_index, z-loss, smoothing, reduction, softcap, return_z_loss, accumulation dtype
        return Fused.apply(h, weight, y, None, None, IGNORED, 0.0, 0.0, "sum", None, False, torch.float32)[0]

    if sources == 1:
        total = one(hidden, labels)
        return total, total.detach().reshape(1)
    parts = [one(hidden[chosen], labels[chosen]) for chosen in ((source == s).nonzero().squeeze(1) for s in range(sources))]
    return torch.stack(parts).sum(), torch.stack([p.detach() for p in parts])
