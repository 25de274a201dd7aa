"""Which models are computed exactly here: a model's module tree is probed with fake tensors before anything of it is loaded.

config → the module tree, without memory → what holds parameters → one forward of two packed documents, in which each layer must
call the attention seam once, with the documents' edges, and ask of it nothing that the seam does not compute
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from train.model import attention
from train.model_files.folder import ModelError

PROBE = "packed_probe"  # the name of its attention with transformers
SUPPORTED = "supported are decoders like Llama, Mistral, Qwen2, Qwen3, OLMo-2, Phi-3, Granite, SmolLM3, Gemma-3 (text) and Starcoder2"
# whose frequencies follow the longest text of a batch: a document's logits would depend on its neighbours
MOVING_ROPES = {"dynamic": "max_position_embeddings", "longrope": "original_max_position_embeddings"}
# how a tree that does not take packed batches fails in the probe, which computes nothing
FAILURES = (RuntimeError, TypeError, ValueError, KeyError, AttributeError, AssertionError, IndexError, ImportError)


def require_supported(config: Any, seq_len: int, where: str) -> None:
    """Raises ModelError, in one message, where packed documents would not be computed as transformers computes each alone.

    Args:
        config: of transformers. seq_len: tokens of a row. where: names the model in the message.
    """
    fault = next(_faults(config, seq_len), None)
    if fault:
        raise ModelError(f"{where}: {config.model_type}: {fault}; {SUPPORTED}")


def _faults(config: Any, seq_len: int) -> Iterator[str]:
    config = copy.deepcopy(config)
    for rope in _ropes(config):
        kind = rope.get("rope_type")
        if kind in MOVING_ROPES:
            limit = rope.get(MOVING_ROPES[kind]) or getattr(config, MOVING_ROPES[kind], None)
            if limit is not None and seq_len > limit:
                yield f"rope_type={kind} changes with texts longer than {limit} tokens, data.seq_len={seq_len}; use rows of at most {limit}"
            rope["rope_type"] = "default"  # judged; in the probe it would look at values
    mode, calls = FakeTensorMode(), []
    try:
        with mode:
            model = _tree(config, calls)
    except FAILURES as error:
        yield f"transformers makes no module tree of its config ({_first_line(error)})"
        return
    for name, module in model.named_modules():
        own = [n for n, _ in module.named_parameters(recurse=False)]
        if own and not isinstance(module, (nn.Linear, nn.Embedding, nn.LayerNorm)) and not type(module).__name__.endswith("Norm"):
            yield f"{name} is a {type(module).__name__} with parameters of its own ({own[0]})"
    from transformers.conversion_mapping import get_model_conversion_mapping

    for renamed in get_model_conversion_mapping(model, add_legacy=False):
        yield f"its files name tensors otherwise than its module tree ({renamed.source_patterns[0]} for {renamed.target_patterns[0]})"
    try:
        with mode:
            _forward(model)
    except FAILURES as error:
        yield f"its module tree does not take packed batches ({_first_line(error)})"
        return
    layers = len(getattr(model.base_model, "layers", ()))
    if not layers or len(calls) != layers or len({id(module) for module, _ in calls}) != layers:
        yield f"{len(calls)} attention calls in {layers} layers"
    for _, asked in calls:
        try:
            attention.require_computed(**asked)
        except ModelError as error:
            yield str(error)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _ropes(config: Any) -> list[dict[str, Any]]:
    """The rope settings of a config: one, or one a kind of layer."""
    given = getattr(config, "rope_parameters", None) or {}
    return [given] if "rope_type" in given else [one for one in given.values() if isinstance(one, dict)]


def _tree(config: Any, calls: list[tuple[nn.Module, dict[str, Any]]]) -> nn.Module:
    """The module tree of a config, whose attention notes in `calls` what it is asked for, and computes nothing."""
    from transformers import AttentionInterface, AutoModelForCausalLM

    def record(module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **asked: Any) -> tuple:
        calls.append((module, {"attention_mask": mask, **asked}))
        return query.transpose(1, 2), None

    AttentionInterface.register(PROBE, record)
    config.use_cache = False
    return AutoModelForCausalLM.from_config(config, attn_implementation=PROBE, dtype=torch.float32)


def _forward(model: nn.Module) -> None:
    """Two packed documents of four tokens."""
    tokens, edges = torch.zeros((1, 8), dtype=torch.long), torch.tensor([0, 4, 8], dtype=torch.int32)
    positions = torch.arange(4).repeat(2)[None]
    model.base_model(input_ids=tokens, position_ids=positions, use_cache=False, cu_seqlens=edges, max_seqlen=4)
