"""A model's tensors as its config.json describes them: names, shapes, and which share one tensor.

For LLaMA and Mistral they are worked out here, since importing transformers takes longer than exporting a small model;
any other architecture is built without memory by transformers. (The tests hold both ways together.) From the same come the
sizes that a plan of memory wants, and the refusal of heads that this trainer would compute wrongly.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from train.model_files.folder import ModelError

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
SIZES = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size")
HEADS = ("final_logit_softcapping", "logits_scaling", "logit_scale")  # what some architectures do to the logits, where they are not 1


class ConfigError(ValueError):
    """A config.json that does not describe a causal language model."""


@dataclass(frozen=True)
class Described:
    """`tied`: alias → the tensor it shares; aliases are not in `shapes`. `config`: SIZES and HEADS, an architecture's defaults filled in."""

    shapes: dict[str, tuple[int, ...]]
    tied: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict, compare=False)


def described(config_file: Path, own_code: Literal["refused", "ignored"] = "refused") -> Described:
    """What a model folder with this config.json must hold.

    Raises:
        ConfigError: unreadable, code of its own, or not a causal language model.
    """
    config = read_config(config_file)
    if config.get("auto_map") and own_code == "refused":
        raise ConfigError(f"{config_file}: auto_map names code of its own, which is not run here; use a model that transformers knows")
    if config.get("model_type") in ("llama", "mistral") and config.get("architectures") in (
        None,
        [f"{config['model_type'].title()}ForCausalLM"],
    ):
        try:
            return of_llama(config)
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            pass  # a value is left to the architecture's default, or is no number: transformers knows, or says so
    return _by_transformers(config_file)


def read_config(file: Path) -> dict[str, Any]:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: not a JSON object ({error}); fetch it again") from None
    return parsed(content, file)


def parsed(content: bytes, file: Path) -> dict[str, Any]:
    """The object in a JSON file that has been read. Raises ConfigError."""
    try:
        config = json.loads(content.decode("utf-8"))
        assert isinstance(config, dict)
    except (ValueError, AssertionError, RecursionError) as error:
        raise ConfigError(f"{file}: not a JSON object ({error}); fetch it again") from None
    return config


def require_plain_head(config: dict[str, Any], config_file: Path) -> None:
    """Raises ModelError where the logits are not the head's product alone."""
    for key in HEADS:
        if config.get(key) not in (None, 1, 1.0):
            raise ModelError(f"{config_file}: {key}={config[key]} changes the logits, and this trainer's loss knows nothing of it")


def of_llama(config: dict[str, Any]) -> Described:
    """What `described` says of a LLaMA's or Mistral's config; KeyError and the like where a value is left to transformers' defaults."""
    hidden, wide, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    each = config.get("head_dim") or hidden // heads
    queries, keys = heads * each, (config.get("num_key_value_heads") or heads) * each
    vocabulary = config["vocab_size"]
    is_llama = config["model_type"] == "llama"
    if not is_llama and not config.get("num_key_value_heads"):
        raise KeyError("num_key_value_heads")  # Mistral's default is not the number of heads
    attention_bias, mlp_bias = (is_llama and bool(config.get(key)) for key in ("attention_bias", "mlp_bias"))
    matrices = {
        "self_attn.q_proj": (queries, hidden, attention_bias),
        "self_attn.k_proj": (keys, hidden, attention_bias),
        "self_attn.v_proj": (keys, hidden, attention_bias),
        "self_attn.o_proj": (hidden, queries, attention_bias),
        "mlp.gate_proj": (wide, hidden, mlp_bias),
        "mlp.up_proj": (wide, hidden, mlp_bias),
        "mlp.down_proj": (hidden, wide, mlp_bias),
    }
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (vocabulary, hidden)}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        for name, (rows, columns, has_bias) in matrices.items():
            shapes[f"{at}{name}.weight"] = (rows, columns)
            if has_bias:
                shapes[f"{at}{name}.bias"] = (rows,)
        shapes |= {f"{at}input_layernorm.weight": (hidden,), f"{at}post_attention_layernorm.weight": (hidden,)}
    shapes["model.norm.weight"] = (hidden,)
    if not config.get("tie_word_embeddings", False):
        return Described(shapes | {HEAD: (vocabulary, hidden)}, {}, config)
    return Described(shapes, {HEAD: EMBEDDING}, config)


def _by_transformers(config_file: Path) -> Described:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        with tempfile.TemporaryDirectory() as local:  # the file may lie on an object store
            (Path(local) / "config.json").write_bytes(config_file.read_bytes())
            config = AutoConfig.from_pretrained(local, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (ValueError, KeyError, TypeError, OSError, AttributeError) as error:
        raise ConfigError(f"{config_file}: transformers makes no causal language model of it ({error})") from None
    model.tie_weights()
    shapes, tied, first = {}, {}, {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in first:
            tied[name] = first[id(parameter)]
        else:
            first[id(parameter)] = name
            shapes[name] = tuple(parameter.shape)
    for name, buffer in model.named_buffers():
        if name in model.state_dict():
            shapes[name] = tuple(buffer.shape)
    return Described(shapes, tied, {key: getattr(config, key, None) for key in (*SIZES, *HEADS)})
