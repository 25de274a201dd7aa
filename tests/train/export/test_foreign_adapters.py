"""Adapters as peft and the programs around it leave them: each becomes the model that peft computes, or is refused in one message."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.made import adapters, tiny
from train.evaluation.loaded import check_folder, load
from train.export.exporter import export
from train.export.plan import Request
from train.model_files.adapter import AdapterError
from train.model_files.dtypes import OF_RECIPE
from train.model_files.folder import ModelError

peft = pytest.importorskip("peft", reason="peft is not installed: adapters that it writes are not compared with ours")

IDS = list(range(5, 45))
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def made_by_peft(base: Path, folder: Path, name: str = "default", grown: int = 0, **settings) -> torch.nn.Module:
    """A peft model over a base whose trained parts are random, saved as its users save it."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if grown:
        plain.resize_token_embeddings(tiny.VOCAB + grown)
    model = peft.get_peft_model(plain, peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=6, **settings), adapter_name=name)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.requires_grad or "lora_" in key:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return model.eval()


def ours(folder: Path, base: Path, out: Path) -> torch.Tensor:
    """Logits of what export_hf.py --merge-adapter makes; those of what chat.py and evaluate.py hold are looked at beside."""
    merged = ours_exported(folder, base, out)
    if (folder / "adapter_model.safetensors").is_file():
        check_folder(folder)
        held, _ = load(folder, "fp32", torch.device("cpu"))
        beside = adapters.logits(held, IDS)
        dora = "magnitude" in str(
            list(load_file(folder / "adapter_model.safetensors"))
        )  # whose lengths numpy and torch sum in another order
        assert torch.equal(beside, merged) or dora and (beside - merged).abs().max() <= 1e-5 * merged.abs().max()
    return merged


def ours_exported(folder: Path, base: Path, out: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    export(Request(checkpoint=folder, out=out, dtype=OF_RECIPE["fp32"], merge_adapter=True, base=base))
    return adapters.logits(AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval(), IDS)


def base_at(folder: Path, tied: bool = False) -> Path:
    tiny.save_tiny(folder, tie_word_embeddings=tied)
    return folder


TAKEN = {
    "all-linear": {"target_modules": "all-linear"},
    "a pattern": {"target_modules": r".*layers\.[01]\.(self_attn|mlp)\.(q_proj|up_proj)"},
    "some layers": {"target_modules": LINEARS, "layers_to_transform": [1], "layers_pattern": "layers"},
    "excluded": {"target_modules": "all-linear", "exclude_modules": ["down_proj"]},
    "rslora": {"target_modules": LINEARS, "use_rslora": True},
    "ranks and alphas": {
        "target_modules": LINEARS, "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 8}, "alpha_pattern": {"^model.layers.0.mlp.down_proj": 3}
    },
    "whole head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "whole embeddings and head": {"target_modules": "all-linear", "modules_to_save": ["embed_tokens", "lm_head"]},
    "whole norms": {"target_modules": LINEARS, "modules_to_save": ["norm", "input_layernorm"]},
    "at the embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "at the head": {"target_modules": ["q_proj", "lm_head"]},
    "dora": {"target_modules": LINEARS, "use_dora": True},
    "dora, rslora, head": {"target_modules": ["v_proj", "down_proj"], "use_dora": True, "use_rslora": True, "modules_to_save": ["lm_head"]},
    "biases, of which a Llama has none": {"target_modules": LINEARS, "bias": "all"},
    "gaussian": {"target_modules": LINEARS, "init_lora_weights": "gaussian"},
    "dropout": {"target_modules": LINEARS, "lora_dropout": 0.1},
    "fan_in_fan_out": {"target_modules": LINEARS, "fan_in_fan_out": True},
}  # fmt: skip


@pytest.mark.parametrize("settings", TAKEN.values(), ids=TAKEN)
def test_an_adapter_of_peft_becomes_the_model_that_peft_computes(settings, tmp_path):
    base = base_at(tmp_path / "base")
    model = made_by_peft(base, tmp_path / "adapter", **settings)
    theirs, got = adapters.logits(model, IDS), ours(tmp_path / "adapter", base, tmp_path / "out")
    assert (theirs - got).abs().max() <= 1e-5 * theirs.abs().max()
    assert (got - adapters.logits(tiny.tiny_model(), IDS)).abs().max() > 1e-2
    merged = adapters.logits(model.merge_and_unload(), IDS)
    assert (merged - got).abs().max() <= 1e-5 * merged.abs().max()


TIED = {
    "layers alone": ({"target_modules": "all-linear"}, ""),
    "both, tied": ({"target_modules": "all-linear", "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, ""),
    "one of two": ({"target_modules": "all-linear", "modules_to_save": ["embed_tokens"]}, "which the base ties to it"),
    "both, apart": ({"target_modules": "all-linear", "modules_to_save": ["embed_tokens", "lm_head"]}, "two different tensors|ties to it"),
    "at the head": ({"target_modules": ["q_proj", "lm_head"]}, "which the base ties to it"),
}


@pytest.mark.parametrize("settings, told", TIED.values(), ids=TIED)
def test_of_a_base_whose_head_is_its_embedding_both_are_one_or_it_is_refused(settings, told, tmp_path):
    base = base_at(tmp_path / "base", tied=True)
    model = made_by_peft(base, tmp_path / "adapter", **settings)
    if told:
        with pytest.raises(ModelError, match=told):
            ours(tmp_path / "adapter", base, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    else:
        theirs, got = adapters.logits(model, IDS), ours(tmp_path / "adapter", base, tmp_path / "out")
        assert (theirs - got).abs().max() <= 1e-5 * theirs.abs().max()


REFUSED = {
    "dora at the embedding": ({"target_modules": ["q_proj", "embed_tokens"], "use_dora": True}, "DoRA at an embedding"),
    "bias of B": ({"target_modules": LINEARS, "lora_bias": True}, "lora_bias=True: not computed here"),
    "pissa": ({"target_modules": LINEARS, "init_lora_weights": "pissa"}, "init_lora_weights=pissa"),
    "single tokens": ({"target_modules": LINEARS, "trainable_token_indices": [7, 8]}, "trainable_token_indices"),
    "a larger vocabulary": (
        {"target_modules": "all-linear", "modules_to_save": ["embed_tokens", "lm_head"], "grown": 8}, r"328 rows, the base has 320: its vocabulary was changed; resize the base first .*resize_token_embeddings.328"
    ),
}  # fmt: skip


@pytest.mark.parametrize("settings, told", REFUSED.values(), ids=REFUSED)
def test_what_is_not_computed_here_is_refused_by_name(settings, told, tmp_path):
    base = base_at(tmp_path / "base")
    made_by_peft(base, tmp_path / "adapter", **settings)
    with pytest.raises(AdapterError, match=told) as error:
        ours(tmp_path / "adapter", base, tmp_path / "out")
    assert not (tmp_path / "out").exists() and str(tmp_path / "adapter") in str(error.value)


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_biases_that_were_trained_are_merged_or_missed(bias, tmp_path):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    Qwen2ForCausalLM(Qwen2Config(vocab_size=tiny.VOCAB, tie_word_embeddings=False, **sizes)).save_pretrained(tmp_path / "base")
    tiny.write_tokenizer(tmp_path / "base")
    model = made_by_peft(tmp_path / "base", tmp_path / "adapter", target_modules=["q_proj", "v_proj"], bias=bias)
    theirs, got = adapters.logits(model, IDS), ours(tmp_path / "adapter", tmp_path / "base", tmp_path / "out")
    assert (theirs - got).abs().max() <= 1e-5 * theirs.abs().max()
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({n: t for n, t in load_file(file).items() if "bias" not in n}, file)  # as some versions of peft left it
    with pytest.raises(AdapterError, match=f"bias={bias}: biases were trained beside it, and none was saved"):
        ours(tmp_path / "adapter", tmp_path / "base", tmp_path / "no")


def test_an_adapter_with_more_words_is_merged_into_a_base_that_was_resized_as_its_refusal_says(tmp_path):
    from transformers import AutoModelForCausalLM

    base = base_at(tmp_path / "base")
    model = made_by_peft(base, tmp_path / "adapter", target_modules="all-linear", modules_to_save=["embed_tokens", "lm_head"], grown=8)
    resized = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    resized.resize_token_embeddings(tiny.VOCAB + 8)
    resized.save_pretrained(tmp_path / "resized")
    tiny.write_tokenizer(tmp_path / "resized")
    theirs, got = adapters.logits(model, IDS), ours_exported(tmp_path / "adapter", tmp_path / "resized", tmp_path / "out")
    assert got.shape[1] == tiny.VOCAB + 8 and (theirs - got).abs().max() <= 1e-5 * theirs.abs().max()


def as_bf16(folder: Path, model: torch.nn.Module) -> None:
    file = folder / "adapter_model.safetensors"
    save_file({n: t.bfloat16() for n, t in load_file(file).items()}, file)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.copy_(parameter.bfloat16().float())


def as_torch_file(folder: Path, model: torch.nn.Module) -> None:
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()


def with_its_name(folder: Path, model: torch.nn.Module) -> None:
    """peft's own state dict, as scripts that call torch.save or save_file on it leave it."""
    own = {n: t.clone() for n, t in model.state_dict().items() if "lora_" in n or "modules_to_save" in n or "original_module" in n}
    assert any(".lora_A.default.weight" in n for n in own) and any(".original_module." in n for n in own)
    save_file(own, folder / "adapter_model.safetensors")


def compiled(folder: Path, model: torch.nn.Module) -> None:
    file = folder / "adapter_model.safetensors"
    save_file({n.replace("base_model.model.", "_orig_mod.base_model.model._orig_mod."): t for n, t in load_file(file).items()}, file)


def without_prefix(folder: Path, model: torch.nn.Module) -> None:
    file = folder / "adapter_model.safetensors"
    save_file({n.removeprefix("base_model.model."): t for n, t in load_file(file).items()}, file)


def beside_a_trainers_files(folder: Path, model: torch.nn.Module) -> None:
    torch.save({"step": 7}, folder / "optimizer.pt")
    torch.save([1, 2], folder / "rng_state_0.pth")
    (folder / "global_step7").mkdir()
    torch.save({}, folder / "global_step7" / "mp_rank_00_model_states.pt")
    (folder / "latest").write_text("global_step7")


def of_a_hub_name(folder: Path, model: torch.nn.Module) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "nobody/no-such-model-7b"}))


WAYS = [as_bf16, as_torch_file, with_its_name, compiled, without_prefix, beside_a_trainers_files, of_a_hub_name]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_however_its_folder_was_written_it_is_the_same_model(way: Callable, tmp_path):
    base = base_at(tmp_path / "base")
    model = made_by_peft(base, tmp_path / "adapter", target_modules="all-linear", modules_to_save=["lm_head"])
    way(tmp_path / "adapter", model)
    if way is of_a_hub_name:
        with pytest.raises(AdapterError, match="its base nobody/no-such-model-7b is not here"):
            check_folder(tmp_path / "adapter")
        export(Request(checkpoint=tmp_path / "adapter", out=tmp_path / "out", dtype=OF_RECIPE["fp32"], merge_adapter=True, base=base))
        return
    theirs, got = adapters.logits(model, IDS), ours(tmp_path / "adapter", base, tmp_path / "out")
    assert (theirs - got).abs().max() <= 1e-5 * theirs.abs().max()


def test_an_adapter_with_a_name_of_its_own_is_found_one_folder_down(tmp_path):
    base = base_at(tmp_path / "base")
    model = made_by_peft(base, tmp_path / "adapter", name="astro", target_modules="all-linear")
    theirs, got = adapters.logits(model, IDS), ours(tmp_path / "adapter" / "astro", base, tmp_path / "out")
    assert (theirs - got).abs().max() <= 1e-5 * theirs.abs().max()
    for call in (
        lambda: export(
            Request(checkpoint=tmp_path / "adapter", out=tmp_path / "no", dtype=OF_RECIPE["fp32"], merge_adapter=True, base=base)
        ),
        lambda: check_folder(tmp_path / "adapter"),
    ):
        with pytest.raises(ValueError, match="adapter/astro"):
            call()
