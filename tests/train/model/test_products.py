"""Products of fp32 matrices on a CPU: oneDNN's equal torch's own, and who computes follows from the processor alone."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.made import tiny
from tests.train.model.test_attention import packed_model
from train.model import loss, products

pytestmark = pytest.mark.skipif(products._op() is None, reason="this torch has no oneDNN")


def near(found: torch.Tensor, exact: torch.Tensor) -> bool:
    return float((found.detach().double() - exact.detach()).abs().max()) <= 2e-6 * max(1.0, float(exact.detach().abs().max()))


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (130, 48, 96), (64, 576, 1536)], ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_and_its_gradients_are_those_of_float64(shape, bias):
    tokens, ins, outs = shape
    generator = torch.Generator().manual_seed(tokens)
    layer = nn.Linear(ins, outs, bias=bias)
    x = torch.randn(2, tokens, ins, generator=generator).requires_grad_(True)
    pull = torch.randn(2, tokens, outs, generator=generator)
    exact, exact_x = nn.Linear(ins, outs, bias=bias).double(), x.detach().double().requires_grad_(True)
    exact.load_state_dict(layer.state_dict())
    layer.__class__ = products.Linear
    (out := layer(x)).backward(pull)
    (exact_out := exact(exact_x)).backward(pull.double())
    assert near(out, exact_out) and near(x.grad, exact_x.grad) and near(layer.weight.grad, exact.weight.grad)
    assert not bias or near(layer.bias.grad, exact.bias.grad)


def test_a_layer_that_is_frozen_or_first_has_only_the_gradients_it_is_asked_for():
    layer = products.Linear(8, 4)
    layer.weight.requires_grad_(False)
    x = torch.randn(3, 8, requires_grad=True)
    layer(x).sum().backward()
    assert layer.weight.grad is None and near(x.grad, layer.weight.double().sum(0).expand(3, 8))
    layer.weight.requires_grad_(True)
    layer(x.detach()).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize(
    "vendor, flags, expected",
    [
        ("AuthenticAMD", "sse2 avx2 avx512f avx512bw", True),
        ("AuthenticAMD", "sse2 avx2", False),
        ("GenuineIntel", "sse2 avx2 avx512f", False),
        ("HygonGenuine", "avx512f", True),
        (None, "fp asimd", False),
    ],
)
def test_the_processors_make_decides(vendor, flags, expected, tmp_path):
    made = tmp_path / "cpuinfo"
    made.write_text((f"vendor_id\t: {vendor}\n" if vendor else "CPU implementer\t: 0x41\n") + f"flags\t\t: {flags}\n")
    assert products.chosen(made) is expected
    assert products.chosen(tmp_path / "none") is False


@pytest.mark.parametrize("onednn", [False, True])
@pytest.mark.parametrize("ignored", [0.0, 0.4, 1.0])
def test_the_head_gives_the_losses_and_gradients_of_float64_also_where_tokens_have_no_target(onednn, ignored):
    rng = np.random.default_rng(7)
    tokens, width, vocabulary = 50, 24, 96
    labels = torch.tensor(np.where(rng.random(tokens) < ignored, -100, rng.integers(0, vocabulary, tokens)))
    hidden = torch.tensor(rng.normal(size=(tokens, width)), dtype=torch.float32, requires_grad=True)
    source = torch.tensor(rng.integers(0, 2, tokens).astype(np.int16))
    head = loss.LossHead(width, vocabulary, bias=False)
    head.loss_chunk, head.onednn = 16, onednn
    total, parts = head(hidden, labels, source, 2)
    total.backward()
    exact_hidden, exact_weight = (x.detach().double().requires_grad_(True) for x in (hidden, head.weight))
    losses = nn.functional.cross_entropy(exact_hidden @ exact_weight.t(), labels, ignore_index=-100, reduction="none")
    losses.sum().backward()
    assert near(total, losses.sum()) and near(hidden.grad, exact_hidden.grad) and near(head.weight.grad, exact_weight.grad)
    assert all(near(parts[k], losses[source == k].sum()) for k in range(2))


def test_both_ways_train_the_same_model(monkeypatch):
    reference = tiny.tiny_model()
    batch = tiny.pack_by_hand(tiny.random_documents(np.random.default_rng(3), [30, 20, 9]), 64)
    grads = []
    for onednn in (False, True):
        monkeypatch.setattr(products, "chosen", lambda onednn=onednn: onednn)
        model = packed_model(reference)
        assert any(isinstance(m, products.Linear) for m in model.modules()) is onednn
        total = model(batch)[0]
        total.backward()
        grads.append([total.detach(), *(p.grad for p in model.parameters())])
    assert all(near(b, a.double()) for a, b in zip(*grads, strict=True))
