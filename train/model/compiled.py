"""Decoder layers compiled whole by torch.compile, so that no length of a document makes another graph, and nothing goes on uncompiled unsaid.

ZeRO-3's hooks stand around a layer's call, so its `forward` is what is compiled; there must be none inside, which takes a layer that
DeepSpeed gathers as one (engine/gathering.py). Shapes of the hidden states are a batch's rows and never change; boundaries and the
longest document do, and are told to be dynamic. What runs without gradients (evaluations, answers) runs uncompiled: other shapes.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from importlib import metadata
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from train.model.recompute import inside
from train.model_files.folder import ModelError

if TYPE_CHECKING:
    from train.data.batch import PackedBatch

FLASH_IS_OPAQUE = (2, 7)  # from which its kernels are operations that a graph can hold
LONGEST = "L['max_seqlen'],L['kwargs']['max_seqlen'],"  # names of an argument, as Dynamo sees it


def require_compilable(device: torch.device, backend: str) -> None:
    """Raises ModelError where layers cannot be compiled here, with what is missing."""
    remedy = "; or set model.compile=false"
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise ModelError(f"model.compile=true: torch compiles for CUDA with triton, which is not installed: pip install triton{remedy}")
    if device.type == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            raise ModelError(
                f"model.compile=true: torch compiles for CPUs with a C++ compiler, and finds none: install g++{remedy}"
            ) from None
    if backend == "flash":
        found = metadata.version("flash-attn")
        if tuple(int(x) for x in found.split(".")[:2]) < FLASH_IS_OPAQUE:
            raise ModelError(
                f"model.compile=true: flash-attn {found} cannot stand in a compiled graph; install 2.7 or newer, take "
                f"model.attention=torch_varlen{remedy}"
            )


def compile_layers(layers: list[nn.Module]) -> None:
    """Put a compiled forward into each layer; one graph serves all layers of a kind."""
    import torch._dynamo

    known = torch.compiler.config.dynamic_sources
    if LONGEST not in known:
        torch.compiler.config.dynamic_sources = LONGEST + known
    logging.getLogger("torch._dynamo.convert_frame").addFilter(_limit)
    # of selective layers it warns that they must change nothing in place: liger's rotation, which does, is for uncompiled ones (kernels.py)
    logging.getLogger("torch._higher_order_ops.wrap").addFilter(_says_nothing_of_contexts)
    for layer in layers:
        layer.forward = _compiled(layer.forward, inside(layer), type(layer).__name__)


def mark_dynamic(batch: PackedBatch) -> None:
    """Tell the compiler that the number of documents changes."""
    torch._dynamo.maybe_mark_dynamic(batch.cu_seqlens, 0)


def _compiled(eager: Any, forward: Any, name: str) -> Any:
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    compiled = torch.compile(forward, dynamic=None, fullgraph=True)

    @functools.wraps(eager)
    def chosen(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return eager(*args, **kwargs)
        try:
            return compiled(*args, **kwargs)
        except FailOnRecompileLimitHit as error:
            raise ModelError(
                f"model.compile=true: torch has compiled {name} as often as it may ({torch._dynamo.config.recompile_limit} times) and met yet "
                f"another case; it would go on uncompiled from here, so set model.compile=false. What has changed: {_limit.reason}"
            ) from error
        except TorchDynamoException as error:
            raise ModelError(
                f"model.compile=true: torch cannot compile {name} whole ({_reason(error)}); set model.compile=false"
            ) from error

    return chosen


class _Limit(logging.Filter):
    """Takes from torch's warning why it would compile once more, which its error does not say, and keeps it off the screen."""

    reason = "torch does not say"

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if "hit config." not in text or "last reason:" not in text:
            return True
        self.reason = text.split("last reason:", 1)[1].strip().splitlines()[0].split("  #")[0]
        return False


_limit = _Limit()


def _says_nothing_of_contexts(record: logging.LogRecord) -> bool:
    return "context_fn is passed to torch.utils.checkpoint" not in str(record.msg)


def _reason(error: Exception) -> str:
    """The line of torch's long message that says why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line.split(":", 1)[1].strip() for line in lines if line.startswith("Explanation:")]
    return (told or lines or [type(error).__name__])[0]
