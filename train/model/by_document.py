"""SDPA document by document as one operation of torch's, with a backward of its own.

As one operation it can stand in a compiled graph, which no length of a document then changes, and be kept whole where
activations are recomputed. On a CPU it keeps the kernel's logsumexp, as autograd would; elsewhere, where it is the last resort, the
backward computes the document again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F


@torch.library.custom_op("astrollama::by_document", mutates_args=())
def by_document(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: torch.Tensor, scale: float, window: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Causal attention inside each document.

    Args:
        q, k, v: (tokens, heads, head_dim), equally many heads. window: how many tokens a token sees, itself one; 0: all before it.
    Returns:
        (tokens, heads, head_dim), and the logsumexp of the scores (tokens, heads) fp32, which is empty but on a CPU.
    """
    out = q.new_empty(q.shape)
    keeps = _keeps(q)
    lse = q.new_empty((q.shape[0], q.shape[1]) if keeps else (0, q.shape[1]), dtype=torch.float32)
    for start, stop in _spans(cu_seqlens):
        one, mask = _one((q, k, v), start, stop), _band(q, stop - start, window)
        if keeps:
            o, l = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*one, 0.0, mask is None, attn_mask=mask, scale=scale)
            lse[start:stop] = l.squeeze(0).transpose(0, 1)
        else:
            o = F.scaled_dot_product_attention(*one, attn_mask=mask, is_causal=mask is None, scale=scale)
        out[start:stop] = o.squeeze(0).transpose(0, 1)
    return out, lse


@by_document.register_fake
def _(q, k, v, cu_seqlens, scale, window):
    return q.new_empty(q.shape), q.new_empty((q.shape[0] if _keeps(q) else 0, q.shape[1]), dtype=torch.float32)


@torch.library.custom_op("astrollama::by_document_backward", mutates_args=())
def by_document_backward(
    grad: torch.Tensor, kept: list[torch.Tensor], cu_seqlens: torch.Tensor, scale: float, window: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of q, k and v; kept: these, and what `by_document` gave."""
    q, k, v, out, lse = kept
    grads = [x.new_empty(x.shape) for x in (q, k, v)]
    for start, stop in _spans(cu_seqlens):
        mask = _band(q, stop - start, window)
        if _keeps(q):
            g, *qkv, o = _one((grad, q, k, v, out), start, stop)
            l = lse[start:stop].transpose(0, 1).unsqueeze(0)
            of_one = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                g, *qkv, o, l, 0.0, mask is None, attn_mask=mask, scale=scale
            )
        else:
            with _recorded():
                qkv = [x.detach().requires_grad_() for x in _one((q, k, v), start, stop)]
                o = F.scaled_dot_product_attention(*qkv, attn_mask=mask, is_causal=mask is None, scale=scale)
                of_one = torch.autograd.grad(o, qkv, *_one((grad,), start, stop))
        for whole, part in zip(grads, of_one, strict=True):
            whole[start:stop] = part.squeeze(0).transpose(0, 1)
    return tuple(grads)


@by_document_backward.register_fake
def _(grad, kept, cu_seqlens, scale, window):
    return tuple(x.new_empty(x.shape) for x in kept[:3])


def _keep(ctx, inputs, output) -> None:
    q, k, v, cu_seqlens, ctx.scale, ctx.window = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(q, k, v, *output, cu_seqlens)


def _gradients(ctx, grad, _):
    *kept, cu_seqlens = ctx.saved_tensors
    return *by_document_backward(grad, kept, cu_seqlens, ctx.scale, ctx.window), None, None, None


by_document.register_autograd(_gradients, setup_context=_keep)


def _keeps(q: torch.Tensor) -> bool:
    """Whether the logsumexp is kept: by the CPU's kernel."""
    return q.device.type == "cpu"


@contextlib.contextmanager
def _recorded() -> Iterator[None]:
    """Within: what is computed can be differentiated. torch takes autograd away from what an operation of its library does inside."""
    with torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.AutogradFunctionality, False), torch.enable_grad():
        yield


def _spans(cu_seqlens: torch.Tensor) -> Iterator[tuple[int, int]]:
    edges = cu_seqlens.tolist()
    return ((start, stop) for start, stop in zip(edges, edges[1:], strict=False) if start < stop)


def _one(tensors: tuple[torch.Tensor, ...], start: int, stop: int) -> list[torch.Tensor]:
    """One document of each: (1, heads, length, head_dim)."""
    return [x[start:stop].transpose(0, 1).unsqueeze(0) for x in tensors]


def _band(q: torch.Tensor, length: int, window: int) -> torch.Tensor | None:
    """0 where a token sees another and -inf where not, (length, length); None: causal without a window."""
    if not 0 < window < length:
        return None
    seen = torch.ones(length, length, dtype=torch.bool, device=q.device).tril().triu(1 - window)
    return torch.zeros(length, length, dtype=q.dtype, device=q.device).masked_fill_(~seen, float("-inf"))
