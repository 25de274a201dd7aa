"""Every architecture is computed as transformers computes each document alone, or refused in one message before it is loaded."""

import numpy as np
import pytest
import torch

from tests.made import tiny
from tests.made.ranks import run_ranks
from train.model.causal_lm import build, config_of, parameters_by_name
from train.model.support import require_supported
from train.model_files.folder import ModelError, read_folder
from train.recipe.vocabulary import Model

LENGTHS = [9, 1, 23, 2, 17]
SIZES = {
    "vocab_size": tiny.VOCAB, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": False,
}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
EQUAL = {
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, llama3 rope": ("llama", {"rope_parameters": LLAMA3 | {"original_max_position_embeddings": 32}}),
    "llama, yarn rope": ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral, window": ("mistral", {"sliding_window": 5}),
    "qwen2": ("qwen2", {}),
    "qwen2, window": ("qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "olmo2": ("olmo2", {}),
    "olmo3, window": ("olmo3", {"sliding_window": 5}),
    "phi3": ("phi3", {"sliding_window": None, "original_max_position_embeddings": 256}),
    "phi3, window": ("phi3", {"sliding_window": 7, "original_max_position_embeddings": 256}),
    "granite": ("granite", {"attention_multiplier": 0.2, "residual_multiplier": 0.7, "embedding_multiplier": 3.0}),
    "smollm3": ("smollm3", {}),
    "gemma": ("gemma", {"head_dim": 12}),
    "gemma2, no caps": ("gemma2", {"head_dim": 12, "sliding_window": 5, "final_logit_softcapping": None, "attn_logit_softcapping": None}),
    "gemma3, window": ("gemma3_text", {"head_dim": 12, "sliding_window": 5}),
    "seed_oss": ("seed_oss", {"head_dim": 12, "attention_dropout": 0.0, "residual_dropout": 0.0}),
    "starcoder2": ("starcoder2", {}),
}  # fmt: skip
REFUSED = {
    "gemma2": ("gemma2", {"head_dim": 12}, "final_logit_softcapping"),
    "gemma2, attention caps": ("gemma2", {"head_dim": 12, "final_logit_softcapping": None}, "softcap"),
    "granite, scaled logits": ("granite", {"logits_scaling": 8.0}, "logits_scaling"),
    "cohere": ("cohere", {}, "logit_scale"),
    "stablelm": ("stablelm", {"num_key_value_heads": 4, "partial_rotary_factor": 0.5}, "without cu_seqlens"),
    "gpt_neox": ("gpt_neox", {}, "its files name tensors otherwise"),
    "mixtral": ("mixtral", {"num_local_experts": 4}, "parameters of its own"),
    "gpt_oss": ("gpt_oss", {"num_local_experts": 4, "head_dim": 16}, "parameters of its own"),
    "qwen3_moe": ("qwen3_moe", {"num_experts": 4}, "parameters of its own"),
    "mamba": ("mamba", {}, "MambaMixer with parameters of its own"),
    "gpt2": ("gpt2", {}, "Conv1D with parameters of its own"),
    "falcon": ("falcon", {}, "makes no module tree"),
    "opt": ("opt", {}, "in 0 layers"),
    "dynamic rope": ("llama", {"max_position_embeddings": 32, "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}}, "rows of at most 32"),
}  # fmt: skip


def config_for(kind: str, changes: dict):
    from transformers import AutoConfig

    return AutoConfig.for_model(kind, **(SIZES | changes))


@pytest.mark.parametrize("name", EQUAL)
def test_packed_documents_are_computed_as_transformers_computes_each_alone(name, tmp_path):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    reference = AutoModelForCausalLM.from_config(config_for(*EQUAL[name]), attn_implementation="eager").float().eval()
    with torch.no_grad():
        for p in reference.parameters():
            p.normal_(0, 0.12) if p.ndim > 1 else p.add_(torch.randn_like(p) * 0.1)
    reference.save_pretrained(tmp_path)
    config = config_of(tmp_path)
    require_supported(config, 64, name)
    model, _ = build(config, Model(path="x", dtype="fp32"), torch.device("cpu"), 1)
    assert set(parameters_by_name(model)) == set(read_folder(tmp_path)), "each parameter has its files' name"
    model.hf.load_state_dict(reference.state_dict(), assign=True)
    model.hf.tie_weights()
    documents = tiny.random_documents(np.random.default_rng(3), LENGTHS)
    with torch.no_grad():
        ours, at = model.logits(tiny.pack_by_hand(documents, 56)), 0
        for d in documents:
            theirs = reference(input_ids=torch.tensor(d)[None], use_cache=False).logits[0]
            assert (ours[at : at + len(d)] - theirs).abs().max() <= 2e-6 * theirs.abs().max().clamp(min=1)
            at += len(d)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_computed_here_is_refused_in_one_line_that_names_it(name, tmp_path):
    kind, changes, why = REFUSED[name]
    config_for(kind, changes).save_pretrained(tmp_path)
    with pytest.raises(ModelError) as error:
        require_supported(config_of(tmp_path), 64, str(tmp_path))
    assert why in str(error.value) and str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_a_rope_that_moves_with_the_text_is_taken_where_no_row_is_long_enough_to_move_it():
    changes = REFUSED["dynamic rope"][1]
    require_supported(config_for("llama", changes), 32, "x")


def test_a_large_model_is_probed_without_its_memory():
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    config = config_for(
        "llama", {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 8, "num_attention_heads": 64, "vocab_size": 32000}
    )
    require_supported(config, 4096, "x")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500 << 10, "8 layers of 70B are 28 GB"


def test_a_window_means_the_same_to_every_backend(monkeypatch):
    """Against a mask written out: a token attends to itself and the window - 1 before it in its document."""
    from train.model import attention

    torch.manual_seed(1)
    q, k, v = torch.randn(30, 4, 8), torch.randn(30, 2, 8), torch.randn(30, 2, 8)
    cu = torch.tensor([0, 11, 30], dtype=torch.int32)
    place, document = torch.arange(30), torch.bucketize(torch.arange(30), cu[1:].long(), right=True)
    distance = place[:, None] - place[None]
    for window in (1, 2, 7, 11, 18, 19, 100):
        allowed = (document[:, None] == document[None]) & (distance >= 0) & (distance < window)
        scores = torch.einsum("qhd,khd->hqk", q, k.repeat_interleave(2, 1)) * 8**-0.5
        wanted = torch.einsum("hqk,khd->qhd", scores.masked_fill(~allowed, float("-inf")).softmax(-1), v.repeat_interleave(2, 1))
        assert torch.allclose(attention.varlen_attention(q, k, v, cu, 19, backend="sdpa", window=window), wanted, atol=1e-6)


@pytest.mark.parametrize("window, asked", [(None, None), (7, (6, 0)), (1, (0, 0)), (19, None), (100, None)])
def test_the_kernels_are_asked_for_the_same_window(monkeypatch, window, asked):
    import sys
    import types

    from torch.nn.attention import varlen

    from train.model import attention

    seen = []
    flash = types.ModuleType("flash_attn")
    flash.flash_attn_varlen_func = lambda q, *_, window_size=None, **__: seen.append(window_size) or q
    monkeypatch.setitem(sys.modules, "flash_attn", flash)
    monkeypatch.setattr(varlen, "varlen_attn", lambda q, *_, window_size, **__: seen.append(window_size) or q)
    q, cu = torch.randn(30, 4, 8), torch.tensor([0, 11, 30], dtype=torch.int32)
    for backend in ("flash", "torch_varlen"):
        attention.varlen_attention(q, q, q, cu, 19, backend=backend, window=window)
    assert seen == [asked, asked or (-1, 0)]


def refused_run(world, recipe: str) -> str:
    from train.recipe.load import load
    from train.run.loop import run

    with pytest.raises(ModelError) as error:
        run(load(recipe), world)
    return str(error.value)


@pytest.mark.slow
def test_a_run_and_a_dry_run_refuse_before_anything_is_measured_or_loaded(tmp_path, capfd):
    from launch.pretrain import main

    ground = tiny.ground(tmp_path)
    config_for("stablelm", REFUSED["stablelm"][1] | {"vocab_size": tiny.VOCAB}).save_pretrained(ground / "model")
    capfd.readouterr()
    assert main([str(ground / "recipe.yaml"), "--dry-run"]) == 1
    said = [capfd.readouterr().err.strip(), *run_ranks(refused_run, 1, str(ground / "recipe.yaml"))]
    for one in said:
        assert "stablelm: its attention is called without cu_seqlens" in one and "\n" not in one, one
    assert "memory" not in capfd.readouterr().err and not (ground / "runs" / "tiny").exists()
