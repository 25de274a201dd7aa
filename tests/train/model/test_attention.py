"""R3: packed equals separate, on every backend that runs here, and the wiring of flash-attn against a stand-in."""

import inspect
import sys
import types

import numpy as np
import pytest
import torch

from tests.made import tiny
from train.model import attention, by_document, loss
from train.model.causal_lm import PackedCausalLM, build, decoder_layers
from train.model_files.folder import ModelError
from train.recipe.vocabulary import Model

LENGTHS = [9, 1, 23, 2, 17]


def packed_model(reference, **recipe) -> PackedCausalLM:
    """Our model with the reference's weights, unsharded."""
    model, _ = build(
        reference.config.__class__(**reference.config.to_dict()), Model(path="x", dtype="fp32", **recipe), torch.device("cpu"), 1
    )
    model.hf.load_state_dict(reference.state_dict(), assign=True)
    model.hf.tie_weights()
    for p in model.parameters():
        p.requires_grad_(True)
    return model


@pytest.fixture
def stand_in_flash(monkeypatch):
    """A flash_attn whose varlen function is plain torch and records its arguments."""
    calls = []

    def flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, *, softmax_scale, causal):
        calls.append((q.shape, k.shape, cu_seqlens_q.clone(), cu_seqlens_k.clone(), max_seqlen_q, max_seqlen_k, softmax_scale, causal))
        document = torch.bucketize(torch.arange(q.shape[0]), cu_seqlens_q[1:].long(), right=True)
        allowed = (document[:, None] == document[None]) & torch.ones(q.shape[0], q.shape[0], dtype=torch.bool).tril()
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) * softmax_scale
        return torch.einsum("hqk,khd->qhd", scores.masked_fill(~allowed, float("-inf")).softmax(-1), v)

    module = types.ModuleType("flash_attn")
    module.flash_attn_varlen_func = flash_attn_varlen_func
    module.__spec__ = types.SimpleNamespace(name="flash_attn", origin="flash_attn/__init__.py")
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    return calls


@pytest.mark.parametrize("backend", ["sdpa", "flash"])
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("checkpointing", ["none", "full", "every_other"])
def test_packed_documents_equal_separate_ones_in_logits_and_gradients(backend, rows, checkpointing, stand_in_flash):
    rng = np.random.default_rng(3)
    documents = tiny.random_documents(rng, LENGTHS * rows)
    reference = tiny.tiny_model()
    model = packed_model(reference, attention=backend, activation_checkpointing=checkpointing)
    batch = tiny.pack_by_hand(documents, 56 * rows)
    ours = model.logits(batch)
    at = 0
    for d in documents:
        theirs = reference(input_ids=torch.tensor(d)[None], use_cache=False).logits[0]
        assert (ours[at : at + len(d)] - theirs).abs().max() <= 1e-6 * theirs.abs().max().clamp(min=1)
        at += len(d)
    total, count = tiny.reference_losses(reference, documents)
    total.backward()
    loss, per_source = model(batch)
    assert abs(loss.item() - total.item()) / count <= 1e-6
    assert per_source.tolist() == pytest.approx([loss.item()], rel=1e-6)
    loss.backward()
    wanted = {n: p.grad for n, p in reference.named_parameters()}
    for name, p in model.hf.named_parameters():
        scale = wanted[name].abs().max()
        assert (p.grad - wanted[name]).abs().max() <= 1e-5 * scale, name


@pytest.mark.parametrize("backend", ["sdpa", "flash"])
def test_changing_one_document_leaves_the_others_logits_unmoved(backend, stand_in_flash):
    rng = np.random.default_rng(4)
    a, b, c = tiny.random_documents(rng, [20, 15, 12])
    model = packed_model(tiny.tiny_model(), attention=backend)
    with torch.no_grad():
        before = model.logits(tiny.pack_by_hand([a, b, c], 50))
        other = (a + 7) % tiny.VOCAB
        after = model.logits(tiny.pack_by_hand([other, b, c], 50))
    assert torch.equal(before[20:47], after[20:47])
    assert (before[:20] - after[:20]).abs().max() > 1e-2


def test_flash_attn_gets_the_packed_rows_own_boundaries(stand_in_flash):
    documents = tiny.random_documents(np.random.default_rng(5), LENGTHS)
    model = packed_model(tiny.tiny_model(), attention="flash")
    batch = tiny.pack_by_hand(documents, 60)
    model.logits(batch)
    assert len(stand_in_flash) == 2, "one call a layer"
    for q, k, cu_q, cu_k, max_q, max_k, scale, causal in stand_in_flash:
        assert q == (60, 4, 12) and k == (60, 2, 12), "grouped heads go to the kernel as they are"
        assert cu_q.tolist() == cu_k.tolist() == [0, 9, 10, 33, 35, 52, 60]
        assert cu_q.dtype == torch.int32 and (max_q, max_k) == (23, 23)
        assert scale == pytest.approx(12**-0.5) and causal is True


# torch.nn.attention.varlen.varlen_attn of each release that setup.py admits, as its file has it
def of_torch_2_10(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None):
    assert q.shape[1] == k.shape[1] == v.shape[1], "it repeats no heads"
    assert (cu_seq_q is cu_seq_k) and max_q == max_k and is_causal is True and return_aux is None
    return attention.varlen_attention(q, k, v, cu_seq_q, max_q, backend="sdpa")


def of_torch_2_11(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1)):
    given = dict(return_aux=return_aux, scale=scale, window_size=window_size, enable_gqa=True)  # its kernel shares heads unasked
    return of_torch_2_12_and_2_13(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, **given)


def of_torch_2_12_and_2_13(
    q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1), enable_gqa=False, seqused_k=None,
    block_table=None, num_splits=None,
):  # fmt: skip
    assert (cu_seq_q is cu_seq_k) and max_q == max_k and return_aux is seqused_k is block_table is num_splits is None
    assert isinstance(window_size, tuple) and window_size[1] == 0, "causal: it compares with the tuple (-1, 0)"
    assert enable_gqa or q.shape[1] == k.shape[1]
    window = None if window_size[0] < 0 else window_size[0] + 1
    return attention.varlen_attention(q, k, v, cu_seq_q, max_q, backend="sdpa", scale=scale, window=window)


@pytest.mark.parametrize("kernel", [of_torch_2_10, of_torch_2_11, of_torch_2_12_and_2_13])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("scale", [None, 0.2])
@pytest.mark.parametrize("window", [None, 40, 7])
def test_torchs_varlen_kernel_means_the_same_by_the_keywords_of_each_version(monkeypatch, kernel, kv_heads, scale, window):
    from torch.nn.attention import varlen

    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    rng = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(30, heads, 8, generator=rng) for heads in (4, kv_heads, kv_heads))
    cu = torch.tensor([0, 11, 30], dtype=torch.int32)
    asked = dict(scale=scale, window=window)
    if kernel is of_torch_2_10 and window == 7:
        with pytest.raises(ModelError, match="no sliding windows there, and this model's see 7 tokens"):
            attention.varlen_attention(q, k, v, cu, 19, backend="torch_varlen", **asked)
        return
    ours = attention.varlen_attention(q, k, v, cu, 19, backend="torch_varlen", **asked)
    assert torch.allclose(ours, attention.varlen_attention(q, k, v, cu, 19, backend="sdpa", **asked), atol=1e-6)


class OfFlashAttn4:
    """flash_attn.cute.interface as 4.0.0b36 has it, computed document by document."""

    seen: list[dict] = []

    @staticmethod
    def attended(q, k, v, asked):
        OfFlashAttn4.seen.append(asked)
        assert asked["causal"] is True and asked["cu_seqlens_q"] is asked["cu_seqlens_k"] and asked["max_seqlen_q"] == asked["max_seqlen_k"]
        left = asked.get("window_size_left")
        assert left is None or asked["window_size_right"] == 0, "both sides of a window"
        window = None if left is None else left + 1
        edges, longest, scale = asked["cu_seqlens_q"], asked["max_seqlen_q"], asked["softmax_scale"]
        return attention.varlen_attention(q, k, v, edges, longest, backend="sdpa", scale=scale, window=window)

    @staticmethod
    def _flash_attn_fwd(q, k, v, return_lse=False, **asked):
        assert return_lse and q.is_contiguous() and k.is_contiguous() and v.is_contiguous()
        return OfFlashAttn4.attended(q, k, v, asked), torch.zeros(q.shape[1], q.shape[0]), None, None, None

    @staticmethod
    def _flash_attn_bwd(q, k, v, out, dout, lse, deterministic=False, **asked):
        assert lse.shape == (q.shape[1], q.shape[0]) and dout.is_contiguous()
        with by_document._recorded():
            qkv = [x.detach().requires_grad_() for x in (q, k, v)]
            return torch.autograd.grad(OfFlashAttn4.attended(*qkv, asked), qkv, dout)


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("scale", [None, 0.2])
@pytest.mark.parametrize("window", [None, 40, 7])
def test_flash_attn_4_is_asked_for_the_same(monkeypatch, kv_heads, scale, window):
    for name in ("flash_attn", "flash_attn.cute"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "flash_attn.cute.interface", OfFlashAttn4)
    cu, found = torch.tensor([0, 11, 30], dtype=torch.int32), []
    for backend in ("flash4", "sdpa"):
        rng = torch.Generator().manual_seed(0)
        qkv = [torch.randn(30, heads, 8, generator=rng, requires_grad=True) for heads in (4, kv_heads, kv_heads)]
        out = attention.varlen_attention(*qkv, cu, 19, backend=backend, scale=scale, window=window)
        out.backward(torch.randn(30, 4, 8, generator=rng))
        found.append([out, *(x.grad for x in qkv)])
    assert OfFlashAttn4.seen
    for ours, plain in zip(*found, strict=True):
        assert torch.allclose(ours, plain, atol=1e-5)


def test_the_folder_that_flash_attn_4_leaves_is_not_taken_for_flash_attn_2(monkeypatch, tmp_path):
    (tmp_path / "flash_attn" / "cute").mkdir(parents=True)
    (tmp_path / "flash_attn" / "cute" / "interface.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "flash_attn", raising=False)
    hopper, older = (9, 0), (8, 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: hopper)
    cuda = torch.device("cuda", 0)
    assert attention.choose_backend("auto", cuda)[0] == "torch_varlen"
    with pytest.raises(ModelError, match="flash-attn is not installed"):
        attention.choose_backend("flash", cuda)
    with pytest.raises(ModelError, match="flash-attn-4 is not installed; pip install"):
        attention.choose_backend("flash4", cuda)
    (tmp_path / "flash_attn_4-4.0.0b36.dist-info").mkdir()
    (tmp_path / "flash_attn_4-4.0.0b36.dist-info" / "METADATA").write_text("Name: flash-attn-4\nVersion: 4.0.0b36\n")
    assert attention.choose_backend("auto", cuda)[0] == attention.choose_backend("flash4", cuda)[0] == "flash4"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: older)
    assert attention.choose_backend("auto", cuda)[0] == "torch_varlen"
    with pytest.raises(ModelError, match="Hopper GPUs and newer"):
        attention.choose_backend("flash4", cuda)


def test_torchs_own_kernel_takes_the_keywords_it_is_asked_by():
    from torch.nn.attention import varlen

    known = (of_torch_2_10, of_torch_2_11, of_torch_2_12_and_2_13)
    its_own = list(inspect.signature(varlen.varlen_attn).parameters)[3:]
    assert its_own in [list(inspect.signature(f).parameters)[3:] for f in known], f"torch {torch.__version__}: another signature, {its_own}"
    q = torch.empty(30, 4, 16, device="meta", requires_grad=True)
    k, v = (torch.empty(30, 2, 16, device="meta", requires_grad=True) for _ in range(2))
    cu = torch.empty(3, dtype=torch.int32, device="meta")
    out = attention.varlen_attention(q, k, v, cu, 19, backend="torch_varlen", scale=0.3, window=5)
    out.sum().backward()
    assert out.shape == q.grad.shape == q.shape and k.grad.shape == k.shape


def test_a_layer_called_without_boundaries_fails_instead_of_attending_everywhere():
    model = packed_model(tiny.tiny_model(), attention="sdpa")
    with pytest.raises(AssertionError, match="without cu_seqlens"):
        model.hf.base_model(input_ids=torch.tensor([[1, 2, 3]]), use_cache=False)


def test_an_asked_for_backend_that_cannot_run_is_refused():
    with pytest.raises(ValueError, match="flash-attn is not installed"):
        attention.choose_backend("flash", torch.device("cpu"))
    with pytest.raises(ValueError, match="needs CUDA"):
        attention.choose_backend("torch_varlen", torch.device("cpu"))
    assert attention.choose_backend("auto", torch.device("cpu"))[0] == "sdpa"


@pytest.mark.parametrize("window", [0, 5])
def test_gradients_are_the_same_where_the_backward_computes_a_document_again(monkeypatch, window):
    """As on a GPU without a kernel of its own for packed rows."""
    from train.model import by_document

    found = []
    for keeps in (True, False):
        monkeypatch.setattr(by_document, "_keeps", lambda q, keeps=keeps: keeps)
        rng = torch.Generator().manual_seed(0)
        qkv = [torch.randn(30, 4, 8, generator=rng, requires_grad=True) for _ in range(3)]
        out, _ = by_document.by_document(*qkv, torch.tensor([0, 11, 30], dtype=torch.int32), 0.3, window)
        out.backward(torch.randn(30, 4, 8, generator=rng))
        found.append([out, *(x.grad for x in qkv)])
    for kept, again in zip(*found, strict=True):
        assert torch.allclose(kept, again, atol=1e-5)


def test_fp32_on_cuda_is_left_to_sdpa_which_alone_computes_it(monkeypatch):
    cuda = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert attention.choose_backend("auto", cuda, torch.float32)[0] == "sdpa" != attention.choose_backend("auto", cuda, torch.bfloat16)[0]
    with pytest.raises(ValueError, match="torch_varlen: it does not compute float32; use sdpa or auto, or model.dtype=bf16"):
        attention.choose_backend("torch_varlen", cuda, torch.float32)


def test_activation_checkpointing_takes_the_layers_the_recipe_says():
    for wanted, expected in (("none", [False, False]), ("full", [True, True]), ("every_other", [True, False])):
        model = packed_model(tiny.tiny_model(), activation_checkpointing=wanted)
        assert [layer.gradient_checkpointing for layer in decoder_layers(model.hf)] == expected


def test_the_loss_never_holds_all_logits_and_equals_the_whole(monkeypatch):
    reference = tiny.tiny_model()
    documents = tiny.random_documents(np.random.default_rng(6), [40, 40])
    losses, widest = [], []
    original = loss._losses_and_gradient

    def watched(logits, *args):
        widest.append(logits.shape[0])
        return original(logits, *args)

    monkeypatch.setattr(loss, "_losses_and_gradient", watched)
    for chunk in (7, 1024):
        model = packed_model(reference, loss_chunk=chunk)
        losses.append(model(tiny.pack_by_hand(documents, 80))[0].item())
        assert 0 < max(widest) <= chunk
        widest.clear()
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_losses_per_source_add_up_and_padding_counts_for_none():
    model = packed_model(tiny.tiny_model())
    model.sources = 3
    documents = tiny.random_documents(np.random.default_rng(7), [20, 10, 15])
    loss, per_source = model(tiny.pack_by_hand(documents, 64, sources=[2, 0, 2]))
    alone = [tiny.reference_losses(tiny.tiny_model(), [d])[0].item() for d in documents]
    assert per_source.tolist() == pytest.approx([alone[1], 0.0, alone[0] + alone[2]], rel=1e-5)
    assert loss.item() == pytest.approx(sum(alone), rel=1e-5)


@pytest.mark.slow
def test_compiled_layers_change_no_loss():
    documents = tiny.random_documents(np.random.default_rng(8), LENGTHS)
    reference = tiny.tiny_model()
    plain, compiled = packed_model(reference), packed_model(reference, compile=True)
    batch = tiny.pack_by_hand(documents, 56)
    a, b = plain(batch)[0], compiled(batch)[0]
    a.backward()
    b.backward()
    assert b.item() == pytest.approx(a.item(), rel=1e-6)
    for (name, p), q in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        assert (p.grad - q.grad).abs().max() <= 1e-5 * p.grad.abs().max(), name


def test_rotary_frequencies_stay_fp32_in_a_bf16_model():
    reference = tiny.tiny_model()
    model, _ = build(tiny.tiny_config(), Model(path="x", dtype="bf16"), torch.device("cpu"), 1)
    buffers = dict(model.hf.named_buffers())
    assert buffers and all(torch.equal(b, dict(reference.named_buffers())[n]) for n, b in buffers.items())
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_a_model_whose_head_computes_something_else_is_refused(tmp_path):
    import json

    from train.model.causal_lm import config_of

    tiny.tiny_config().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"final_logit_softcapping": 30.0}))
    with pytest.raises(ModelError, match="final_logit_softcapping=30.0 changes the logits"):
        config_of(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": {"AutoConfig": "code.Config"}, "model_type": "evil"}))
    with pytest.raises(ModelError, match="without running foreign code"):
        config_of(tmp_path)
    with pytest.raises(ModelError, match="dropout is not 0"):
        build(tiny.tiny_config(attention_dropout=0.1), Model(path="x"), torch.device("cpu"), 1)


@pytest.mark.parametrize("window", [0, 4])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_attention_by_document_is_an_operation_as_torch_wants_them(window, device):
    from train.model.by_document import by_document

    q, k, v = (torch.randn(12, 2, 8, requires_grad=True) for _ in range(3))
    edges = torch.tensor([0, 5, 5, 12], dtype=torch.int32)
    if device == "cpu":
        torch.library.opcheck(by_document, (q, k, v, edges, 0.3, window))
    else:
        q, k, v = (x.detach().to("meta").requires_grad_() for x in (q, k, v))
        by_document(q, k, v, edges.to("meta"), 0.3, window)[0].sum().backward()
        assert q.grad.shape == k.grad.shape == v.grad.shape == q.shape
