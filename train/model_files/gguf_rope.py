"""How a GGUF file stretches RoPE, which transformers leaves out when it reads one: from its metadata, and from rope_freqs.

llama.cpp's converters write Llama 3's scaling as one divisor for each frequency and not as numbers that made it; those are
found again, and proven by making the divisors from them.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from train.model_files.folder import ModelError

LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
# what else says how far RoPE is stretched, and the value that leaves it as it is
UNKNOWN = {"attn_factor": (None, 1.0), "yarn_log_multiplier": (None,), "yarn_ext_factor": (None, 1.0), "yarn_attn_factor": (None, 1.0)}


def scaling_of(file: Path) -> dict[str, Any]:
    """`rope_parameters` without their base; empty where RoPE is as it is by default.

    Raises:
        ModelError: a scaling that cannot be told from the file, or is not known here.
    """
    from gguf import GGUFReader

    reader = GGUFReader(file)
    arch = _value(reader, "general.architecture")
    said = {key: _value(reader, f"{arch}.rope.scaling.{key}") for key in ("type", "factor", "original_context_length", *UNKNOWN)}
    kind, factor = said["type"], said["factor"] or _value(reader, f"{arch}.rope.scale_linear")
    tensors = {tensor.name: tensor for tensor in reader.tensors if tensor.name.startswith("rope_")}
    odd = [f"{arch}.rope.scaling.{key}={said[key]}" for key, plain in UNKNOWN.items() if said[key] not in plain]
    odd += sorted(tensors.keys() - {"rope_freqs.weight"})
    if tensors and factor not in (None, 1):
        odd.append("rope_freqs and a factor")
    if kind in ("linear", None) and factor is not None and factor != 1 and not tensors and not odd:
        return {"rope_type": "linear", "factor": float(factor)}
    original = said["original_context_length"]
    if kind == "yarn" and factor is not None and original and not tensors and not odd:
        edges = {key: _value(reader, f"{arch}.rope.scaling.yarn_{key}") for key in ("beta_fast", "beta_slow")}
        edges = {key: float(value) for key, value in edges.items() if value is not None}
        return {"rope_type": "yarn", "factor": float(factor), "original_max_position_embeddings": int(original)} | edges
    if kind not in ("none", "linear", None) or odd:
        named = ", ".join(([f"{arch}.rope.scaling.type={kind}"] if kind else []) + odd)
        raise ModelError(f"{file}: stretches RoPE in a way that is not read here ({named}); give the Hugging Face folder it was made from")
    if "rope_freqs.weight" not in tensors:
        return {}
    divisors = np.asarray(tensors["rope_freqs.weight"].data, dtype=np.float64).reshape(-1)
    found = _of_llama3(divisors, _value(reader, f"{arch}.rope.freq_base") or 10_000.0)
    if found is None:
        raise ModelError(f"{file}: its rope_freqs are not those of a Llama 3; give the Hugging Face folder it was made from")
    return found


def _value(reader: Any, key: str) -> Any:
    field = reader.fields.get(key)
    return None if field is None else field.contents()


def _of_llama3(divisors: np.ndarray, base: float) -> dict[str, Any] | None:
    """The scaling whose divisors these are, {} where they change nothing, None where there is none."""
    factor = round(float(divisors.max()), 4)
    if np.all(divisors == 1):
        return {}
    scaling = {"rope_type": "llama3", "factor": factor, **LLAMA3}
    return scaling if np.allclose(divisors, _divisors(scaling, base, len(divisors)), rtol=1e-4) else None


def _divisors(scaling: dict[str, Any], base: float, count: int) -> np.ndarray:
    """Frequency / scaled frequency of each pair of a head's dimensions, (count,)."""
    wavelengths = 2 * math.pi * base ** (np.arange(count) / count)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    smooth = np.clip((scaling["original_max_position_embeddings"] / wavelengths - low) / (high - low), 0, 1)
    return 1 / ((1 - smooth) / scaling["factor"] + smooth)
