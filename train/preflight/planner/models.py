"""Published models by name → their sizes, for tables of figures whose models are not here; from their config.json on the Hub."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.model.adapter_spec import spec_of
from train.model_files.shapes import described, of_llama, require_plain_head
from train.preflight.memory_items import Shape
from train.preflight.planner.job import Sizes
from train.recipe.vocabulary import Recipe


class ModelUnknown(ValueError):
    """A model whose sizes are not known, or that is none this arithmetic holds for."""


# so that a recipe can be checked before its model has been downloaded
PUBLISHED = {
    f"Llama-2-{size}-hf": {
        "model_type": "llama", "vocab_size": 32000, "hidden_size": hidden, "intermediate_size": mlp, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads,
    }
    for size, hidden, mlp, layers, heads, kv_heads in (
        ("7b", 4096, 11008, 32, 32, 32), ("13b", 5120, 13824, 40, 40, 40), ("70b", 8192, 28672, 80, 64, 8),
    )
}  # fmt: skip
# vocabulary, hidden, MLP, layers, heads, key-value heads, tied
LLAMAS = {
    "tinyllama-1.1b": (32000, 2048, 5632, 22, 32, 4, False), "smollm2-135m": (49152, 576, 1536, 30, 9, 3, True),
    "smollm2-360m": (49152, 960, 2560, 32, 15, 5, True), "smollm2-1.7b": (49152, 2048, 8192, 24, 32, 32, True),
    "llama2-7b": (32000, 4096, 11008, 32, 32, 32, False), "llama2-13b": (32000, 5120, 13824, 40, 40, 40, False),
    "llama1-30b": (32000, 6656, 17920, 60, 52, 52, False), "llama2-34b": (32000, 8192, 22016, 48, 64, 8, False),
    "llama1-65b": (32000, 8192, 22016, 80, 64, 64, False), "llama2-70b": (32000, 8192, 28672, 80, 64, 8, False),
    "llama3-1b": (128256, 2048, 8192, 16, 32, 8, True), "llama3-3b": (128256, 3072, 8192, 28, 24, 8, True),
    "llama3-8b": (128256, 4096, 14336, 32, 32, 8, False), "llama3-70b": (128256, 8192, 28672, 80, 64, 8, False),
    "llama3-405b": (128256, 16384, 53248, 126, 128, 8, False), "mistral-7b": (32000, 4096, 14336, 32, 32, 8, False),
    "mistral-nemo-12b": (131072, 5120, 14336, 40, 32, 8, False), "mistral-small-24b": (131072, 5120, 32768, 40, 32, 8, False),
    "mistral-large-123b": (32768, 12288, 28672, 88, 96, 8, False), "qwen1-7b": (151936, 4096, 11008, 32, 32, 32, False), "qwen1-14b": (152064, 5120, 13696, 40, 40, 40, False),
    "qwen1-72b": (152064, 8192, 24576, 80, 64, 64, False), "qwen2-0.5b": (151936, 896, 4864, 24, 14, 2, True),
    "qwen2-1.5b": (151936, 1536, 8960, 28, 12, 2, True), "qwen2-3b": (151936, 2048, 11008, 36, 16, 2, True),
    "qwen2-7b": (152064, 3584, 18944, 28, 28, 4, False), "qwen2-14b": (152064, 5120, 13824, 48, 40, 8, False),
    "qwen2-32b": (152064, 5120, 27648, 64, 40, 8, False), "qwen2-72b": (152064, 8192, 29568, 80, 64, 8, False),
    "qwen3-0.6b": (151936, 1024, 3072, 28, 16, 8, True), "qwen3-1.7b": (151936, 2048, 6144, 28, 16, 8, True),
    "qwen3-4b": (151936, 2560, 9728, 36, 32, 8, True), "qwen3-8b": (151936, 4096, 12288, 36, 32, 8, False),
    "qwen3-14b": (151936, 5120, 17408, 40, 40, 8, False), "qwen3-32b": (151936, 5120, 25600, 64, 64, 8, False),
    "olmo-1b": (50304, 2048, 8192, 16, 16, 16, True), "olmo-7b": (50304, 4096, 11008, 32, 32, 32, False),
    "olmo2-7b": (100352, 4096, 11008, 32, 32, 32, False), "olmo2-13b": (100352, 5120, 13824, 40, 40, 40, False),
    "olmo2-32b": (100352, 5120, 27648, 64, 40, 8, False), "olmo3-7b": (100278, 4096, 11008, 32, 32, 32, False),
    "olmo3-32b": (100278, 5120, 27648, 64, 40, 8, False), "internlm-7b": (103168, 4096, 11008, 32, 32, 32, False),
    "internlm-20b": (103168, 5120, 13824, 60, 40, 40, False), "internlm2-7b": (92544, 4096, 14336, 32, 32, 8, False),
    "internlm2-20b": (92544, 6144, 16384, 48, 48, 8, False), "yi-6b": (64000, 4096, 11008, 32, 32, 4, False),
    "yi-34b": (64000, 7168, 20480, 60, 56, 8, False), "baichuan2-7b": (125696, 4096, 11008, 32, 32, 32, False),
    "baichuan2-13b": (125696, 5120, 13696, 40, 40, 40, False), "deepseek-7b": (102400, 4096, 11008, 30, 32, 32, False),
    "deepseek-67b": (102400, 8192, 22016, 95, 64, 8, False), "phi3-3.8b": (32064, 3072, 8192, 32, 32, 32, False),
    "phi3-14b": (32064, 5120, 17920, 40, 40, 10, False),
    "phi-4-14b": (100352, 5120, 17920, 40, 40, 10, False), "gemma-2b": (256000, 2048, 16384, 18, 8, 1, True),
    "gemma-7b": (256000, 3072, 24576, 28, 16, 16, True), "gemma2-9b": (256000, 3584, 14336, 42, 16, 8, True),
    "gemma2-27b": (256000, 4608, 36864, 46, 32, 16, True), "granite-8b": (49152, 4096, 14336, 36, 32, 8, True),
    "nanotron-8.86b": (131072, 4096, 14336, 32, 32, 32, False), "nanotron-80b": (131072, 8192, 28672, 80, 64, 64, False),
}  # fmt: skip
# two matrices in the MLP, four times as wide, learned positions or none: vocabulary, hidden, layers
GPTS = {
    "mpt-125m": (50432, 768, 12), "mpt-350m": (50432, 1024, 24), "mpt-760m": (50432, 1536, 24), "mpt-1b": (50432, 2048, 24),
    "mpt-3b": (50432, 2560, 32), "mpt-7b": (50432, 4096, 32), "mpt-13b": (50432, 5120, 40), "mpt-30b": (50432, 7168, 48),
    "mpt-70b": (50432, 8192, 80), "gpt2-124m": (50257, 768, 12), "gpt2-1.5b": (50304, 1600, 48), "gpt3-175b": (51200, 12288, 96), "gpt-neox-20b": (50432, 6144, 44),
    "pythia-6.9b": (50432, 4096, 32), "pythia-12b": (50688, 5120, 36), "pythia-1.4b": (50304, 2048, 24), "pythia-2.8b": (50304, 2560, 32),
    "opt-6.7b": (50272, 4096, 32), "opt-13b": (50272, 5120, 40), "opt-30b": (50272, 7168, 48), "opt-66b": (50272, 9216, 64),
    "opt-1.3b": (50272, 2048, 24), "falcon-7b": (65024, 4544, 32), "falcon-40b": (65024, 8192, 60), "bloom-7b": (250880, 4096, 30),
    "bloom-176b": (250880, 14336, 70),
}  # fmt: skip
SAME = (  # of other names: in their order, on the plain name
    (r"^(meta-llama|meta|nvidia|hf|huggyllama|mosaicml|mistralai|qwen|allenai|google|microsoft|eleutherai|nousresearch|codellama|tiiuae)/", ""), (r"^meta-", ""),
    (r"codellama-?", "llama2-"), (r"^astrollama-?2?-(7|70)b", r"llama2-\1b"), (r"^astro(llama|sage)(-?3)?-(8|70)b", r"llama3-\3b"),
    (r"\bgranite-3(\.\d)?-", "granite-"), (r"^llama-?(6\.7b|7b|13b)$", r"llama2-\1"), (r"^llama-?(30b|32\.5b|33b)$", "llama1-30b"), (r"^llama-?65b$", "llama1-65b"),
    (r"^llama-?70b$", "llama2-70b"), (r"^llama-?1-?(7b|13b)", r"llama2-\1"), (r"6\.7b$", "7b") , (r"^llama-?v?([123])(\.\d)?-?", r"llama\1-"), (r"^l([23])-", r"llama\1-"),
    (r"^llama2-33b", "llama2-34b"), (r"qwen-?1\.5-", "qwen1-"), (r"^gpt-?3-", "gpt3-"), (r"qwen-?([23])(\.5)?-?", r"qwen\1-"), (r"qwen2-(\d)", r"qwen2-\1"), (r"olmo-?([23])-?", r"olmo\1-"), (r"internlm-?2-?", "internlm2-"),
    (r"smollm-?2?-", "smollm2-"), (r"^(mistral-7b).*", r"\1"), (r"tinyllama.*", "tinyllama-1.1b"), (r"^phi-?3(\.5)?(-mini.*)?$", "phi3-3.8b"), (r"^phi-?3(\.5)?-medium.*", "phi3-14b"), (r"^gpt2$", "gpt2-124m"), (r"^gpt2-xl$", "gpt2-1.5b"), (r"phi-?4$", "phi-4-14b"),
    (r"gemma-?2-(9|27)b", r"gemma2-\1b"), (r"mistral-nemo.*", "mistral-nemo-12b"), (r"deepseek-llm-", "deepseek-"), (r"baichuan-?2?-", "baichuan2-"),
)  # fmt: skip
EXPERTS = re.compile(
    r"moe|mixtral|\d+x\d+b|-a\d+(\.\d+)?b|deepseek-?v[23]|deepseek-?r1|dbrx|grok|arctic-480|gpt-oss|llama-?4|switch|kimi-?k2|maverick|scout",
    re.IGNORECASE,
)
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([bm])\b", re.IGNORECASE)


def sizes_of(name: str) -> tuple[Sizes, str]:
    """Sizes of a model by its name, and a word where they are only alike.

    Raises:
        ModelUnknown: of experts, or a name that says no size.
    """
    plain = _known(_plain(name))
    if plain in GPTS:
        return _of_gpt(plain), ""
    config, note = _config_named(name, plain)
    found = of_llama(config)
    return Sizes.of(Shape.of(found), config["hidden_size"], bool(found.tied)), note


@dataclass(frozen=True)
class Model:
    """A recipe's model. numels: elements of each tensor; note: what had to be assumed."""

    shape: Shape
    sizes: Sizes
    numels: tuple[int, ...]
    note: str = ""


def of_recipe(recipe: Recipe) -> Model:
    """From its config where it is here, else by its name.

    Raises:
        ModelUnknown, ModelError, ConfigError
        AdapterError: the adapter that is to be trained on it does not fit.
    """
    path = recipe.model.path
    file, name = Path(path) / "config.json", Path(path).name
    if file.is_file():
        found, note = described(file, own_code="ignored"), ""
        require_plain_head(found.config, file)
    else:
        plain = _known(_plain(name))
        if plain in GPTS:
            raise ModelUnknown(f"model.path={path}: not here, and not a Llama-like model by its name")
        config, note = (PUBLISHED[name], "") if name in PUBLISHED else _config_named(name, plain)
        found, note = of_llama(config), note or f"model.path={path}: not here; sizes are of the published model"
    c, adapter = found.config, recipe.adapter
    shape = Shape.of(found, spec_of(adapter, found, adapter.path) if adapter else None)
    head = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    numels = tuple(math.prod(s) for s in found.shapes.values())
    return Model(shape, Sizes.of(shape, head * c["num_attention_heads"], bool(found.tied)), numels, note)


def _plain(name: str) -> str:
    """`meta-llama/Llama-3.1-8B-Instruct` → `llama3-8b`. Raises ModelUnknown for experts."""
    if EXPERTS.search(name):
        raise ModelUnknown(f"model {name}: a mixture of experts, which this trainer does not train and this arithmetic does not hold for")
    plain = re.sub(r"[\s_]+", "-", name.strip().lower())
    for old, new in SAME:
        plain = re.sub(old, new, plain)
    return re.sub(r"[-(]*\b(hf|instruct|chat|base|it|v0\.\d|python|full|bf16|gqa|q?lora|sft|cpt|dense)\b.*$", "", plain)


def _known(plain: str) -> str:
    """The longest known name that it begins with: `mpt-7b-8k`, `llama3-8b-262k`; a size alone is a LLaMA's."""
    if found := [n for n in (*LLAMAS, *GPTS) if plain == n or plain.startswith(f"{n}-")]:
        return max(found, key=len)
    return {"7b": "llama2-7b", "8b": "llama3-8b", "13b": "llama2-13b", "70b": "llama3-70b", "405b": "llama3-405b"}.get(plain, plain)


def _config_named(name: str, plain: str) -> tuple[dict[str, Any], str]:
    if plain in LLAMAS:  # heads wider than hidden / heads (Qwen 3, Gemma) differ by few per cent of the parameters
        return config_of(LLAMAS[plain]), ""
    if found := SIZE.search(plain):
        wanted = float(found[1]) * (1e9 if found[2] == "b" else 1e6)
        if 1e6 <= wanted <= 1e13:
            return _like(wanted), f"model {name}: not known, taken as a LLaMA of {wanted / 1e9:g}e9 parameters"
    raise ModelUnknown(
        f"model {name}: not known, and no size in its name; {len(LLAMAS) + len(GPTS)} are, among them {', '.join(list(LLAMAS)[4:14])}"
    )


def config_of(values: tuple[int, int, int, int, int, int, bool]) -> dict[str, Any]:
    names = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "tie_word_embeddings",
    )
    return {"model_type": "llama", **dict(zip(names, values, strict=True))}


def _of_gpt(name: str) -> Sizes:
    vocabulary, hidden, layers = GPTS[name]
    each = 10 if name.startswith("falcon") else 12  # falcon's keys and values are few
    return Sizes(
        each * hidden * hidden * layers + vocabulary * hidden,
        layers,
        hidden,
        vocabulary,
        4 * hidden,
        hidden,
        hidden,
        True,
        False,
        name.startswith("mpt"),
    )


def _like(parameters: float) -> dict[str, Any]:
    """A LLaMA-2 of about so many parameters: 115 of width a layer (the published ones have 102 to 128), 12.1 layers h^2 + 64,000 h elements."""
    layers = max(2, round((parameters / (12.1 * 115**2)) ** (1 / 3)))
    hidden = (math.sqrt(64000**2 + 4 * 12.1 * layers * parameters) - 64000) / (2 * 12.1 * layers)
    hidden = max(128, round(hidden / 128) * 128)
    heads = max(1, hidden // 128)
    return config_of((32000, hidden, max(128, round(hidden * 2.7 / 128) * 128), layers, heads, heads, False))
