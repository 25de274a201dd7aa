"""The output head and its cross-entropy, a chunk of tokens at a time, so that the whole logits never exist."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from train.data.packing import IGNORED
from train.model import kernels, products


class LossHead(nn.Linear):
    """The output projection and the cross-entropy in one module, so that ZeRO-3 gathers its weight once for both."""

    loss_chunk: int = 1024
    fused: bool = False
    onednn: bool = False  # whether the products are oneDNN's: products.py

    def forward(
        self, hidden: torch.Tensor, labels: torch.Tensor | None = None, source: torch.Tensor | None = None, sources: int = 1
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Logits, or with labels (loss, losses per source).

        Args:
            hidden: (tokens, width). labels: (tokens,), already shifted, IGNORED where there is no target.
            source: (tokens,) index into the sources, -1 on padding.
        Returns:
            the sum of token losses, fp32, and its parts: (sources,) fp32, detached.
        """
        if labels is None:
            return products.linear(hidden, self.weight) if self.onednn else nn.functional.linear(hidden, self.weight)
        if self.fused:
            return kernels.fused_loss(hidden, self.weight, labels, source, sources)
        return _ChunkedLoss.apply(hidden, self.weight, labels, source, sources, (self.loss_chunk, self.onednn))


class _ChunkedLoss(torch.autograd.Function):
    """Sum of cross-entropies, a chunk of tokens at a time; the gradients are made on the way forward.

    Only one chunk's logits (loss_chunk x vocabulary) exist at once. Making the gradient at once costs a buffer
    of the head's own size and saves computing the logits a second time.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, source: torch.Tensor, sources: int, how: tuple[int, bool]
    ):  # fmt: skip
        chunk, onednn = how
        wants_weight = weight.requires_grad  # a frozen base's head has no gradient of its own
        wants_grad = hidden.requires_grad or wants_weight
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        # index 0 takes the padding (source -1), so no boolean selection and no synchronisation is needed
        per_source = torch.zeros(sources + 1, dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.zeros_like(hidden) if wants_grad else None
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if wants_weight else None
        of_rows, rows = grad_hidden, None
        if hidden.device.type == "cpu" and not (kept := labels != IGNORED).all():
            rows = kept.nonzero().squeeze(1)  # where counting them makes nobody wait, tokens without a target are not computed
            hidden, labels, source = hidden[rows], labels[rows], source[rows]
            of_rows = torch.empty_like(hidden) if wants_grad else None
        for start in range(0, hidden.shape[0], chunk):
            part = slice(start, start + chunk)
            h = hidden[part]
            losses, grad = _losses_and_gradient(products.times_transposed(h, weight, onednn).float(), labels[part], wants_grad)
            total += losses.sum()
            per_source.index_add_(0, source[part].long() + 1, losses)
            if wants_grad:
                grad_low = grad.to(weight.dtype)
                of_rows[part] = products.times_transposed(grad_low, weight.t(), onednn)
                if not wants_weight:
                    continue
                if grad_low.dtype == torch.float32 and not onednn:
                    grad_weight.addmm_(grad_low.t(), h)
                else:
                    grad_weight += products.times_transposed(grad_low.t(), h.t(), onednn)
        if wants_grad and rows is not None:
            grad_hidden[rows] = of_rows
        ctx.save_for_backward(grad_hidden, grad_weight.to(weight.dtype) if wants_weight else None)
        per_source = per_source[1:]
        ctx.mark_non_differentiable(per_source)
        return total, per_source

    @staticmethod
    def backward(ctx: Any, grad_total: torch.Tensor, _: torch.Tensor):
        grad_hidden, grad_weight = ctx.saved_tensors
        of_weight = None if grad_weight is None else grad_weight * grad_total.to(grad_weight.dtype)
        return grad_hidden * grad_total.to(grad_hidden.dtype), of_weight, None, None, None, None


def _losses_and_gradient(logits: torch.Tensor, labels: torch.Tensor, wants_grad: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Cross-entropies (tokens,), 0 where there is no target, and their gradient (tokens, vocabulary), which takes the logits' memory."""
    kept = labels != IGNORED
    target = torch.where(kept, labels, 0)[:, None]
    of_target = logits.gather(1, target).squeeze(1)
    if not wants_grad:
        return torch.where(kept, torch.logsumexp(logits, dim=-1) - of_target, 0.0), None
    if logits.device.type == "cpu":  # one exponential an element, not two: logsumexp would make its own, and a copy
        largest = logits.amax(dim=-1, keepdim=True)
        grad = logits.sub_(largest).exp_()
        total = grad.sum(dim=-1, keepdim=True)
        log_z = (largest + total.log()).squeeze(1)
        grad *= kept[:, None] / total
        grad.scatter_add_(1, target, -kept[:, None].to(grad.dtype))
        return torch.where(kept, log_z - of_target, 0.0), grad
    log_z = torch.logsumexp(logits, dim=-1)
    grad = logits.sub_(log_z[:, None]).exp_()
    grad.scatter_add_(1, target, torch.full_like(target, -1, dtype=grad.dtype))
    grad *= kept[:, None]
    return torch.where(kept, log_z - of_target, 0.0), grad
