"""Whole runs that train an adapter: checkpoints that peft loads, resumed at other numbers of ranks, never on another base."""

import gc
import json
import re
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.made import adapters, spiky, tiny
from tests.made.ranks import run_ranks
from tests.train.checkpoint.test_save_faults import kill
from tests.train.run.test_loop import checkpoint_of, losses_of, one_run
from tests.train.run.test_rewind import runs as rewinding
from tests.train.run.test_rewind import weights as weights_of
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


def state_at(world, recipe_path: Path, folder: Path) -> dict[str, torch.Tensor]:
    """Masters and moments of an engine that has gone on from a checkpoint, put together from all ranks."""
    from train.checkpoint import trainer_state
    from train.engine.zero3 import start
    from train.recipe.load import load

    recipe = load(recipe_path)
    engine, _, _ = start(recipe, world, Path(recipe.model.path), 1, adapter_from=folder)
    trainer_state.load(engine, folder, world)
    held = trainer_state.live(engine)
    found = {}
    for key in held.keys:
        for name, numel in held.numels.items():
            found[f"{key}/{name}"] = torch.cat([part.clone() for part in world.gather(held.state(key, name).float())])[:numel]
    return found


@pytest.mark.soak
def test_masters_and_moments_are_the_checkpoints_bit_by_bit_at_any_number_of_ranks(ground):
    folder = checkpoint_of(ground, 3)
    ranks = [load_file(f) for f in sorted((folder / "trainer").glob("rank_*"))]
    wanted = {name: torch.cat([rank[name] for rank in ranks]) for name in ranks[0]}
    assert len(wanted) == 3 * (2 * 14 + 5)
    for size in (1, 2, 4):
        for found in run_ranks(state_at, size, ground / "recipe.yaml", folder):
            assert found.keys() == wanted.keys() and all(torch.equal(found[n], t) for n, t in wanted.items()), size


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


def compared(world, recipe_path: Path, overrides: list[str]) -> tuple[int, bool, str]:
    """How a run ended, and what it said of its base as it is held."""
    from train.run import quantized

    said, compare = [], quantized.compare
    quantized.compare = lambda *of: said.append(compare(*of)) or said[0]
    return (*starts(world, recipe_path, overrides), said[0])


def test_a_base_in_four_bits_is_merged_as_it_was_held_and_half_as_large(ground, tmp_path):
    words = ["name=coarse", "steps=2", "micro_batch=2", "model.quantize=nf4"]
    [(step, finished, said), _] = run_ranks(compared, 2, ground / "recipe.yaml", words)
    assert (step, finished) == (2, True)
    folder = checkpoint_of(ground, 2, "coarse")
    export(Request(checkpoint=folder, out=tmp_path / "merged", dtype=OF_RECIPE["fp32"], merge_adapter=True))
    from transformers import AutoModelForCausalLM

    from train.evaluation.loaded import load

    ids, wanted = engine_logits(folder)
    merged = adapters.logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval(), ids)
    assert (merged - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    assert torch.equal(adapters.logits(load(folder, "fp32", torch.device("cpu"))[0], ids), merged)
    fine = losses_of(ground / "runs" / "uncut")
    coarse = losses_of(ground / "runs" / "coarse")
    told = re.search(r"first rows: ([\d.]+) nats a token in nf4, ([\d.]+) with", said)
    assert abs(float(told[1]) - coarse[1]) <= 1e-4 and abs(float(told[2]) - fine[1]) <= 1e-4  # a step here is one micro-batch a rank
    assert all(0 < abs(loss - fine[step]) < 0.1 for step, loss in coarse.items())


def unpacked_wrongly(world, recipe_path: Path, words: list[str]) -> list[str]:
    """What runs end with whose weights are unpacked as others."""
    from train.model import quantized

    right = quantized._table
    quantized._table = lambda *of: right(*of).flip(0)
    return refusals(
        world, recipe_path, [([*words, "name=off"], "never"), ([*words, "name=judged", "model.max_start_loss=999", "steps=1"], "never")]
    )


def test_a_base_that_is_another_model_in_four_bits_is_stopped_before_the_first_step(ground, tmp_path):
    shutil.copytree(ground / "model", tmp_path / "loud")
    weights = load_file(tmp_path / "loud" / "model.safetensors")
    weights["lm_head.weight"] *= 100
    save_file(weights, tmp_path / "loud" / "model.safetensors")
    words = [f"model.path={tmp_path / 'loud'}", "model.quantize=nf4"]
    for off, judged in run_ranks(unpacked_wrongly, 2, ground / "recipe.yaml", words):
        assert "nats a token in nf4" in off and "more than 0.5 apart" in off and "set model.max_start_loss" in off
        assert judged == ""
    assert not (ground / "runs" / "off" / "metrics.jsonl").exists() or not losses_of(ground / "runs" / "off")


def held_bytes(world, recipe_path: Path, overrides: list[str]) -> dict[str, tuple[float, float]]:
    """Bytes of this process, measured and planned: what tensors hold after a step, what a layer's gathered weights take in it, what unpacking
    makes at most at once; and of base and adapter the parameters."""
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
    gathered = []
    layer = engine.model.hf.base_model.layers[1]
    layer.mlp.register_forward_hook(lambda *_: gathered.append(sum(p.nbytes for p in layer.parameters())))
    step.take(engine, [batch], ["a"], world)
    unpacked = largest_unpacking(engine)
    engine.release()
    del batch
    gc.collect()
    held = sum(n for at, n in tensors().items() if at not in before)
    model = described(Path(recipe.model.path) / "config.json")
    shape = Shape.of(model, spec_of(recipe.adapter, model))
    planned = plan(recipe, shape, world.size, world.size, merged_config(recipe, world.size, False)["zero_optimization"], False)

    def item(part: str) -> float:
        return sum(i.nbytes for i in planned.items if part in i.what)

    return {
        "held": (held, planned.held("host")), "gathered": (max(gathered), item("a module's weights")),
        "unpacked": (unpacked, item("weights, unpacked")), "parameters": (shape.parameters, shape.trained),
    }  # fmt: skip


def largest_unpacking(engine) -> float:
    """Bytes that stand at once, at most, while any of the engine's packed weights is unpacked, the weight itself among them."""
    from torch.utils._python_dispatch import TorchDispatchMode

    from train.model import quantized

    class Peak(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.alive, self.peak = [], 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            self.alive = [(one, *rest) for one, *rest in self.alive if one() is not None]
            for one in made if isinstance(made, (tuple, list)) else [made]:
                storage = one.untyped_storage()
                self.alive.append((weakref.ref(one), storage.data_ptr(), storage.nbytes()))
            self.peak = max(self.peak, sum({at: nbytes for _, at, nbytes in self.alive if at not in given}.values()))
            return made

    found = 0
    for module in engine.model.modules():
        if shape := getattr(module, "packed_shape", None):
            format = module.packed_format
            whole = torch.zeros(format.packed_bytes(shape[0] * shape[1]) // 2, dtype=torch.bfloat16)
            given = {whole.untyped_storage().data_ptr(), quantized._table(format, whole.device).untyped_storage().data_ptr()}
            with Peak() as seen:
                quantized.unpack(whole, format, shape)
            found = max(found, seen.peak)
    return found


def test_a_rank_holds_its_share_of_the_frozen_base_and_the_adapters_states_as_planned(ground, tmp_path):
    tiny.save_tiny(tmp_path / "wide", hidden_size=512, intermediate_size=1536, num_hidden_layers=4)
    words = [f"model.path={tmp_path / 'wide'}", "model.dtype=bf16", "adapter.train_also=[]", "adapter.rank=8"]
    for quantize in ("none", "int8", "nf4"):
        for found in run_ranks(held_bytes, 2, ground / "recipe.yaml", [*words, f"model.quantize={quantize}"]):
            base, adapter = found.pop("parameters")
            share = (2 * base + 18 * adapter) / 2  # weights, and of what is trained gradients, masters and moments
            buffer = 4 * adapter  # gradients on their way to the other ranks
            assert found["held"][0] <= 1.05 * (share + buffer), (quantize, found)
            assert all(abs(measured - planned) <= 0.05 * planned for measured, planned in found.values()), (quantize, found)
            assert (found["unpacked"][0] > 0) == (quantize != "none")


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


def broken(adapter: str, copy: Path, at: int) -> Path:
    """A copy, one byte of whose tensors is another."""
    shutil.copytree(adapter, copy)
    content = bytearray((copy / "adapter_model.safetensors").read_bytes())
    content[-at] ^= 1
    (copy / "adapter_model.safetensors").write_bytes(content)
    return copy


def not_finite(adapter: str, copy: Path) -> Path:
    """A copy without a manifest, as a foreign one has none, that holds a NaN."""
    shutil.copytree(adapter, copy, ignore=shutil.ignore_patterns("manifest.json", "trainer"))
    tensors = load_file(copy / "adapter_model.safetensors")
    tensors["base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"][-1, -1] = float("nan")
    save_file(tensors, copy / "adapter_model.safetensors")
    return copy


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
        (["name=r6", "adapter.rank=8", "adapter.alpha=9", "adapter.train_also=[]", "checkpoint.allow=[adapter]"], there),
        (["name=r7", "adapter.train_also=[norms, head]", "checkpoint.allow=[adapter]"], there),
        (["name=r8", f"adapter={{path: {there}}}", f"model.path={tmp_path / 'other'}"], "never"),
        (["name=r9", f"adapter={{path: {broken(there, tmp_path / 'flipped', 9)}}}"], "never"),
        (["name=r10", f"adapter={{path: {not_finite(there, tmp_path / 'nan')}}}"], "never"),
    ]
    said = run_ranks(refusals, 1, ground / "recipe.yaml", runs)[0]
    wanted = [
        "adapter was trained on weights with fingerprint",
        "an adapter's checkpoint",
        "adapter.rank: 4 → 8",
        "give its base as model.path",
        "no_proj",
        "put the old values back, or start anew under another name=\n  - adapter.rank=8: it has 4\n  - adapter.alpha=9: it has 6\n  - adapter.train_also",
        "adapter.train_also: it trains",
        "set model.path to the base it belongs to, or, if it is to go on another one",
        "adapter_model.safetensors: its content changed since it was saved",
        "not finite: base_model.model.model.layers.1.mlp.up_proj.lora_B.weight (1 in all)",
    ]
    assert len(said) == len(wanted)
    for got, part in zip(said, wanted, strict=True):
        assert part in got, (part, got)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_ranks_killed_at_any_write_of_an_adapter_lose_nothing(ground):
    seen = kill(ground, kills=40, seed=7)
    assert seen["killed"] == 40 and seen["folders compared"] > 40


@pytest.mark.soak
@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_a_run_goes_back_to_its_start_or_a_checkpoint_and_is_as_if_it_had_left_the_rows_out(quantize, tmp_path):
    """With no checkpoint yet the base is loaded anew and the adapter begins again; later the checkpoint's own is taken."""
    early, late = (3, 4, 5), (11, 12, 13)
    for marked, every in ((early, 50), (late, 2)):
        folder = spiky.ground(
            tmp_path / str(every), marked_steps=marked, adapter={"rank": 4, "train_also": ["norms"]},
            checkpoint={"every_steps": every, "keep_best": 0, "keep_last": 1}, optim={"lr": 1e-2, "kernel": "torch"},
        )  # fmt: skip
        words = [f"model.quantize={quantize}"]
        replay = [
            "name=replay",
            f"guard.replay={folder / 'runs' / 'back' / 'metrics.jsonl'}",
            "guard.spike_zscore=null",
            "guard.max_rewinds=0",
        ]
        assert run_ranks(rewinding, 2, folder / "recipe.yaml", [["name=back", *words]], True) == [["finished: True"]] * 2
        assert run_ranks(rewinding, 2, folder / "recipe.yaml", [[*replay, *words]], True) == [["finished: True"]] * 2
        [rewind] = [json.loads(p.read_text()) for p in (folder / "runs" / "back" / "rewinds").glob("*.json")]
        assert (rewind["step"] == 0) == (every == 50)
        back, again = (weights_of(folder / "runs" / name) for name in ("back", "replay"))
        assert back == again and "adapter_model.safetensors" in back
