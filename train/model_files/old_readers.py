"""config.json and tokenizer_config.json as transformers 5 writes them → such as older readers take alike.

transformers 5 keeps all of RoPE in `rope_parameters`, the dtype in `dtype`, a chat template in its own file, named and further
special tokens under other names than before. What was built on transformers 4 (down to 4.44), and vLLM, TGI, llama.cpp and
CTranslate2 of that time, read RoPE's defaults out of such a file without a word. So the old keys are put beside the new ones,
with the values that transformers 5 reads; where a file has both and they differ, its reading is followed. Without torch.
"""

from __future__ import annotations

import math
from typing import Any

Values = dict[str, Any]

# where transformers 4 keeps (the base, the rotated part of a head), where not in these two
_PLAIN = ("rope_theta", "partial_rotary_factor")
_PLACES = {"gpt_neox": ("rotary_emb_base", "rotary_pct"), "gpt_neox_japanese": ("rotary_emb_base", "rotary_pct")}
# families with a RoPE for each kind of layer: old keys of the bases of full and of sliding attention, and their defaults
_PER_LAYER = {
    "gemma3_text": ("rope_theta", "rope_local_base_freq", 1_000_000.0, 10_000.0),
    "gemma3n_text": ("rope_theta", "rope_local_base_freq", 1_000_000.0, 10_000.0),
    "modernbert-decoder": ("global_rope_theta", "local_rope_theta", 160_000.0, 10_000.0),
    "olmo3": ("rope_theta", None, 500_000.0, 500_000.0),
}  # fmt: skip
# defaults of transformers 5 that are not those of 4: a config that leaves the base out says another one to each
_BASES = {"cohere": 500_000.0, "falcon_h1": 10_000.0, "persimmon": 10_000.0}
# their configs in transformers 4 take a scaling of exactly these keys, and refuse another
_TWO_KEYS = {
    "falcon", "gpt_neox", "hunyuan_v1_dense", "hunyuan_v1_moe", "olmo", "olmo2", "persimmon", "phi", "stablelm",
}  # fmt: skip
_THREE_KEYS = {"phi3", "phi4_multimodal"}
_PATTERNED = {"gemma3_text", "cohere2"}  # older than `layer_types`: every n-th layer sees everything
_ONLY_HERE = ("is_local", "local_files_only")  # of the reading that came before the saving, not of the tokenizer


def old_config(values: Values) -> Values:
    """config.json with RoPE in old and new keys; nested configs likewise. Doing it twice changes nothing.

    >>> old_config({"model_type": "llama", "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}})["rope_theta"]
    500000.0
    """
    values = {key: old_config(value) if isinstance(value, dict) and "model_type" in value else value for key, value in values.items()}
    family = values.get("model_type")
    values = _per_layer(values, *_PER_LAYER[family]) if family in _PER_LAYER else _alike(values, family)
    if family in _PATTERNED and (step := _pattern(values.get("layer_types"))):
        values["sliding_window_pattern"] = step
    return values


def old_dtype(values: Values, name: str) -> Values:
    """config.json that says this dtype in both words, in nested configs too where they say one."""
    nested = {
        key: old_dtype(value, name)
        for key, value in values.items()
        if isinstance(value, dict) and "model_type" in value and ("dtype" in value or "torch_dtype" in value)
    }
    return {key: value for key, value in values.items() if key != "torch_dtype"} | nested | {"dtype": name, "torch_dtype": name}


def _alike(values: Values, family: Any) -> Values:
    """One RoPE for all layers: `rope_scaling` where it holds something, else `rope_parameters`, as transformers 5 looks."""
    base_key, part_key = _PLACES.get(family, _PLAIN)
    new, old = (values.get(key) for key in ("rope_parameters", "rope_scaling"))
    if any(value is not None and not isinstance(value, dict) for value in (new, old)) or _is_nested(new):
        return values  # a family of transformers 5 alone, or no config: it says so itself
    given = dict(old or new or {})
    base = given.get("rope_theta", values.get(base_key, _BASES.get(family)))
    part = given.get("partial_rotary_factor", values.get(part_key))
    if base is None and not given:
        return values
    said = {key: value for key, value in ((base_key, base), (part_key, part)) if value is not None}
    values = values | said
    if new is None and "rope_scaling" not in values:
        return values
    values |= _scaling(given, base, values, family)
    if new is None:
        return values
    return values | {"rope_parameters": _renewed(given, values["rope_scaling"], base, part, _original(given, values))}


def _renewed(given: Values, scaling: Values | None, base: Any, part: Any, original: Any) -> Values:
    """`rope_parameters` that say what the old keys say."""
    said = scaling or given
    beside = {"rope_theta": base, "partial_rotary_factor": part, "original_max_position_embeddings": original}
    held = {"rope_type": said.get("rope_type", said.get("type", "default"))} | {k: v for k, v in said.items() if k != "type"}
    return dict(sorted((held | {key: value for key, value in beside.items() if value is not None}).items()))


def _per_layer(values: Values, full_key: str, sliding_key: str | None, full_base: float, sliding_base: float) -> Values:
    """A RoPE for full and one for sliding attention; only the former can be scaled in the old keys."""
    new, old = values.get("rope_parameters"), values.get("rope_scaling")
    kinds = new if isinstance(new, dict) else {"full_attention": {"rope_type": "default"}}  # an old `type` does not replace it
    full, sliding = dict(kinds.get("full_attention") or {}), dict(kinds.get("sliding_attention") or {})
    full |= old or {}
    base = full.get("rope_theta", values.get(full_key, full_base))
    local = sliding.get("rope_theta", values.get(sliding_key, sliding_base) if sliding_key else sliding_base)
    values = values | {full_key: base} | ({sliding_key: local} if sliding_key else {})
    values |= _scaling(full, base, values, values["model_type"])
    if not isinstance(new, dict):
        return values
    held = {
        "full_attention": _renewed(full, values["rope_scaling"], base, None, _original(full, values)),
        "sliding_attention": _renewed(sliding, None, local, None, _original(sliding, values)),
    }
    return values | {"rope_parameters": new | held}


def _original(given: Values, values: Values) -> Any:
    """The length before it was stretched, where the kind of scaling asks for it; one beside the scaling holds before one in it."""
    if given.get("rope_type", given.get("type")) not in ("llama3", "yarn", "longrope", "su"):
        return None
    places = (values.get("original_max_position_embeddings"), given.get("original_max_position_embeddings"))
    return next((place for place in places if place is not None), values.get("max_position_embeddings"))


def _scaling(given: Values, base: Any, values: Values, family: Any) -> Values:
    """`rope_scaling` in the shape of transformers 4; with the base in it, which CTranslate2 looks for there alone."""
    kind = given.get("rope_type", given.get("type", "default"))
    rest = {key: value for key, value in given.items() if key not in ("rope_type", "type", *_PLAIN) and value is not None}
    if kind == "default" and not rest:
        return {"rope_scaling": None}
    if isinstance(rest.get("factor"), int):
        rest["factor"] = float(rest["factor"])
    beside: Values = {}
    if (original := _original(given, values)) is not None:
        rest["original_max_position_embeddings"] = original
    if family in _THREE_KEYS:
        kind = "longrope" if kind in ("su", "yarn") else kind
    if kind == "longrope" and original is not None and values.get("max_position_embeddings") is not None:
        beside["original_max_position_embeddings"] = original  # looked for there alone
        rest = _fixed_longrope(rest, values["max_position_embeddings"], family in _THREE_KEYS)
    if family in _TWO_KEYS and kind in ("linear", "dynamic") and set(rest) == {"factor"}:
        return {"rope_scaling": {"type": kind, **rest}}
    if family in _THREE_KEYS and set(rest) == {"short_factor", "long_factor", "original_max_position_embeddings"}:
        return {"rope_scaling": {"type": kind, **{key: rest[key] for key in ("long_factor", "short_factor")}}} | beside
    scaling = {"rope_type": kind, **rest} | ({} if base is None else {"rope_theta": base})
    return {"rope_scaling": dict(sorted(scaling.items()))} | beside


def _fixed_longrope(rest: Values, most: float, bare: bool) -> Values:
    """Longrope with its attention factor said where it does not follow from the ratio of the lengths, which transformers 4 prefers
    to `factor`. bare: without either where both follow from it."""
    original = rest["original_max_position_embeddings"]
    ratio = most / original
    factor, attention = rest.get("factor") or ratio, rest.get("attention_factor")
    root = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    if factor == ratio and attention in (None, root):
        return {key: value for key, value in rest.items() if key not in ("factor", "attention_factor")} if bare else rest
    return rest if factor == ratio else rest | {"attention_factor": root if attention is None else attention}


def _is_nested(rope_parameters: Values | None) -> bool:
    return any(isinstance(value, dict) for value in (rope_parameters or {}).values())


def _pattern(layer_types: Any) -> int | None:
    """n, if every n-th layer and no other has full attention."""
    if not isinstance(layer_types, list) or not set(layer_types) <= {"full_attention", "sliding_attention"}:
        return None
    full = [i + 1 for i, kind in enumerate(layer_types) if kind == "full_attention"]
    step = full[0] if full else len(layer_types) + 1
    return step if full == list(range(step, len(layer_types) + 1, step)) else None


def old_tokenizer(values: Values, template: str | None = None) -> Values:
    """tokenizer_config.json or special_tokens_map.json in names that transformers 4 and 5 know.

    Args:
        template: what chat_template.jinja says; it holds before one in here.
    """
    values = {key: value for key, value in values.items() if key not in _ONLY_HERE}
    if values.get("tokenizer_class") == "TokenizersBackend":
        values["tokenizer_class"] = "PreTrainedTokenizerFast"  # the same class, by its name in both
    if values.get("backend") == "tokenizers":
        del values["backend"]
    extra = values.pop("extra_special_tokens", None)  # a list in transformers 5, a dict of names in 4
    named = (values.get("model_specific_special_tokens") or {}) | (extra if isinstance(extra, dict) else {})
    if named:
        values["extra_special_tokens"] = named
    if isinstance(extra, list) and extra:
        values["additional_special_tokens"] = extra
    return values if template is None else values | {"chat_template": template.replace("\r\n", "\n")}
