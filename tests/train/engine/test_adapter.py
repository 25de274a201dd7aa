"""An adapter on a frozen base against plain torch with the same A and B, at 1, 2 and 4 ranks."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.made import adapters, tiny
from tests.made.ranks import run_ranks
from tests.train.engine.test_step import cut, recipe_for, unequal_rows
from train.model_files.quantized import FORMATS
from train.recipe.vocabulary import Adapter

pytestmark = pytest.mark.slow

STEPS, LR = 20, 5e-4  # of an adapter; where gradients are as small as eps, Adam hands rounding on, in proportion to it


def adapted(folder, section: Adapter, quantize: str = "none"):
    recipe = dataclasses.replace(recipe_for(folder), adapter=section)
    return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, quantize=quantize))


def whole(engine, world, parameter) -> torch.Tensor:
    """A trained parameter's master, put together from all ranks."""
    parts = world.gather(engine.get_master(parameter).detach().reshape(-1).cpu())
    return torch.cat(parts)[: parameter.ds_numel].view(tuple(parameter.ds_shape))


def train(world, folder, rows: list, masks: list, section: Adapter, quantize: str) -> dict:
    from train.engine import step
    from train.engine.bit_sums import checksum
    from train.engine.zero3 import start

    rows_of = {1: 8, 2: 4, 4: 2}[world.size]
    found: dict = {"runs": []}
    for accumulation in (1, 2):
        engine, _, _ = start(adapted(folder, section, quantize), world, folder, 1)
        frozen = {n: p for n, p in engine.parameters.items() if not p.requires_grad}
        before = {n: checksum(p.ds_tensor, 0) for n, p in frozen.items()}
        first = {n: whole(engine, world, p) for n, p in engine.trained.items()}
        steps, after_one = [], None
        for k in range(STEPS):
            engine.set_lr(LR)
            at = [(8 * k + i) % len(rows) for i in range(8)]
            totals = step.take(engine, cut([rows[i] for i in at], [masks[i] for i in at], world, rows_of // accumulation), ["a"], world)
            steps.append((totals.loss, totals.grad_norm))
            after_one = after_one or {n: whole(engine, world, p) for n, p in engine.trained.items()}
        flat = engine._zero.fp32_partitioned_groups_flat
        state = sum(v.numel() for group in flat for v in engine._zero.optimizer.state[group].values() if torch.is_tensor(v) and v.dim())
        found["runs"].append({
            "steps": steps, "last": {n: whole(engine, world, p) for n, p in engine.trained.items()}, "after_one": after_one, "first": first,
            "unchanged": before == {n: checksum(p.ds_tensor, 0) for n, p in frozen.items()}, "frozen": len(frozen),
            "masters": sum(group.numel() for group in flat), "moments": state,
            "padded": sum(p.ds_tensor.numel() for p in engine.trained.values()),
        })  # fmt: skip
    return found


def in_plain_torch(rows: list, masks: list, first: dict, scale: float, also: tuple[str, ...], quantize: str) -> tuple[list, dict]:
    model = tiny.tiny_model()
    for name, module in model.named_modules() if quantize != "none" else ():
        if isinstance(module, torch.nn.Linear) and ".layers." in name:
            module.weight.data = nearest(module.weight.data, FORMATS[quantize].values)
    model.requires_grad_(False)
    values = {n: v.clone().requires_grad_(True) for n, v in first.items() if ".lora_" in n}
    adapters.named_products(model, values, lambda name: scale)
    for name, parameter in model.named_parameters():
        if name in first and ".lora_" not in name:
            assert name.endswith(also)
            values[name] = parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(
        [{"params": [v for v in values.values() if (v.dim() >= 2) == matrix], "weight_decay": decay} for matrix, decay in ((True, 0.1), (False, 0.0))],
        lr=LR, betas=(0.9, 0.95), eps=1e-8,
    )  # fmt: skip
    steps = []
    for k in range(STEPS):
        at = [(8 * k + i) % len(rows) for i in range(8)]
        total, n = tiny.reference_losses(model, [d for i in at for d in rows[i]], [m for i in at for m in masks[i]])
        (total / n).backward()
        norm = torch.nn.utils.clip_grad_norm_(values.values(), 1.0)
        steps.append(((total / n).item(), norm.item()))
        optimizer.step()
        optimizer.zero_grad()
    return steps, {n: v.detach() for n, v in values.items()}


def nearest(weight: torch.Tensor, choices: tuple[float, ...]) -> torch.Tensor:
    """Each of 64 consecutive weights as the nearest of the values times their largest magnitude, by trying all."""
    rows = weight.reshape(-1, 64)
    most = rows.abs().amax(1, keepdim=True)
    values = torch.tensor(choices)
    index = ((rows / most)[..., None] - values).abs().argmin(-1)
    return (values[index] * most).view_as(weight)


@pytest.mark.parametrize(
    "ranks, section, quantize",
    [
        (1, Adapter(rank=4, alpha=6), "none"),
        (2, Adapter(rank=3, alpha=6, scaling="rslora", train_also=("norms",)), "none"),
        (2, Adapter(rank=4, targets=("q_proj", "up_proj")), "nf4"),
        (4, Adapter(rank=4, targets=("q_proj", "down_proj")), "int8"),
    ],
    ids=["1 rank, all layers", "2 ranks, rslora and norms", "2 ranks, base in 4 bits", "4 ranks, some layers, base in 8 bits"],
)
def test_twenty_steps_are_those_of_plain_torch_with_the_same_a_and_b(ranks, section, quantize, tmp_path):
    folder = tiny.save_tiny(tmp_path / "model")
    rows, masks = unequal_rows(np.random.default_rng(11))
    masks = [[np.ones_like(m) for m in row] for row in masks]
    ranked = run_ranks(train, ranks, folder, rows, masks, section, quantize)
    scale = section.alpha / section.rank**0.5 if section.scaling == "rslora" else (section.alpha or 2 * section.rank) / section.rank
    also = ("norm.weight",) if section.train_also else ()
    one, two = ranked[0]["runs"]
    layers = 2 * (7 if not section.targets else 2)
    shapes = {n: tuple(v.shape) for n, v in one["first"].items() if ".lora_" in n}
    assert len(shapes) == 2 * layers and all(v.numel() for v in one["last"].values())
    assert {s[0] for n, s in shapes.items() if ".lora_A." in n} == {section.rank} == {s[1] for n, s in shapes.items() if ".lora_B." in n}
    assert len(one["first"]) == 2 * layers + (5 if also else 0)
    steps, values = in_plain_torch(rows, masks, one["first"], scale, also, quantize)
    for run in (one, two):
        assert all(torch.equal(run["first"][n], v) for n, v in one["first"].items())  # the same at every start, at any number of ranks
        # of the value, since sums of 150 losses of 6 in fp32, here and there, are no nearer
        assert (np.abs(np.array(run["steps"]) - np.array(steps)) / np.maximum(1, np.array(steps))).max() <= 1e-6
        assert max(float((run["last"][n] - v).abs().max()) for n, v in values.items()) <= 1e-6
        assert all(v.count_nonzero() == 0 for n, v in run["first"].items() if ".lora_B." in n)
        assert all(v.count_nonzero() > 0 for n, v in run["after_one"].items() if ".lora_B." in n)
    for rank in ranked:
        for run in rank["runs"]:
            assert run["unchanged"] and run["frozen"] > 10
            assert run["masters"] == run["padded"] and run["moments"] == 2 * run["padded"]


def logits_of(world, folder, section: Adapter | None, attention: str) -> torch.Tensor:
    from train.data.batch import PackedBatch
    from train.engine.zero3 import start

    recipe = adapted(folder, section)
    recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, activation_checkpointing=attention))
    engine, _, _ = start(recipe, world, folder, 1)
    return engine.logits(PackedBatch.of_ids(list(range(3, 40)))).clone()


def both_logits(world, folder) -> list[torch.Tensor]:
    return [
        logits_of(world, folder, section, "full") for section in (None, Adapter(rank=4), Adapter(rank=2, train_also=("embeddings", "head")))
    ]


def test_before_the_first_step_the_model_is_the_base_bit_by_bit(tmp_path):
    base, *with_adapter = run_ranks(both_logits, 2, tiny.save_tiny(tmp_path / "model"))[0]
    assert all(torch.equal(base, other) for other in with_adapter) and len(with_adapter) == 2
