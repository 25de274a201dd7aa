"""Liger's fused kernels on CUDA: RMSNorm, RoPE and SwiGLU in the layers, linear cross-entropy in the head.

Optional (`pip install 'astrollama-trainer[cuda]'`) and imported only here, only when asked for.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

from train.data.packing import IGNORED

# whether a part of a layer is running that was asked to turn its queries and keys with liger's kernel
_turning = ContextVar("turning", default=False)


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
    _quiet()
    from liger_kernel.transformers import _apply_liger_kernel_to_instance

    rope = not selective
    with _this_model_alone(hf):
        _apply_liger_kernel_to_instance(hf, rope=rope, rms_norm=True, swiglu=True, cross_entropy=False, fused_linear_cross_entropy=False)
    if rope:
        turn_fused(hf.base_model.layers)
    return f"fused kernels: liger (RMSNorm, {'RoPE, ' * rope}SwiGLU, linear cross-entropy)"


def turn_fused(layers: Iterable[nn.Module]) -> None:
    """Have the parts of these layers choose liger's rotation: the parts, since a checkpointed layer computes them again from within itself."""
    for layer in layers:
        for part in layer.children():
            part.forward = _while_turning(part.forward)


def _quiet() -> None:
    """Liger looks for every maker's kernels when an operation is first used, and warns of each that is for another device."""
    logging.getLogger("liger_kernel.backends.registry").setLevel(logging.ERROR)


@contextlib.contextmanager
def _this_model_alone(hf: nn.Module) -> Iterator[None]:
    """Classes and functions that are replaced within, in the modules of transformers that define the model, are so for no other model.

    The classes of the model's own layers are patched one by one; its functions are called by name, so that there a chooser takes their place.
    """
    modules = [sys.modules[name] for name in sorted({type(m).__module__ for m in hf.modules()}) if name.startswith("transformers.models.")]
    before = [(module, dict(vars(module))) for module in modules]
    try:
        yield
    finally:
        for module, names in before:
            for name, own in names.items():
                given = getattr(module, name)
                if given is not own:
                    setattr(module, name, _chosen(own, given) if isinstance(own, types.FunctionType) else own)


def _chosen(own: Callable, fused: Callable) -> Callable:
    """The fused function in the layers that asked for it, on a CUDA device; transformers' own for all else."""
    own = getattr(own, "not_fused", own)  # a second model finds the chooser of the first

    @functools.wraps(own)
    def chosen(first: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or not _turning.get() or not first.is_cuda or type(first) not in (torch.Tensor, nn.Parameter):
            return own(first, *args, **kwargs)
        return fused(first, *args, **kwargs)

    chosen.not_fused = own
    return chosen


def _while_turning(forward: Callable) -> Callable:
    """The forward of a layer's part, within which liger's rotation is chosen."""
    if getattr(forward, "turning", False):
        return forward

    @functools.wraps(forward)
    def turning(*args: Any, **kwargs: Any) -> Any:
        before = _turning.set(True)
        try:
            return forward(*args, **kwargs)
        finally:
            _turning.reset(before)

    turning.turning = True
    return turning


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
        _quiet()
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
