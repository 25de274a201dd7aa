"""The seam: causal attention inside each document of a packed row, never across.

Packed rows arrive as (1, tokens) with `cu_seqlens`, which travels from the plan to the kernel as an argument of
every layer. Four backends give one meaning: flash-attn-4's varlen kernel on Hopper and Blackwell, flash-attn 2's and torch's own
from Ampere on, and SDPA document by document anywhere. A layer called without `cu_seqlens` fails: there is no dense fallback.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import inspect
from collections.abc import Callable
from typing import Any

import torch

from train.model.by_document import by_document
from train.model_files.folder import ModelError

# what model.config._attn_implementation is set to; transformers takes any name with "flash" in it for one of its own kernels
REGISTERED = {"flash4": "packed_f4", "flash": "packed_fa", "torch_varlen": "packed_tv", "sdpa": "packed_by_document"}

Attention = Callable[..., torch.Tensor]

# what layers pass along that changes nothing here, or nothing while it has this value
HARMLESS = {"cu_seqlens", "max_seqlen", "scaling", "sliding_window", "position_ids", "use_cache", "cache_position", "layer_idx"}
UNSET = {"dropout": 0.0, "is_causal": True, "output_attentions": False, "output_hidden_states": False}


@torch.library.custom_op("astrollama::flash4", mutates_args=())
def flash4(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: torch.Tensor, max_seqlen: int, scale: float, window: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """flash-attn-4 as one operation that a compiled graph can hold; window: 0 for none.

    Returns:
        (tokens, heads, head_dim), and the logsumexp of the scores (heads, tokens) fp32.
    """
    from flash_attn.cute.interface import _flash_attn_fwd

    out, lse, *_ = _flash_attn_fwd(q, k, v, **_of_flash4(cu_seqlens, max_seqlen, scale, window), return_lse=True)
    return out, lse


@flash4.register_fake
def _(q, k, v, cu_seqlens, max_seqlen, scale, window):
    return q.new_empty(q.shape), q.new_empty((q.shape[1], q.shape[0]), dtype=torch.float32)


@torch.library.custom_op("astrollama::flash4_backward", mutates_args=())
def flash4_backward(
    grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, lse: torch.Tensor, cu_seqlens: torch.Tensor,
    max_seqlen: int, scale: float, window: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    from flash_attn.cute.interface import _flash_attn_bwd

    exact = torch.are_deterministic_algorithms_enabled()
    asked = _of_flash4(cu_seqlens, max_seqlen, scale, window)
    dq, dk, dv, *_ = _flash_attn_bwd(q, k, v, out, grad.contiguous(), lse, **asked, deterministic=exact)
    return dq, dk, dv


@flash4_backward.register_fake
def _(grad, q, k, v, *others):
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _of_flash4(cu_seqlens: torch.Tensor, max_seqlen: int, scale: float, window: int) -> dict[str, Any]:
    edges = {"cu_seqlens_q": cu_seqlens, "cu_seqlens_k": cu_seqlens, "max_seqlen_q": max_seqlen, "max_seqlen_k": max_seqlen}
    banded = {"window_size_left": window - 1, "window_size_right": 0} if window else {}
    return edges | {"softmax_scale": scale, "causal": True} | banded


def _keep_for_flash4(ctx: Any, inputs: tuple, output: tuple) -> None:
    *tensors, ctx.longest, ctx.scale, ctx.window = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])


def _gradients_of_flash4(ctx: Any, grad: torch.Tensor, _: torch.Tensor) -> tuple:
    q, k, v, cu_seqlens, out, lse = ctx.saved_tensors
    return *flash4_backward(grad, q, k, v, out, lse, cu_seqlens, ctx.longest, ctx.scale, ctx.window), None, None, None, None


flash4.register_autograd(_gradients_of_flash4, setup_context=_keep_for_flash4)


def _flash4(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: torch.Tensor, max_seqlen: int, scale: float, window: int | None
) -> torch.Tensor:
    return flash4(q.contiguous(), k.contiguous(), v.contiguous(), cu_seqlens, max_seqlen, scale, window or 0)[0]


def _flash(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: torch.Tensor, max_seqlen: int, scale: float, window: int | None
) -> torch.Tensor:
    from flash_attn import flash_attn_varlen_func

    banded = {} if window is None else {"window_size": (window - 1, 0)}
    return flash_attn_varlen_func(q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, softmax_scale=scale, causal=True, **banded)


def _torch_varlen(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: torch.Tensor, max_seqlen: int, scale: float, window: int | None
) -> torch.Tensor:
    from torch.nn.attention import varlen

    takes = _keywords()
    asked: dict[str, Any] = {}
    if "enable_gqa" in takes:  # in 2.11 the kernel takes fewer heads of keys without a word
        asked["enable_gqa"] = q.shape[1] != k.shape[1]
    elif "scale" not in takes:
        k, v = _repeat_heads(q, k, v)
    if "scale" in takes:
        asked["scale"] = scale
    elif scale != (usual := q.shape[-1] ** -0.5):
        q = q * (scale / usual)
    if "window_size" in takes:
        asked["window_size"] = (-1 if window is None else window - 1, 0)
    else:
        if window is not None and window < max_seqlen:
            raise ModelError(
                f"model.attention=torch_varlen: torch {torch.__version__} has no sliding windows there, and this model's see {window} tokens; "
                "install flash-attn or a newer torch, or use sdpa"
            )
        asked["is_causal"] = True
    return varlen.varlen_attn(q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, **asked)


@torch.compiler.assume_constant_result
def _keywords() -> tuple[str, ...]:
    """What torch's kernel can be asked by name. torch 2.10 knows `is_causal` alone; 2.11 `scale` and `window_size` in its place; 2.12 and 2.13 `enable_gqa`, too."""
    from torch.nn.attention import varlen

    return _parameters(varlen.varlen_attn)


@functools.cache
def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def _sdpa(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: torch.Tensor, max_seqlen: int, scale: float, window: int | None
) -> torch.Tensor:
    k, v = _repeat_heads(q, k, v)
    return by_document(q, k, v, cu_seqlens, scale, window or 0)[0]


def _repeat_heads(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    groups = q.shape[1] // k.shape[1]
    return (k, v) if groups == 1 else (k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1))


BACKENDS: dict[str, Attention] = {"flash4": _flash4, "flash": _flash, "torch_varlen": _torch_varlen, "sdpa": _sdpa}


def has_flash_attn() -> bool:
    """flash-attn 2, whose package is not the mere folder that flash-attn-4 leaves under its name."""
    spec = importlib.util.find_spec("flash_attn")
    return spec is not None and spec.origin is not None


def has_flash_attn_4() -> bool:
    return next(iter(importlib.metadata.distributions(name="flash-attn-4")), None) is not None


def choose_backend(wanted: str, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> tuple[str, str]:
    """The backend for `model.attention` and the reason in words.

    Raises:
        ModelError: when the wanted one cannot run here, or not in this dtype.
    """
    on_cuda, in_16_bits = device.type == "cuda", dtype in (torch.bfloat16, torch.float16)
    has_flash, has_flash4 = has_flash_attn(), has_flash_attn_4()
    has_varlen = importlib.util.find_spec("torch.nn.attention.varlen") is not None
    if wanted == "flash" and not has_flash:
        raise ModelError("model.attention=flash: flash-attn is not installed; pip install 'astrollama-trainer[flash]', or use auto")
    of_hopper = on_cuda and torch.cuda.get_device_capability(device) >= (9, 0)
    if wanted == "flash4" and not (has_flash4 and of_hopper):
        lacks = (
            "flash-attn-4 is not installed; pip install 'astrollama-trainer[flash4]'" if of_hopper else "it is for Hopper GPUs and newer"
        )
        raise ModelError(f"model.attention=flash4: {lacks}, or use auto")
    if wanted == "torch_varlen" and not (on_cuda and has_varlen):
        raise ModelError("model.attention=torch_varlen: torch's varlen attention needs CUDA here; use sdpa or auto")
    if wanted not in ("auto", "sdpa") and on_cuda and not in_16_bits:
        raise ModelError(
            f"model.attention={wanted}: it does not compute {str(dtype).removeprefix('torch.')}; use sdpa or auto, or model.dtype=bf16"
        )
    if wanted != "auto":
        return wanted, "as the recipe says"
    if on_cuda and not in_16_bits:
        return "sdpa", f"SDPA document by document: the varlen kernels do not compute {str(dtype).removeprefix('torch.')}"
    if has_flash4 and of_hopper:
        return "flash4", "flash-attn-4 found"
    if on_cuda and has_flash:
        return "flash", "flash-attn found"
    if on_cuda and has_varlen and torch.cuda.get_device_capability(device) >= (8, 0):
        better = ": pip install 'astrollama-trainer[flash4]', whose attention takes about 0.6 of the time here" if of_hopper else ""
        return "torch_varlen", f"torch's own varlen kernel; flash-attn not found{better}"
    if on_cuda:
        return "sdpa", "flash-attn not found: SDPA document by document, slow on short documents"
    return "sdpa", "CPU: SDPA document by document"


def varlen_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens: torch.Tensor,
    max_seqlen: int,
    *,
    backend: str,
    scale: float | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """Block-diagonal causal attention.

    Args:
        q: (tokens, heads, head_dim); k, v: (tokens, kv_heads, head_dim), kv_heads divides heads.
        cu_seqlens: (documents + 1,) int32, starts at 0, ends at tokens.
        max_seqlen: the longest document's tokens.
        window: how many tokens a token attends to, itself the last of them; None: all before it in its document.
    Returns:
        (tokens, heads, head_dim)
    """
    # a compiled graph must not depend on a batch's longest document
    longest = q.shape[0] if torch.compiler.is_compiling() else max_seqlen
    window = None if window is None or window >= longest else window
    return BACKENDS[backend](q, k, v, cu_seqlens, max_seqlen, q.shape[-1] ** -0.5 if scale is None else scale, window)


def install(backend: str) -> str:
    """Register the seam with transformers under a name of its own; returns the name for `attn_implementation`."""
    from transformers import AttentionInterface

    def layer_attention(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        *,
        scaling: float | None = None,
        sliding_window: int | None = None,
        **asked: Any,
    ) -> tuple[torch.Tensor, None]:
        # query: (1, heads, tokens, head_dim)
        assert asked.get("cu_seqlens") is not None, "packed attention was called without cu_seqlens"
        require_computed(attention_mask=attention_mask, **asked)
        assert query.shape[0] == 1, query.shape
        packed = [x.squeeze(0).transpose(0, 1) for x in (query, key, value)]
        edges, longest = asked["cu_seqlens"], asked["max_seqlen"]
        return varlen_attention(*packed, edges, longest, backend=backend, scale=scaling, window=sliding_window).unsqueeze(0), None

    AttentionInterface.register(REGISTERED[backend], layer_attention)
    return REGISTERED[backend]


def require_computed(**asked: Any) -> None:
    """Raises ModelError where a layer asks of the seam what it does not compute: all but scaling and sliding_window."""
    if asked.get("cu_seqlens") is None or asked.get("max_seqlen") is None:
        raise ModelError("its attention is called without cu_seqlens")
    for name, value in asked.items():
        if name not in HARMLESS and value is not None and not (name in UNSET and value == UNSET[name]):
            raise ModelError(f"its attention has {name}, which is not computed here")
