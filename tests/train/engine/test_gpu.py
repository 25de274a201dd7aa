"""On a CUDA device (`make gpu`): each kernel against SDPA in fp32, the step in bf16 against the CPU's, graphs, memory and copies."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.made import tiny
from tests.made.gpu import NEEDED
from tests.made.ranks import run_ranks
from tests.train.engine.test_compile import ROW, batches_of_all_lengths
from tests.train.engine.test_step import recipe_for
from train.model import attention, kernels
from train.model.activations import product_elements
from train.recipe.vocabulary import Recipe

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.timeout(600), NEEDED]

EDGES = [0, 130, 131, 700, 700, 1024]
SHAPE = dict(hidden_size=512, intermediate_size=1408, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=4)  # heads of 64
CUDA = Path("ds_configs/zero3.json")


def attended(backend: str, dtype: torch.dtype, window: int | None) -> list[torch.Tensor]:
    """The output, and the gradients of q, k and v, in fp32."""
    rng = torch.Generator().manual_seed(0)
    q, k, v, grad = (torch.randn(EDGES[-1], heads, 64, generator=rng).to("cuda", dtype) for heads in (8, 4, 4, 8))
    for x in (q, k, v):
        x.requires_grad_()
    cu = torch.tensor(EDGES, dtype=torch.int32, device="cuda")
    out = attention.varlen_attention(q, k, v, cu, 569, backend=backend, window=window)
    out.backward(grad)
    return [x.float() for x in (out, q.grad, k.grad, v.grad)]


@pytest.mark.parametrize("backend", ["flash4", "flash", "torch_varlen", "sdpa"])
@pytest.mark.parametrize("window", [None, 100])
def test_every_kernel_is_as_near_to_fp32_as_sdpa_in_bf16_is(backend, window):
    try:
        attention.choose_backend(backend, torch.device("cuda"))
    except ValueError as error:
        pytest.skip(str(error))
    exact, plain, found = (
        attended("sdpa", torch.float32, window),
        attended("sdpa", torch.bfloat16, window),
        attended(backend, torch.bfloat16, window),
    )
    for name, a, b, c in zip(("out", "dq", "dk", "dv"), exact, plain, found, strict=True):
        assert (c - a).abs().max() <= 2 * (b - a).abs().max() + 1e-5, name


@pytest.mark.skipif(not kernels.available(), reason="liger-kernel is not installed")
@pytest.mark.parametrize("sources", [1, 3])
def test_ligers_loss_is_the_chunked_one(sources):
    from train.model.loss import LossHead

    torch.manual_seed(0)
    labels, source = torch.randint(0, 1000, (600,), device="cuda"), torch.randint(0, sources, (600,), device="cuda")
    labels[::7] = -100
    source[source == 1] = 0  # a micro-batch need not have tokens of every source
    source[-20:], labels[-20:] = -1, -100  # padding
    found = []
    for fused in (False, True):
        torch.manual_seed(1)
        head = LossHead(256, 1000, bias=False, device="cuda", dtype=torch.bfloat16)
        head.fused = fused
        hidden = torch.randn(600, 256, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        loss, parts = head(hidden, labels, source, sources)
        loss.backward()
        found.append((loss, parts, hidden.grad.float(), head.weight.grad.float()))
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=2e-2, atol=2e-2 * float(a.abs().max()))


def asking(folder: Path, dtype: str, **model) -> Recipe:
    recipe = recipe_for(folder, kernel="auto", deepspeed=CUDA)
    return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, dtype=dtype, **model))


def fourteen_steps(world, recipe: Recipe) -> tuple[list, dict, dict, float]:
    """Losses and norms, what Dynamo counted, and the peak of the device's memory over the last steps, in MB."""
    from torch._dynamo.utils import counters

    from train.engine import step
    from train.engine.zero3 import start

    assert world.device.type == "cuda"
    engine, _, _ = start(recipe, world, Path(recipe.model.path), 1)
    numbers = []
    for number, batch in enumerate(batches_of_all_lengths(world.rank)):
        engine.set_lr(1e-4)
        if number == 4:
            torch.cuda.reset_peak_memory_stats()
        totals = step.take(engine, [batch, batch], ["a"], world)
        numbers.append((totals.loss, totals.grad_norm))
    return numbers, dict(counters["stats"]), dict(counters["graph_break"]), torch.cuda.max_memory_allocated() / 1e6


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny.save_tiny(tmp_path_factory.mktemp("gpu") / "model", **SHAPE)


@pytest.fixture(scope="module")
def eager(folder) -> dict:
    """Of each dtype: what fourteen steps were, neither compiled nor computed again."""
    return {dtype: run_ranks(fourteen_steps, 1, asking(folder, dtype), seconds=300)[0] for dtype in ("bf16", "fp32")}


def test_a_run_in_bf16_stays_near_one_in_fp32(eager):
    losses, exact = ([loss for loss, _ in eager[dtype][0]] for dtype in ("bf16", "fp32"))
    assert exact[-1] < exact[0] and np.allclose(losses, exact, rtol=1e-2)


@pytest.mark.parametrize("checkpointing", ["none", "full", "selective"])
def test_compiled_layers_take_two_graphs_at_most_give_the_same_losses_and_keep_no_gathered_weights(checkpointing, folder, eager):
    recipe = asking(folder, "bf16", activation_checkpointing=checkpointing, compile=True)
    numbers, counted, breaks, peak = run_ranks(fourteen_steps, 1, recipe, seconds=500)[0]
    assert 1 <= counted["unique_graphs"] <= 2 and not breaks, (counted, breaks)
    assert np.allclose([n[0] for n in numbers], [n[0] for n in eager["bf16"][0]], rtol=1e-2)
    weights = 2 * sum(p.numel() for p in tiny.tiny_model(**SHAPE).parameters()) / 1e6
    assert peak <= eager["bf16"][3] + 0.25 * weights, "views of gathered weights are held"


TOKENS, LAYERS = 8192, 8  # so many that what layers keep outweighs all else of a pass


def second_pass(world, recipe: Recipe) -> float:
    """Bytes that a forward and backward take beyond what was there before, at their peak; buffers are there after the first."""
    from train.engine import step
    from train.engine.zero3 import start

    engine, _, _ = start(recipe, world, Path(recipe.model.path), 1)
    batch = tiny.pack_by_hand(tiny.random_documents(np.random.default_rng(0), [TOKENS // 8] * 8), TOKENS)
    before = 0
    for _ in range(2):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step.forward_backward(engine, [batch], TOKENS, world)
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
        engine.step(lambda norm: True)
    return peak - before


def test_what_is_computed_again_takes_no_memory(tmp_path):
    folder = tiny.save_tiny(tmp_path / "model", **{**SHAPE, "num_hidden_layers": LAYERS, "max_position_embeddings": TOKENS})

    def asked(kind: str) -> Recipe:
        recipe = asking(folder, "bf16", activation_checkpointing=kind)
        return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, seq_len=TOKENS), tokens_per_step=TOKENS)

    none, selective, full = (run_ranks(second_pass, 1, asked(kind), seconds=300)[0] for kind in ("none", "selective", "full"))
    hidden, mlp, kv_width = SHAPE["hidden_size"], SHAPE["intermediate_size"], SHAPE["num_key_value_heads"] * 64
    shown = f"none {none / 1e6:.0f}, selective {selective / 1e6:.0f}, full {full / 1e6:.0f} MB"
    print(f"\na forward and backward of {TOKENS} tokens, {LAYERS} layers: {shown}")
    # a layer that is computed again is whole for as long as its own backward lasts: one or two are not counted
    assert selective - full >= (LAYERS - 2) * TOKENS * 2 * product_elements(hidden, mlp, kv_width), shown
    assert none - selective >= LAYERS // 2 * TOKENS * 2 * mlp, f"{shown}: what the gates gave is kept by none alone"


def test_batches_arrive_whole_and_in_order_while_the_device_is_busy():
    from train.engine.step import on_device

    batches = batches_of_all_lengths(0)
    busy = torch.randn(4096, 4096, device="cuda")
    for batch, moved in zip(batches, on_device(batches, torch.device("cuda", 0)), strict=True):
        for _ in range(8):
            busy = (busy @ busy).clamp(-1, 1)
        assert moved.tokens.device.type == "cuda" and moved.max_seqlen == batch.max_seqlen
        for name in ("tokens", "labels", "position_ids", "cu_seqlens", "source"):
            assert torch.equal(getattr(moved, name).cpu(), getattr(batch, name)), name
    assert moved.tokens.shape == (1, ROW)
