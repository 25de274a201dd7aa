"""What is written into a model folder, read by transformers 5 as installed, and by the rules of transformers 4 as written down here."""

import json
import sys

import pytest

from tests.made import processes, tiny
from train.model_files.companions import companion_files, config_text
from train.model_files.dtypes import BF16, FP32
from train.model_files.old_readers import old_tokenizer
from train.model_files.shapes import ConfigError

SMALL = dict(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=6, num_attention_heads=4, max_position_embeddings=64,
    pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
SCALINGS = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 16.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "longrope": {"rope_type": "longrope", "short_factor": [1.1] * 4, "long_factor": [2.0] * 4, "original_max_position_embeddings": 16},
}
FLAT = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "olmo2",
    "granite",
    "smollm3",
    "gemma2",
    "cohere2",
    "stablelm",
    "gpt_neox",
    "seed_oss",
    "phi3",
)
LAYERED = {"gemma3_text": 30_000.0, "olmo3": 500_000.0}  # the base of its sliding layers
TAKES = {"gpt_neox": ("linear",), "stablelm": ("linear", "yarn", "llama3"), "phi3": ("longrope",)}  # here and in transformers 5
CASES = [(f, s) for f in (*FLAT, *LAYERED) for s in SCALINGS if s == "default" or s in TAKES.get(f, SCALINGS)]
# defaults of the classes of transformers 4
BASES = {"smollm3": 2_000_000.0, "gemma3_text": 1_000_000.0}
LOCALS = {"gemma3_text": 10_000.0}
REFUSE_ALL_BUT = {"olmo2": {"type", "factor"}, "phi3": {"type", "short_factor", "long_factor"}}


def by_old_rules(config: dict, family: str) -> dict:
    """What transformers 4.57 makes of a config.json: the base, the rotated part, the scaling and the lengths it goes by."""
    names = ("rotary_emb_base", "rotary_pct") if family == "gpt_neox" else ("rope_theta", "partial_rotary_factor")
    scaling = dict(config.get("rope_scaling") or {"rope_type": "default"})
    if family in REFUSE_ALL_BUT and config.get("rope_scaling") and scaling.get("type") is not None:
        assert set(scaling) == REFUSE_ALL_BUT[family]
    kind = scaling.pop("type", None) or scaling.pop("rope_type")
    found = {"kind": kind, "base": config.get(names[0], BASES.get(family, 10_000.0)), "part": config.get(names[1])}
    found |= {
        key: scaling[key]
        for key in ("factor", "beta_fast", "low_freq_factor", "high_freq_factor", "short_factor", "long_factor")
        if key in scaling
    }
    if kind in ("yarn", "llama3"):
        found["original"] = scaling["original_max_position_embeddings"]
    if kind == "longrope":  # the ratio of these two goes before a factor
        found["original"] = config.get("original_max_position_embeddings", config["max_position_embeddings"])
        found["factor"] = config["max_position_embeddings"] / found["original"]
    if family == "gemma3_text":
        found["local"] = config.get("rope_local_base_freq", LOCALS[family])
    return found | {"dtype": config.get("torch_dtype")}


def by_new_rules(folder, family: str) -> dict:
    """The same of the installed transformers."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    layered = family in LAYERED
    rope = dict(config.rope_parameters["full_attention"] if layered else config.rope_parameters)
    found = {"kind": rope["rope_type"], "base": rope["rope_theta"], "part": rope.get("partial_rotary_factor")}
    found |= {
        key: rope[key]
        for key in ("factor", "beta_fast", "low_freq_factor", "high_freq_factor", "short_factor", "long_factor")
        if key in rope
    }
    if rope["rope_type"] in ("yarn", "llama3", "longrope"):
        found["original"] = rope["original_max_position_embeddings"]
    if rope["rope_type"] == "longrope":
        found.setdefault("factor", config.max_position_embeddings / found["original"])
    if family == "gemma3_text":
        found["local"] = config.rope_parameters["sliding_attention"]["rope_theta"]
    return found | {"dtype": str(config.dtype).removeprefix("torch.")}


def saved(folder, family: str, scaling: str, base: float = 500_000.0) -> dict:
    """config.json as transformers 5 saves it."""
    from transformers import CONFIG_MAPPING

    rope = SCALINGS[scaling] | {"rope_theta": base}
    beside = {"head_dim": 8} if family in ("gemma2", "gemma3_text", "qwen3", "cohere2", "seed_oss") else {}
    if family in LAYERED:
        rope = {"full_attention": rope, "sliding_attention": {"rope_type": "default", "rope_theta": LAYERED[family]}}
    if family == "phi3" and scaling == "longrope":
        beside["original_max_position_embeddings"] = 16
    CONFIG_MAPPING[family](rope_parameters=rope, dtype="float32", **SMALL, **beside).save_pretrained(folder)
    return json.loads((folder / "config.json").read_text())


def rewritten(folder, values: dict, dtype=BF16) -> dict:
    """Write values, then what this program makes of them in their place."""
    text = config_text(json.dumps(values).encode(), dtype, folder / "config.json")
    (folder / "config.json").write_text(text)
    assert config_text(text.encode(), dtype, folder / "config.json") == text
    return json.loads(text)


@pytest.mark.parametrize(("family", "scaling"), CASES)
def test_old_and_new_readers_find_the_same(tmp_path, family, scaling):
    before = saved(tmp_path, family, scaling)
    wanted = by_new_rules(tmp_path, family)
    written = rewritten(tmp_path, before)
    assert by_new_rules(tmp_path, family) == wanted | {"dtype": "bfloat16"}
    assert by_old_rules(written, family) == wanted | {"dtype": "bfloat16"}
    assert {key: written[key] for key in before if "rope" not in key and key != "dtype"} == {
        key: value for key, value in before.items() if "rope" not in key and key != "dtype"
    }  # all else is as it was
    if scaling not in ("default", "longrope") and family != "phi3" and "type" not in written["rope_scaling"]:
        assert written["rope_scaling"]["rope_theta"] == 500_000.0  # CTranslate2 looks nowhere else


FAMILIES = ("llama", "mistral", "qwen2", "gemma3_text", "gpt_neox", "phi3", "cohere")


@pytest.mark.parametrize("family, scaling", [(f, s) for f in FAMILIES for s in SCALINGS if s == "default" or s in TAKES.get(f, SCALINGS)])
@pytest.mark.parametrize("word", ["rope_type", "type"])
def test_configs_of_transformers_4_stay_readable(tmp_path, family, scaling, word):
    base, part = ("rotary_emb_base", "rotary_pct") if family == "gpt_neox" else ("rope_theta", "partial_rotary_factor")
    old = None if scaling == "default" else {word if k == "rope_type" else k: v for k, v in SCALINGS[scaling].items()}
    values = SMALL | {"model_type": family, base: 123_456.0, "rope_scaling": old, "torch_dtype": "float16"}
    values |= {part: 0.5} if family in ("gpt_neox", "phi3") and scaling == "default" else {}
    values |= {"rope_local_base_freq": 777.0, "head_dim": 8} if family == "gemma3_text" else {}
    values |= {"original_max_position_embeddings": 16} if family == "phi3" else {}
    (tmp_path / "config.json").write_text(json.dumps(values))
    wanted = by_new_rules(tmp_path, family) | {"dtype": "float32"}
    written = rewritten(tmp_path, values, FP32)
    assert wanted["base"] == 123_456.0 and by_new_rules(tmp_path, family) == wanted
    found = by_old_rules(written, family)
    assert found | {"part": wanted["part"]} == wanted and found["part"] in (wanted["part"], None)


DIFFERING = {
    "base": {"rope_theta": 10_000.0, "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}},
    "base, old scaling": {"rope_theta": 7_000.0, "rope_scaling": SCALINGS["linear"], "rope_parameters": SCALINGS["llama3"] | {"rope_theta": 9_000.0}},
    "base in old scaling": {"rope_theta": 7_000.0, "rope_scaling": SCALINGS["linear"] | {"rope_theta": 8_000.0}, "rope_parameters": {"rope_theta": 9_000.0}},
    "empty old scaling": {"rope_theta": 7_000.0, "rope_scaling": {}, "rope_parameters": SCALINGS["yarn"] | {"rope_theta": 9_000.0}},
    "no base in the new": {"rope_theta": 7_000.0, "rope_scaling": None, "rope_parameters": SCALINGS["dynamic"]},
    "both types": {"rope_theta": 7_000.0, "rope_scaling": {"type": "linear", "rope_type": "dynamic", "factor": 2.0}},
    "no length": {"rope_theta": 7_000.0, "rope_scaling": {k: v for k, v in SCALINGS["llama3"].items() if not k.startswith("original")}},
    "dtype": {"rope_theta": 7_000.0, "dtype": "float32", "torch_dtype": "float16"},
    "nothing": {},
}  # fmt: skip


@pytest.mark.parametrize("case", DIFFERING)
def test_where_old_and_new_differ_what_transformers_5_reads_holds_for_all(tmp_path, case):
    values = SMALL | {"model_type": "llama"} | DIFFERING[case]
    (tmp_path / "config.json").write_text(json.dumps(values))
    wanted = by_new_rules(tmp_path, "llama") | {"dtype": "bfloat16"}
    written = rewritten(tmp_path, values)
    assert by_new_rules(tmp_path, "llama") == wanted == by_old_rules(written, "llama")


def test_a_factor_that_is_not_the_ratio_of_lengths_keeps_its_attention_factor(tmp_path):
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    values = saved(tmp_path, "llama", "longrope")
    values["rope_parameters"]["factor"] = 32.0
    (tmp_path / "config.json").write_text(json.dumps(values))
    frequencies, factor = ROPE_INIT_FUNCTIONS["longrope"](AutoConfig.from_pretrained(tmp_path), "cpu", 40)
    scaling = rewritten(tmp_path, values)["rope_scaling"]
    again, same = ROPE_INIT_FUNCTIONS["longrope"](AutoConfig.from_pretrained(tmp_path), "cpu", 40)
    assert scaling["attention_factor"] == factor == same and (again == frequencies).all()


def test_the_pattern_of_windows_is_said_as_before_layer_types(tmp_path):
    written = rewritten(tmp_path, saved(tmp_path, "gemma3_text", "default") | {"layer_types": ["sliding_attention", "full_attention"] * 3})
    assert written["sliding_window_pattern"] == 2
    odd = written | {"layer_types": ["full_attention", "sliding_attention"] * 3}
    del odd["sliding_window_pattern"]
    assert "sliding_window_pattern" not in rewritten(tmp_path, odd)


def test_nested_configs_and_families_without_rope_are_seen(tmp_path):
    inner = {
        "model_type": "gemma3_text",
        "dtype": "float32",
        "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5.0}},
    }
    written = rewritten(tmp_path, {"model_type": "gemma3", "text_config": inner})["text_config"]
    assert (written["rope_theta"], written["rope_local_base_freq"], written["rope_scaling"]["factor"]) == (5.0, 10_000.0, 8.0)
    assert written["dtype"] == written["torch_dtype"] == "bfloat16"
    assert rewritten(tmp_path, {"model_type": "gpt2"}) == {"model_type": "gpt2", "dtype": "bfloat16", "torch_dtype": "bfloat16"}


def test_a_base_left_to_a_default_that_has_changed_is_said(tmp_path):
    from transformers import AutoConfig

    for family in ("cohere", "falcon_h1", "persimmon", "olmo3"):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
        rope = AutoConfig.from_pretrained(tmp_path).rope_parameters
        assert rewritten(tmp_path, {"model_type": family})["rope_theta"] == rope.get("full_attention", rope)["rope_theta"]


TOKENIZERS = {
    "a list": ({"extra_special_tokens": ["<a>", "<b>"]}, {"additional_special_tokens": ["<a>", "<b>"]}),
    "an empty list": ({"extra_special_tokens": []}, {}),
    "names": ({"extra_special_tokens": {"image_token": "<a>"}}, {"extra_special_tokens": {"image_token": "<a>"}}),
    "both": (
        {"extra_special_tokens": ["<a>"], "model_specific_special_tokens": {"image_token": "<b>"}},
        {"additional_special_tokens": ["<a>"], "model_specific_special_tokens": {"image_token": "<b>"}, "extra_special_tokens": {"image_token": "<b>"}},
    ),
    "the new before the old": ({"extra_special_tokens": ["<a>"], "additional_special_tokens": ["<b>"]}, {"additional_special_tokens": ["<a>"]}),
    "the old alone": ({"additional_special_tokens": ["<b>"], "extra_special_tokens": []}, {"additional_special_tokens": ["<b>"]}),
    "the class": ({"tokenizer_class": "TokenizersBackend", "backend": "tokenizers"}, {"tokenizer_class": "PreTrainedTokenizerFast"}),
    "another class": ({"tokenizer_class": "GPT2Tokenizer"}, {"tokenizer_class": "GPT2Tokenizer"}),
    "how it was read": ({"is_local": True, "local_files_only": False, "bos_token": "<s>"}, {"bos_token": "<s>"}),
}  # fmt: skip


@pytest.mark.parametrize("case", TOKENIZERS)
def test_a_tokenizer_config_names_tokens_and_class_as_both_know_them(tmp_path, case):
    from transformers import AutoTokenizer

    given, wanted = TOKENIZERS[case]
    found = old_tokenizer(given)
    assert found == wanted and old_tokenizer(found) == found
    tiny.write_tokenizer(tmp_path)
    read = []
    for values in (given, found):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "TokenizersBackend"} | values))
        tokenizer = AutoTokenizer.from_pretrained(tmp_path)
        read.append((type(tokenizer), tokenizer.all_special_tokens, tokenizer.extra_special_tokens, tokenizer("<a> a<b>").input_ids))
    assert read[0] == read[1]


def test_a_chat_template_stands_where_all_readers_look(tmp_path):
    tiny.save_tiny(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "an older one", "bos_token": "<s>"}')
    assert json.loads(companion_files(tmp_path, {}, FP32)["tokenizer_config.json"])["chat_template"] == "an older one"
    (tmp_path / "chat_template.jinja").write_bytes("{{ 'é' }}\r\nend".encode())
    files = companion_files(tmp_path, {}, FP32)
    assert json.loads(files["tokenizer_config.json"])["chat_template"] == "{{ 'é' }}\nend"
    assert files["chat_template.jinja"] == (tmp_path / "chat_template.jinja").read_bytes()


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff"])
def test_a_file_that_is_no_json_object_is_named(tmp_path, name, content):
    tiny.save_tiny(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=f"{name}: not a JSON object .*; fetch it again"):
        companion_files(tmp_path, {}, FP32)


@pytest.mark.slow
def test_it_needs_no_torch():
    code = "import sys; import train.model_files.companions; assert not {'torch', 'transformers'} & set(sys.modules)"
    processes.run([sys.executable, "-c", code], check=True)
