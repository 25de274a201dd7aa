"""What is kept for the backward pass and what is computed again: counted operation by operation."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.made import tiny
from tests.train.model.test_attention import packed_model
from train.model import kernels
from train.model.activations import Kept, kept, product_elements
from train.model.causal_lm import decoder_layers

LAYERS = 4


class Counted(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self):
        super().__init__()
        self.seen: Counter = Counter()

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.seen[op._schema.name] += 1
        return op(*args, **(kwargs or {}))


def one_pass(**recipe) -> tuple[Counter, dict[str, torch.Tensor]]:
    """Operations of a forward and backward, and the gradients."""
    model = packed_model(tiny.tiny_model(num_hidden_layers=LAYERS), **recipe)
    batch = tiny.pack_by_hand(tiny.random_documents(np.random.default_rng(2), [30, 20, 9]), 64)
    with Counted() as counted:
        model(batch)[0].backward()
    return counted.seen, {n: p.grad for n, p in model.named_parameters()}


def test_selective_layers_compute_no_product_and_no_attention_again_but_all_that_is_cheap():
    (none, grads), (full, _), (selective, found) = (one_pass(activation_checkpointing=kind) for kind in ("none", "full", "selective"))
    products = LAYERS * 7  # q, k, v, o, gate, up, down
    for seen in (none, full, selective):  # whose products they are depends on the processor
        seen["products"] = seen["aten::mm"] + seen["astrollama::product"]
    assert full["products"] >= none["products"] + products - LAYERS, "the last product of a layer is not needed again"
    assert full["astrollama::by_document"] == 2 * LAYERS and none["astrollama::by_document"] == LAYERS
    assert selective["products"] == none["products"] and selective["astrollama::by_document"] == LAYERS
    assert selective["aten::silu"] == full["aten::silu"] == 2 * none["aten::silu"] > 0
    assert selective["aten::rsqrt"] > none["aten::rsqrt"] > 0
    assert all(torch.equal(found[name], grad) for name, grad in grads.items())


@pytest.mark.parametrize("budget_layers, products", [(0, 0), (0.99, 0), (1, 1), (2.5, 2), (4, 4), (99, 4)])
def test_as_many_layers_are_selective_as_the_budget_has_room_for(budget_layers, products):
    assert kept("selective", 4, budget=budget_layers * 1000, layer_bytes=1000) == Kept(0, products, 4 - products)


def test_the_layers_of_a_model_are_set_as_counted():
    config = tiny.tiny_config(num_hidden_layers=LAYERS)
    tokens = 0  # as `build` is called in tests: a budget of zero elements has room for all
    assert product_elements(config.hidden_size, config.intermediate_size, 24) * (tokens + 1) == 4 * 48 + 2 * 24 + 2 * 96
    for wanted, expected in (
        ("none", Kept(4, 0, 0)),
        ("every_other", Kept(2, 0, 2)),
        ("full", Kept(0, 0, 4)),
        ("selective", Kept(0, 4, 0)),
    ):
        assert kept(wanted, LAYERS) == expected and expected.layers == LAYERS
        layers = decoder_layers(packed_model(tiny.tiny_model(num_hidden_layers=LAYERS), activation_checkpointing=wanted).hf)
        assert sum(layer.gradient_checkpointing for layer in layers) == expected.products + expected.input
    assert kept("every_other", 5) == Kept(2, 0, 3)
    assert Kept(0, 0, 4).more_work(layer=25, computed=100) == pytest.approx(1 / 3) and Kept(0, 4, 0).more_work(25, 100) == 0


def test_liger_turns_queries_and_keys_in_place_only_where_none_are_kept(monkeypatch):
    import sys
    import types

    asked, model = [], tiny.tiny_model(num_hidden_layers=1)
    module = types.ModuleType("liger_kernel.transformers")
    module._apply_liger_kernel_to_instance = lambda hf, **settings: asked.append(settings)
    monkeypatch.setitem(sys.modules, "liger_kernel", types.ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", module)
    monkeypatch.setattr(kernels, "available", lambda: True)
    assert "RMSNorm, RoPE, SwiGLU" in kernels.apply(model) and asked[-1]["rope"] is True
    assert "RoPE" not in kernels.apply(model, selective=True) and asked[-1]["rope"] is False and asked[-1]["swiglu"] is True
    assert "the layers are compiled" in kernels.apply(model, compiled=True) and len(asked) == 2


def test_what_is_computed_again_chooses_the_same_rotation(monkeypatch):
    from transformers.models.llama import modeling_llama

    from train.model import recompute

    met, own = [], modeling_llama.apply_rotary_pos_emb
    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", lambda *args: met.append(kernels._turning.get()) or own(*args))
    model = tiny.tiny_model(num_hidden_layers=2).train()
    kernels.turn_fused(model.model.layers)
    for layer in model.model.layers:
        layer.gradient_checkpointing, layer._gradient_checkpointing_func = True, recompute.whole_layer
    model(torch.arange(9)[None], use_cache=False).logits.sum().backward()
    assert met == [True] * 4 and not kernels._turning.get()
