"""Liger's kernels are one model's: whatever else this process makes of transformers' classes is as before."""

import logging

import pytest
import torch

from tests.made import tiny
from train.model import kernels
from train.model.support import require_supported

pytest.importorskip("liger_kernel", reason="liger-kernel is not installed")


def variants() -> dict[str, torch.nn.Module]:
    from transformers import AutoConfig, AutoModelForCausalLM

    small = dict(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        pad_token_id=0,
    )  # fmt: skip
    kinds = ("llama", "mistral", "qwen2", "qwen3", "olmo2", "phi3", "granite", "smollm3", "gemma3_text")
    return {kind: AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **small)) for kind in kinds}


def test_no_other_model_of_the_process_is_touched():
    ids = torch.arange(12)[None] % 60
    for kind, model in variants().items():
        again = type(model)(model.config)
        again.load_state_dict(model.state_dict())
        module = __import__(type(model).__module__, fromlist=["own"])
        own = dict(vars(module))
        expected = again(ids).logits
        for _ in range(2):
            assert "RMSNorm, RoPE, SwiGLU" in kernels.apply(model)
        changed = {name for name, value in vars(module).items() if value is not own.get(name)}
        assert changed <= {"apply_rotary_pos_emb"}, (kind, changed)
        assert module.apply_rotary_pos_emb.not_fused is getattr(own["apply_rotary_pos_emb"], "not_fused", own["apply_rotary_pos_emb"])
        fresh = type(model)(model.config)
        fresh.load_state_dict(model.state_dict())
        assert torch.equal(again(ids).logits, expected) and torch.equal(fresh(ids).logits, expected), kind
        assert "Liger" not in str(fresh) and "Liger" in str(model), kind
        require_supported(model.config, 64, kind)


def test_ligers_rotation_is_for_the_layers_that_asked_and_for_no_fake_tensor(monkeypatch):
    from transformers.models.llama import modeling_llama

    asked, selective = (tiny.tiny_model(num_hidden_layers=1) for _ in range(2))
    kernels.apply(asked)
    kernels.apply(selective, selective=True)
    met = []
    rotated = modeling_llama.apply_rotary_pos_emb

    def noted(*args):
        met.append(kernels._turning.get())
        return rotated.not_fused(*args)

    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", noted)
    monkeypatch.setattr(modeling_llama.LlamaRMSNorm, "forward", lambda self, x: x)
    for model in (asked, selective):
        for module in model.modules():
            if "RMSNorm" in type(module).__name__ or "MLP" in type(module).__name__:
                module.forward = lambda x: x  # liger's run on a GPU alone
        model(torch.arange(4)[None])
    assert met == [True, False] and not kernels._turning.get()


def test_liger_does_not_speak_of_other_makers_kernels():
    kernels.apply(tiny.tiny_model(num_hidden_layers=1))
    log = logging.getLogger("liger_kernel.backends.registry")
    assert not log.isEnabledFor(logging.WARNING) and log.isEnabledFor(logging.ERROR)
