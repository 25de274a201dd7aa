"""Whole runs that train an adapter: checkpoints that peft loads, resumed at other numbers of ranks, never on another base."""

import gc
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.made import adapters, tiny
from tests.made.ranks import run_ranks
from tests.train.checkpoint.test_save_faults import kill
from tests.train.run.test_loop import checkpoint_of, losses_of, one_run
from train.export.exporter import export
from train.export.plan import Request
from train.model_files.dtypes import OF_RECIPE

pytestmark = pytest.mark.slow

STEPS, IDS = 6, list(range(5, 45))


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Path:
    """An uncut run of 6 steps at 2 ranks, every step saved, norms trained whole beside the adapter."""
    folder = tiny.ground(tmp_path_factory.mktemp("adapter"))
    tiny.write_recipe(
        folder, steps=STEPS, adapter={"rank": 4, "alpha": 6, "train_also": ["norms"]}, optim={"lr": 1e-2, "kernel": "torch"},
        checkpoint={"every_steps": 1, "keep_last": 99}, logging={"tensorboard": False},
    )  # fmt: skip
    assert run_ranks(one_run, 2, folder / "recipe.yaml", ["name=uncut"]) == [(STEPS, True)] * 2
    return folder


def test_a_checkpoint_holds_the_adapter_whole_and_nothing_of_the_base(ground):
    for step in (1, STEPS):
        folder = checkpoint_of(ground, step)
        tensors = load_file(folder / "adapter_model.safetensors")
        assert len(tensors) == 2 * 14 + 5 and all(t.numel() and t.dtype == torch.float32 for t in tensors.values())
        assert all(t.count_nonzero() for n, t in tensors.items() if "lora_B" in n)
        assert not list(folder.glob("model*"))
        ranks = [load_file(f) for f in sorted((folder / "trainer").glob("rank_*"))]
        assert {n.partition("/")[2] for n in ranks[0]} == {n.removeprefix(adapters.PREFIX) for n in tensors}
        for name, tensor in tensors.items():
            master = torch.cat([r[f"master/{name.removeprefix(adapters.PREFIX)}"] for r in ranks])
            assert torch.equal(master.view_as(tensor), tensor)


def test_four_ranks_two_one_and_four_again_end_where_the_uncut_run_ends(ground):
    at, names = ground / "recipe.yaml", ["four", "two", "one", "again"]
    run_ranks(one_run, 4, at, ["name=four"], str(checkpoint_of(ground, 1)))
    run_ranks(one_run, 2, at, ["name=two"], str(checkpoint_of(ground, 2, "four")))
    run_ranks(one_run, 1, at, ["name=one", "checkpoint.background=true"], str(checkpoint_of(ground, 3, "two")))
    run_ranks(one_run, 4, at, ["name=again"], str(checkpoint_of(ground, 5, "one")))
    run_ranks(one_run, 2, at, ["name=same"], str(checkpoint_of(ground, 3)))
    uncut = losses_of(ground / "runs" / "uncut")
    for name in names:
        resumed = losses_of(ground / "runs" / name)
        assert resumed and all(abs(loss - uncut[step]) <= 1e-6 for step, loss in resumed.items()), name
    same = checkpoint_of(ground, STEPS, "same") / "adapter_model.safetensors"
    assert same.read_bytes() == (checkpoint_of(ground, STEPS) / "adapter_model.safetensors").read_bytes()


def engine_logits(folder: Path) -> tuple[list[int], torch.Tensor]:
    probe = load_file(folder / "trainer" / "probe.safetensors")
    return probe["tokens"].tolist(), probe["logits"]


def test_the_folder_computes_elsewhere_what_the_engine_computed(ground, tmp_path):
    folder = checkpoint_of(ground, STEPS)
    ids, wanted = engine_logits(folder)
    got = adapters.logits(adapters.read_plainly(folder, ground / "model"), ids)
    assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    export(Request(checkpoint=folder, out=tmp_path / "merged", dtype=OF_RECIPE["fp32"], merge_adapter=True))
    from transformers import AutoModelForCausalLM

    merged = adapters.logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval(), ids)
    assert (merged - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    from train.evaluation.loaded import check_folder, load

    check_folder(folder)
    model, tokenizer = load(folder, "fp32", torch.device("cpu"))
    assert torch.equal(adapters.logits(model, ids), merged) and len(tokenizer) == tiny.VOCAB


def test_peft_computes_what_the_engine_computed(ground):
    peft = pytest.importorskip("peft", reason="peft is not installed: its reading of our folder is not compared with ours")
    from transformers import AutoModelForCausalLM

    folder = checkpoint_of(ground, STEPS)
    ids, wanted = engine_logits(folder)
    base = AutoModelForCausalLM.from_pretrained(ground / "model", dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(base, folder).eval()
    assert (adapters.logits(model, ids) - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def starts(world, recipe_path: Path, overrides: list[str]) -> tuple[int, bool]:
    return one_run(world, recipe_path, overrides, "never")


def test_a_run_starts_from_a_folder_that_was_written_by_hand(ground, tmp_path):
    tensors = adapters.write(tmp_path / "foreign", tiny.tiny_model(), rank=3, alpha=5, layers=("q_proj", "up_proj"))
    words = ["name=foreign", f"adapter={{path: {tmp_path / 'foreign'}}}", "steps=1", "optim.lr=1e-12"]
    assert run_ranks(starts, 2, ground / "recipe.yaml", words) == [(1, True)] * 2
    folder = checkpoint_of(ground, 1, "foreign")
    got = load_file(folder / "adapter_model.safetensors")
    assert got.keys() == tensors.keys() and all((got[n] - t).abs().max() <= 1e-9 for n, t in tensors.items())
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], sorted(config["target_modules"])) == (3, 5, ["q_proj", "up_proj"])
    ids, wanted = engine_logits(folder)
    by_hand = adapters.logits(adapters.read_plainly(tmp_path / "foreign", ground / "model"), ids)
    assert (by_hand - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_a_base_in_four_bits_is_merged_as_it_was_held_and_half_as_large(ground, tmp_path):
    assert run_ranks(starts, 2, ground / "recipe.yaml", ["name=coarse", "steps=2", "model.quantize=nf4"]) == [(2, True)] * 2
    folder = checkpoint_of(ground, 2, "coarse")
    export(Request(checkpoint=folder, out=tmp_path / "merged", dtype=OF_RECIPE["fp32"], merge_adapter=True))
    from transformers import AutoModelForCausalLM

    from train.evaluation.loaded import load

    ids, wanted = engine_logits(folder)
    merged = adapters.logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval(), ids)
    assert (merged - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    assert torch.equal(adapters.logits(load(folder, "fp32", torch.device("cpu"))[0], ids), merged)
    fine = losses_of(ground / "runs" / "uncut")
    assert all(0 < abs(loss - fine[step]) < 0.1 for step, loss in losses_of(ground / "runs" / "coarse").items())


def held_bytes(world, recipe_path: Path, overrides: list[str]) -> tuple[float, float, int, int]:
    """What tensors of this process hold after a step, and what was planned; parameters of base and adapter."""
    from tests.made.tiny import pack_by_hand, random_documents
    from train.engine import step, zero3
    from train.engine.deepspeed_json import merged_config
    from train.model.adapter_spec import spec_of
    from train.model_files.shapes import described
    from train.preflight.memory_items import Shape, plan
    from train.recipe.load import load

    def tensors() -> dict[int, int]:
        found = {}
        for one in gc.get_objects():
            if isinstance(one, torch.Tensor):
                found[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
        return found

    recipe = load(recipe_path, overrides)
    before = tensors()
    engine, _, _ = zero3.start(recipe, world, Path(recipe.model.path), 1)
    batch = pack_by_hand(random_documents(np.random.default_rng(world.rank), [20, 30]), 64)
    step.take(engine, [batch], ["a"], world)
    engine.release()
    del batch
    gc.collect()
    held = sum(n for at, n in tensors().items() if at not in before)
    model = described(Path(recipe.model.path) / "config.json")
    shape = Shape.of(model, spec_of(recipe.adapter, model))
    planned = plan(recipe, shape, world.size, world.size, merged_config(recipe, world.size, False)["zero_optimization"], False)
    return held, planned.held("host"), shape.parameters, shape.trained


def test_a_rank_holds_its_share_of_the_frozen_base_and_the_adapters_states_as_planned(ground, tmp_path):
    tiny.save_tiny(tmp_path / "wide", hidden_size=512, intermediate_size=1536, num_hidden_layers=4)
    words = [f"model.path={tmp_path / 'wide'}", "model.dtype=bf16", "adapter.train_also=[]", "adapter.rank=8"]
    for held, planned, base, adapter in run_ranks(held_bytes, 2, ground / "recipe.yaml", words):
        share = (2 * base + 18 * adapter) / 2  # weights, and of what is trained gradients, masters and moments
        buffer = 4 * adapter  # gradients on their way to the other ranks
        assert held <= 1.05 * (share + buffer), (held, share, buffer)
        assert abs(held - planned) <= 0.05 * planned, (held, planned)


def refusals(world, recipe_path: Path, runs: list[tuple[list[str], str]]) -> list[str]:
    from train.recipe.load import load
    from train.run.loop import run

    said = []
    for overrides, resume in runs:
        try:
            run(load(recipe_path, overrides), world, resume)
            said.append("")
        except ValueError as error:
            said.append(str(error))
    return said


def test_another_base_and_a_model_where_an_adapter_was_are_refused(ground, tmp_path):
    shutil.copytree(ground / "model", tmp_path / "other")
    weights = load_file(tmp_path / "other" / "model.safetensors")
    weights["model.norm.weight"][3] += 1e-3
    save_file(weights, tmp_path / "other" / "model.safetensors")
    there = str(checkpoint_of(ground, 3))
    runs = [
        (["name=r1", f"model.path={tmp_path / 'other'}"], there),
        (["name=r2", "adapter="], there),
        (["name=r3", "adapter.rank=8"], there),
        (["name=r4", f"model.path={there}"], "never"),
        (["name=r5", "adapter.targets=[no_proj]"], "never"),
    ]
    said = run_ranks(refusals, 1, ground / "recipe.yaml", runs)[0]
    wanted = [
        "adapter was trained on weights with fingerprint",
        "an adapter's checkpoint",
        "adapter.rank: 4 → 8",
        "give its base as model.path",
        "no_proj",
    ]
    assert len(said) == len(wanted)
    for got, part in zip(said, wanted, strict=True):
        assert part in got, (part, got)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_ranks_killed_at_any_write_of_an_adapter_lose_nothing(ground):
    seen = kill(ground, kills=40, seed=7)
    assert seen["killed"] == 40 and seen["folders compared"] > 40
