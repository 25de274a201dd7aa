"""R2 and R15: the engine's gradients, losses, norms and weights against plain torch over the full batch."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.made import tiny
from tests.made.ranks import run_ranks
from train.recipe.vocabulary import Data, Model, Optim, Recipe, Source

pytestmark = pytest.mark.slow

ROW = 64
CPU = Path("ds_configs/cpu.json")


def recipe_for(folder: Path, kernel: str = "torch", deepspeed: Path = CPU, clip: float = 1.0) -> Recipe:
    return Recipe(
        name="x", model=Model(path=str(folder), dtype="fp32"), data=Data(sources={"a": Source(path=Path("x"))}, seq_len=ROW), steps=4, tokens_per_step=ROW,
        deepspeed=deepspeed, optim=Optim(kernel=kernel, clip=clip),
    )  # fmt: skip


def unequal_rows(rng) -> tuple[list[list[np.ndarray]], list[list[np.ndarray]]]:
    """16 rows of documents and masks with 0 to 60 supervised tokens each; row 5 has none, nor do rows 8 to 11."""
    rows, masks = [], []
    for k in range(16):
        documents = tiny.random_documents(rng, [int(n) for n in rng.integers(1, 21, 3)])
        share = 0.0 if k == 5 or 8 <= k < 12 else float(rng.choice([0.05, 0.4, 1.0]))
        rows.append(documents)
        masks.append([(rng.random(len(d)) < share).astype(np.uint8) for d in documents])
    return rows, masks


def cut(rows: list, masks: list, world, micro_batch: int) -> list:
    """The rows of this rank as micro-batches, dealt as the loader deals them."""
    from train.data.batch import PackedBatch

    batches = []
    for start in range(world.rank * micro_batch, len(rows), world.size * micro_batch):
        parts = [tiny.pack_by_hand(rows[i], ROW, masks[i]) for i in range(start, start + micro_batch)]
        edges = [torch.tensor([0])] + [p.cu_seqlens[1:] + k * ROW for k, p in enumerate(parts)]
        batches.append(
            PackedBatch(
                tokens=torch.cat([p.tokens for p in parts], 1), labels=torch.cat([p.labels for p in parts], 1),
                position_ids=torch.cat([p.position_ids for p in parts], 1), cu_seqlens=torch.cat(edges).int(),
                max_seqlen=max(p.max_seqlen for p in parts), source=torch.cat([p.source for p in parts]), supervised=sum(p.supervised for p in parts),
            )
        )  # fmt: skip
    return batches


def gradients_of_every_cut(world, folder: Path, rows: list, masks: list) -> list:
    from deepspeed.utils import safe_get_full_grad

    from train.engine import step
    from train.engine.zero3 import start

    def full_gradients(engine) -> dict:
        return {n: safe_get_full_grad(p).cpu() for n, p in engine.parameters.items()}

    engine, _, _ = start(recipe_for(folder, clip=0.0), world, folder, 1)
    engine.set_lr(0.0)
    found = []
    for micro_batch in (1, 2, 4):
        for accumulation in (1, 2, 4):
            count = world.size * micro_batch * accumulation
            batches = cut(rows[:count], masks[:count], world, micro_batch)
            assert len(batches) == accumulation
            grads: dict = {}
            totals = step.take(engine, batches, ["a"], world, before_update=lambda _, g=grads: g.update(full_gradients(engine)))
            found.append((count, totals.supervised, totals.loss, totals.grad_norm, grads if world.rank == 0 else None))
    return found


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_gradient_is_the_plain_token_mean_however_the_batch_is_cut(ranks, tmp_path):
    folder = tiny.save_tiny(tmp_path / "model")
    rng = np.random.default_rng(11)
    rows, masks = unequal_rows(rng)
    rows, masks = rows * 4, masks * 4
    found = run_ranks(gradients_of_every_cut, ranks, folder, rows, masks)[0]
    assert len(found) == 9
    references = {}
    for count, supervised, loss, norm, grads in found:
        if count not in references:
            model = tiny.tiny_model()
            flat_rows = [d for row in rows[:count] for d in row]
            total, n = tiny.reference_losses(model, flat_rows, [m for row in masks[:count] for m in row])
            (total / max(n, 1)).backward()
            references[count] = (n, (total / max(n, 1)).item(), {k: p.grad for k, p in model.named_parameters()})
        n, wanted_loss, wanted = references[count]
        assert supervised == n
        assert abs(loss - wanted_loss) <= 1e-6
        wanted_norm = torch.stack([g.norm() for g in wanted.values()]).norm().item()
        assert abs(norm - wanted_norm) <= 1e-6 * max(1, wanted_norm)
        for name, g in wanted.items():
            assert (grads[name].view_as(g) - g).abs().max() <= 1e-6, (count, name)


def twenty_steps(world, folder: Path, rows: list, masks: list, kernel: str, deepspeed: Path) -> tuple[list, dict | None]:
    from deepspeed.utils import safe_get_full_fp32_param

    from train.engine import step
    from train.engine.zero3 import start

    engine, _, said = start(recipe_for(folder, kernel, deepspeed), world, folder, 1)
    assert said.endswith(f"Adam: {kernel}")
    numbers = []
    for number in range(20):
        engine.set_lr(1e-3 * (number + 1) / 20)
        some = slice(4 * (number % 4), 4 * (number % 4) + 4)
        totals = step.take(engine, cut(rows[some], masks[some], world, 1), ["a"], world)
        numbers.append((totals.loss, totals.grad_norm))
    weights = {n: safe_get_full_fp32_param(p).cpu() for n, p in engine.parameters.items()}
    return numbers, weights if world.rank == 0 else None


def plain_torch(rows: list, masks: list) -> tuple[list, dict]:
    model = tiny.tiny_model().train()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
    numbers = []
    for step in range(20):
        for g in optimizer.param_groups:
            g["lr"] = 1e-3 * (step + 1) / 20
        some = slice(4 * (step % 4), 4 * (step % 4) + 4)
        total, n = tiny.reference_losses(model, [d for r in rows[some] for d in r], [m for r in masks[some] for m in r])
        loss = total / max(n, 1)
        loss.backward() if n else None
        for p in model.parameters():
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        numbers.append((loss.item(), torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()))
        optimizer.step()
        optimizer.zero_grad()
    return numbers, {n: p.detach() for n, p in model.named_parameters()}


def deviation(found: tuple, wanted: tuple) -> tuple[float, float, float]:
    (numbers, weights), (reference, plain) = found, wanted
    loss = max(
        abs(a[0] - b[0]) / max(1.0, b[0]) for a, b in zip(numbers, reference, strict=True)
    )  # relative: fp32 near 6 has steps of 5e-7
    norm = max(abs(a[1] - b[1]) for a, b in zip(numbers, reference, strict=True))
    return loss, norm, max(float((weights[n].view_as(p) - p).abs().max()) for n, p in plain.items())


def mixed_rows() -> tuple[list, list]:
    rows, masks = unequal_rows(np.random.default_rng(12))
    for k in (8, 9, 10, 11):
        masks[k] = [np.ones(len(d), np.uint8) for d in rows[k]]
    return rows, masks


@pytest.mark.parametrize("ranks", [1, 2])
def test_twenty_steps_equal_plain_torch_adamw_with_clipping(ranks, tmp_path):
    folder = tiny.save_tiny(tmp_path / "model")
    rows, masks = mixed_rows()
    found = run_ranks(twenty_steps, ranks, folder, rows, masks, "torch", CPU)[0]
    loss, norm, weights = deviation(found, plain_torch(rows, masks))
    print(f"\n{ranks} ranks, torch.optim.AdamW, 20 steps: loss {loss:.1e}, norm {norm:.1e}, weights {weights:.1e} from plain torch")
    assert max(loss, norm, weights) <= 1e-6, (loss, norm, weights)


@pytest.mark.parametrize("deepspeed", ["cpu", "zero3_offload_optimizer", "zero3_offload_all"])
def test_the_engines_own_adam_stays_near_plain_torch(deepspeed, tmp_path):
    folder = tiny.save_tiny(tmp_path / "model")
    rows, masks = mixed_rows()
    found = run_ranks(twenty_steps, 2, folder, rows, masks, "cpu", Path(f"ds_configs/{deepspeed}.json"))[0]
    loss, norm, weights = deviation(found, plain_torch(rows, masks))
    print(
        f"\n2 ranks, DeepSpeedCPUAdam, {deepspeed}.json, 20 steps: loss {loss:.1e}, norm {norm:.1e}, weights {weights:.1e} from plain torch"
    )
    assert loss <= 1e-4 and weights <= 1e-4, (loss, norm, weights)


def hpz_step(world, folder: Path, rows: list, masks: list, config: Path) -> list:
    numbers, _ = twenty_steps(world, folder, rows, masks, "torch", config)
    return numbers


def test_secondary_partitions_of_hpz_change_nothing(tmp_path):
    import json

    folder = tiny.save_tiny(tmp_path / "model")
    config = json.loads(CPU.read_text())
    config["zero_optimization"]["zero_hpz_partition_size"] = 2
    (tmp_path / "hpz.json").write_text(json.dumps(config))
    rows, masks = mixed_rows()
    numbers = run_ranks(hpz_step, 4, folder, rows, masks, tmp_path / "hpz.json")[0]
    reference, _ = plain_torch(rows, masks)
    assert max(abs(a[0] - b[0]) for a, b in zip(numbers, reference, strict=True)) <= 1e-5


def poisoned(world, folder: Path, where: str) -> tuple:
    from train.engine import step
    from train.engine.zero3 import start

    engine, _, _ = start(recipe_for(folder), world, folder, 1)
    engine.set_lr(1e-2)
    batch = tiny.pack_by_hand(tiny.random_documents(np.random.default_rng(1), [30, 20]), ROW)
    first = step.take(engine, [batch], ["a"], world).grad_norm
    before = [engine.get_master(p).clone() for p in engine.parameters.values()]
    head = engine.model.hf.get_output_embeddings()
    handle = None
    if world.rank == world.size - 1:
        value = {"nan": float("nan"), "inf": float("inf")}[where]
        handle = head.register_forward_hook(lambda module, args, out: (out[0] * value, out[1]))
    totals = step.take(engine, [batch], ["a"], world)
    norm = totals.grad_norm
    assert not totals.finite
    kept = all(torch.equal(a, engine.get_master(p)) for a, p in zip(before, engine.parameters.values(), strict=True))
    if handle:
        handle.remove()
    return first, norm, kept, step.take(engine, [batch], ["a"], world).grad_norm


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_value_that_is_not_finite_on_one_rank_changes_no_weight_on_any(value, tmp_path):
    folder = tiny.save_tiny(tmp_path / "model")
    for first, norm, kept, after in run_ranks(poisoned, 2, folder, value):
        assert np.isfinite(first) and not np.isfinite(norm) and kept and np.isfinite(after)


def refuse(asked: list, loss: float, norm: float) -> bool:
    asked.append((loss, norm))
    return False


def refused(world, folder: Path, kernel: str, config: Path) -> list:
    """Two steps taken, with one between them that is not accepted, and without it: norms, masters, moments and Adam's step."""
    from train.engine import step
    from train.engine.zero3 import start

    rng = np.random.default_rng(1)
    batches = [tiny.pack_by_hand(tiny.random_documents(rng, [30, 20]), ROW) for _ in range(3)]
    found = []
    for without in (True, False):
        engine, _, _ = start(recipe_for(folder, kernel, config), world, folder, 1)
        engine.set_lr(1e-2)
        norms, asked = [], []
        for k, batch in enumerate(batches):
            if without and k == 1:
                continue
            accept = functools.partial(refuse, asked) if k == 1 else (lambda loss, norm: True)
            totals = step.take(engine, [batch], ["a"], world, accept=accept)
            assert totals.updated == (k != 1)
            norms.append(totals.grad_norm)
        if not without:
            assert asked == [(asked[0][0], norms.pop(1))] and np.isfinite(asked[0]).all()
        state = [value(p).clone() for p in engine.parameters.values() for value in (engine.get_master, *(functools.partial(engine.get_moment, key=k) for k in ("exp_avg", "exp_avg_sq")))]  # fmt: skip
        found.append((norms, state, engine.adam_step, [p.ds_tensor.clone() for p in engine.parameters.values()]))
    (norms, state, at, weights), (norms_2, state_2, at_2, weights_2) = found
    return [norms == norms_2, at == at_2 == 2, all(map(torch.equal, state, state_2)), all(map(torch.equal, weights, weights_2))]


@pytest.mark.parametrize(("kernel", "config"), [("torch", "cpu"), ("cpu", "zero3_offload_all")])
def test_a_step_that_is_not_accepted_leaves_weights_moments_and_what_follows_as_if_it_had_not_been(kernel, config, tmp_path):
    folder = tiny.save_tiny(tmp_path / "model")
    assert run_ranks(refused, 2, folder, kernel, Path(f"ds_configs/{config}.json")) == [[True] * 4] * 2


def told_ahead(world, folder: Path, rows: list, masks: list) -> list:
    """Six steps at rate 0, whose targets are told by the step before each, but for the third: losses, norms, and small sums a step."""
    import torch.distributed as dist

    from train.engine import step
    from train.engine.zero3 import start

    engine, _, _ = start(recipe_for(folder), world, folder, 1)
    engine.set_lr(0.0)
    steps = [cut(rows[k : k + world.size], masks[k : k + world.size], world, 1) for k in range(0, 12, 2)]
    reduce, small = dist.all_reduce, []
    dist.all_reduce = lambda tensor, *args, **kwargs: (small.append(tensor.dtype == torch.float64), reduce(tensor, *args, **kwargs))[1]
    found = []
    for ahead in (False, True):
        for k, batches in enumerate(steps):
            small.clear()
            # of the third step one rank has not built its part yet when it is asked
            unknown = not ahead or k + 1 == len(steps) or (k == 1 and world.rank == 1)
            coming = float("nan") if unknown else sum(b.supervised for b in steps[k + 1])
            totals = step.take(engine, batches, ["a"], world, own=lambda n=coming: {step.NEXT_TARGETS: n})
            found.append((totals.loss, totals.grad_norm, totals.supervised, sum(small)))
    return found


def test_a_step_whose_targets_were_told_by_the_last_one_is_the_same_and_waits_once(tmp_path):
    folder = tiny.save_tiny(tmp_path / "model")
    rows, masks = unequal_rows(np.random.default_rng(11))
    for found in run_ranks(told_ahead, 2, folder, rows, masks):
        counted, told = found[:6], found[6:]
        assert [f[:3] for f in counted] == [f[:3] for f in told] and len({f[2] for f in told}) > 3
        assert [a[3] - b[3] for a, b in zip(counted, told, strict=True)] == [0, 1, 0, 1, 1, 1]


def steps_sent_in(world, folder: Path, rows: list, masks: list, dtype: str) -> tuple[list, bool]:
    """Losses and norms of twelve steps of two micro-batches, and whether gradients are summed up in fp32."""
    import dataclasses

    from train.engine import step
    from train.engine.zero3 import start

    recipe = recipe_for(folder)
    recipe = dataclasses.replace(recipe, optim=dataclasses.replace(recipe.optim, reduce_dtype=dtype))
    engine, _, _ = start(recipe, world, folder, 1)
    found = []
    for number in range(12):
        engine.set_lr(1e-3)
        some = slice(4 * (number % 4), 4 * (number % 4) + 4)
        totals = step.take(engine, cut(rows[some], masks[some], world, 1), ["a"], world)
        found.append((totals.loss, totals.grad_norm))
    return found, engine._zero.grad_partitions_flat_buffer.dtype == torch.float32


def test_gradients_sent_in_bf16_are_rounded_and_lead_to_the_same_losses(tmp_path):
    folder = tiny.save_tiny(tmp_path / "model")
    rows, masks = mixed_rows()
    (exact, in_fp32), (rounded, too) = (run_ranks(steps_sent_in, 2, folder, rows, masks, dtype)[0] for dtype in ("fp32", "bf16"))
    assert in_fp32 and too
    apart = [max(abs(a - b) / a for a, b in zip(x, y, strict=True)) for x, y in zip(zip(*exact), zip(*rounded), strict=True)]
    print(f"\nbf16 on the wire, 12 steps: losses within {apart[0]:.1e}, norms within {apart[1]:.1e} of fp32")
    assert 1e-7 < apart[0] <= 1e-3 and 1e-5 < apart[1] <= 1e-2, apart  # a bf16 number has 8 bits: rounded by 2e-3 each, not all one way
