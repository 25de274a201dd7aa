"""R8, R9, R10 and the checkpoint format: whole runs through `train.run.loop.run`, compared with the uncut run and with transformers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tests.made import tiny
from tests.made.ranks import run_ranks

pytestmark = pytest.mark.slow

STEPS = 10


def losses_of(run: Path) -> dict[int, float]:
    lines = [json.loads(t) for t in (run / "metrics.jsonl").read_text().splitlines()]
    return {r["step"]: r["loss"] for r in lines if "loss" in r}


def one_run(world, recipe_path: Path, overrides: list[str], resume: str = "auto"):
    from train.recipe.load import load
    from train.run.loop import run

    outcome = run(load(recipe_path, overrides), world, resume)
    return outcome.state.step, outcome.finished


def several_runs(world, recipe_path: Path, runs: list[tuple[list[str], str]]) -> list:
    return [one_run(world, recipe_path, overrides, resume) for overrides, resume in runs]


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Path:
    """One uncut run of 10 steps at 2 ranks, every step saved; an epoch is about 6.5 steps."""
    folder = tiny.ground(tmp_path_factory.mktemp("run"))
    tiny.write_recipe(folder, steps=STEPS, checkpoint={"every_steps": 1, "keep_last": 99}, logging={"tensorboard": False})
    assert run_ranks(one_run, 2, folder / "recipe.yaml", ["name=uncut"]) == [(STEPS, True)] * 2
    return folder


def checkpoint_of(ground: Path, step: int, run: str = "uncut") -> Path:
    return ground / "runs" / run / "checkpoints" / f"step_{step:06d}"


def test_an_epoch_end_lies_inside_the_run(ground):
    states = [json.loads((checkpoint_of(ground, s) / "state.json").read_text())["loader"]["epoch"] for s in range(1, STEPS + 1)]
    assert states[0] == 0 and states[-1] >= 1


def test_a_run_cut_at_each_step_goes_on_bit_equal(ground):
    cuts = [([f"name=cut{k}", "checkpoint.every_steps=0"], str(checkpoint_of(ground, k))) for k in range(1, 9)]
    run_ranks(several_runs, 2, ground / "recipe.yaml", cuts)
    uncut = losses_of(ground / "runs" / "uncut")
    for k in range(1, 9):
        resumed = losses_of(ground / "runs" / f"cut{k}")
        assert resumed == {s: uncut[s] for s in range(k + 1, STEPS + 1)}, f"cut at step {k}"
        run = ground / "runs" / f"cut{k}"
        assert yaml.safe_load((run / "recipe.yaml").read_text())["name"] == f"cut{k}" and (run / "deepspeed.json").is_file()
        assert json.loads((run / "base_model.json").read_text())["folder"] == str(checkpoint_of(ground, k))
    final = [checkpoint_of(ground, STEPS, name) for name in ("uncut", "cut3")]
    one, two = ((f / "model-00001-of-00001.safetensors").read_bytes() for f in final)
    assert one == two


def test_three_chained_resumes_across_an_epoch_end_stay_bit_equal(ground):
    chain = [
        (["name=chain1", "checkpoint.every_steps=1"], str(checkpoint_of(ground, 2))),
        (["name=chain2", "checkpoint.every_steps=1"], str(checkpoint_of(ground, 5, "chain1"))),
        (["name=chain3", "checkpoint.every_steps=1"], str(checkpoint_of(ground, 8, "chain2"))),
    ]
    run_ranks(several_runs, 2, ground / "recipe.yaml", chain)
    uncut = losses_of(ground / "runs" / "uncut")
    assert losses_of(ground / "runs" / "chain3") == {s: uncut[s] for s in (9, 10)}
    assert losses_of(ground / "runs" / "chain2") == {s: uncut[s] for s in range(6, STEPS + 1)}


def reshape(world, recipe_path: Path, folder: Path, out: Path) -> str:
    """Load a checkpoint at this world size and save it again, untrained."""
    from train.checkpoint import folder as checkpoint
    from train.checkpoint import trainer_state
    from train.checkpoint.state import read_state
    from train.engine.zero3 import start
    from train.recipe.load import load

    engine, _, _ = start(load(recipe_path), world, folder, 1)
    trainer_state.load(engine, folder, world)
    state = read_state(folder)
    state.pop("format")
    return str(checkpoint.save(trainer_state.live(engine), out, checkpoint.Extras(state, folder), world))


def all_slices(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    size = json.loads((folder / "trainer" / "index.json").read_text())["world_size"]
    parts = [load_file(folder / "trainer" / f"rank_{r:05d}_of_{size:05d}.safetensors") for r in range(size)]
    return {key: torch.cat([p[key] for p in parts]) for key in parts[0]}


@pytest.mark.parametrize("offload", [False, True], ids=["on the device", "optimizer offloaded"])
def test_any_world_size_goes_on_from_any_other(ground, offload):
    recipe, mark = ground / "recipe.yaml", "o" if offload else ""
    engine = ["deepspeed=ds_configs/zero3_offload_optimizer.json", "optim.kernel=cpu"] if offload else []
    if offload:  # DeepSpeedCPUAdam rounds otherwise than torch's: it has an uncut run of its own
        run_ranks(one_run, 2, recipe, ["name=uncuto", *engine])
    uncut = losses_of(ground / "runs" / f"uncut{mark}")
    stages = [(4, "w4", "never", 2), (2, "w2", ("w4", 2), 4), (1, "w1", ("w2", 4), 6), (4, "w4b", ("w1", 6), STEPS)]
    for ranks, name, source, last in stages:
        resume = source if isinstance(source, str) else str(checkpoint_of(ground, source[1], source[0] + mark))
        run_ranks(
            one_run,
            ranks,
            recipe,
            [f"name={name}{mark}", "checkpoint.every_steps=1", f"micro_batch={2 if ranks == 2 else 1}", *engine],
            resume,
        )
        got = losses_of(ground / "runs" / f"{name}{mark}")
        start = min(got)
        assert abs(got[start] - uncut[start]) <= 1e-6 * uncut[start], f"first loss at {ranks} ranks"
        for step in range(start, min(last + 8, STEPS) + 1):
            assert abs(got[step] - uncut[step]) <= 1e-5, (ranks, step)


def test_masters_and_moments_are_bit_equal_after_a_round_trip_over_world_sizes(ground):
    original = checkpoint_of(ground, 6)
    wanted = all_slices(original)
    assert any(key.startswith("exp_avg_sq/") and value.abs().max() > 0 for key, value in wanted.items())
    folder = original
    for ranks in (4, 1, 3, 2):
        [folder, *_] = run_ranks(reshape, ranks, ground / "recipe.yaml", Path(folder), ground / f"reshaped{ranks}")
        assert json.loads((Path(folder) / "trainer" / "index.json").read_text())["world_size"] == ranks
    again = all_slices(Path(folder))
    assert again.keys() == wanted.keys() and all(torch.equal(again[k], wanted[k]) for k in wanted)


def engine_logits(world, recipe_path: Path, folder: Path, ids: list[int]) -> torch.Tensor:
    from train.engine.zero3 import start
    from train.recipe.load import load

    engine, _, _ = start(load(recipe_path), world, folder, 1)
    return engine.logits(tiny.pack_by_hand([np.array(ids)], len(ids)))


def test_transformers_opens_a_checkpoint_and_computes_the_engines_logits(ground):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, ids = checkpoint_of(ground, STEPS), list(range(3, 40))
    ours = run_ranks(engine_logits, 2, ground / "recipe.yaml", folder, ids)[0]
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    theirs = model(input_ids=torch.tensor([ids])).logits[0]
    assert model.dtype == torch.float32 and (ours - theirs).abs().max() <= 1e-6 * max(1.0, theirs.abs().max().item())
    assert AutoTokenizer.from_pretrained(folder).eos_token_id == 2


def test_the_held_out_perplexity_in_the_log_is_what_transformers_computes(ground):
    from transformers import AutoModelForCausalLM

    from data_tools.shards.reader import Shards

    model = AutoModelForCausalLM.from_pretrained(ground / "model").float()
    shards = Shards.open(ground / "heldout")
    total, count = tiny.reference_losses(model, [np.array(shards.tokens(i), dtype=np.int64) for i in range(len(shards))])
    first = json.loads((ground / "runs" / "uncut" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["step"] == 0 and first["heldout/a/loss"] == pytest.approx((total / count).item(), rel=1e-6)


def refused(world, recipe_path: Path, overrides: list[str], resume: str = "auto") -> str:
    from train.recipe.load import load
    from train.run.loop import run

    try:
        run(load(recipe_path, overrides), world, resume)
    except ValueError as error:
        return f"{type(error).__name__}: {error}"
    return "went on"


def many_refused(world, recipe_path: Path, cases: list) -> list[str]:
    return [refused(world, recipe_path, overrides, resume) for overrides, resume in cases]


def damage(folder: Path, kind: str) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.1.self_attn.q_proj.weight"
    if kind == "dropped":
        del tensors[name]
    elif kind == "renamed":
        tensors["model.layers.7.self_attn.q_proj.weight"] = tensors.pop(name)
    elif kind == "reshaped":
        tensors[name] = tensors[name].reshape(24, 96).contiguous()
    elif kind == "permuted":
        tensors[name] = tensors[name][torch.randperm(48, generator=torch.Generator().manual_seed(1))].contiguous()
    elif kind == "swapped":
        other = "model.layers.0.self_attn.q_proj.weight"
        tensors[name], tensors[other] = tensors[other], tensors[name]
    elif kind == "not finite":
        tensors[name][3, 3] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})


def test_a_tensor_that_is_not_the_models_stops_the_run_before_step_1(ground):
    fingerprint = json.loads((ground / "runs" / "uncut" / "base_model.json").read_text())["fingerprint"]
    kinds = ["dropped", "renamed", "reshaped", "permuted", "swapped", "not finite"]
    cases = []
    for kind in kinds:
        shutil.copytree(ground / "model", ground / f"bad {kind}")
        damage(ground / f"bad {kind}", kind)
        cases.append(
            ([f"name=bad-{kind.replace(' ', '-')}", f"model.path={ground}/bad {kind}", f"model.fingerprint={fingerprint}"], "auto")
        )
    cases.append((["name=right", f"model.fingerprint={fingerprint}", "steps=1", "schedule.warmup_steps=0"], "auto"))
    for found in run_ranks(many_refused, 2, ground / "recipe.yaml", cases):
        said = dict(zip(kinds, found, strict=False))
        q = "model.layers.1.self_attn.q_proj.weight"
        assert f"{q}: missing" in said["dropped"] and f"{q}: missing" in said["renamed"]
        assert "model.layers.7.self_attn.q_proj.weight: unexpected" in said["renamed"]
        assert f"{q}: shape [24, 96]" in said["reshaped"] and "wants [48, 48]" in said["reshaped"]
        assert all("add up to fingerprint" in said[k] for k in ("permuted", "swapped", "not finite"))
        assert found[-1] == "went on"
    assert not any((ground / "runs").glob("bad-*"))


def test_a_loader_that_writes_the_wrong_slice_is_found_in_memory(ground):
    for said in run_ranks(wrong_slice, 2, ground / "recipe.yaml", ground / "model"):
        assert "are not what their files hold" in said and "model.norm.weight on rank 1" in said


def wrong_slice(world, recipe_path: Path, folder: Path) -> str:
    """A library drift: after the load, something else stands in one slice of rank 1."""
    from train.engine import weights
    from train.engine import zero3 as engine_room
    from train.recipe.load import load

    original = weights.load

    def drifting(parameters, *args):
        loaded = original(parameters, *args)
        if world.rank == 1:
            parameters["model.norm.weight"].ds_tensor.add_(1)
        return loaded

    weights.load = drifting
    try:
        engine_room.start(load(recipe_path), world, folder, 1)
    except weights.WeightsError as error:
        return str(error)
    return "went on"


def test_a_resume_that_would_change_the_result_is_refused_with_a_sorted_diff(ground):
    where = str(checkpoint_of(ground, 4))
    cases = [
        (["name=r1", "optim.lr=5e-4", "micro_batch=2", "data.seed=3"], where),
        (["name=r2", "optim.lr=5e-4", "checkpoint.allow=[optim.lr]", "steps=10"], where),
        (["name=r3", "steps=12"], where),
        (["name=r4", f"data.sources.a.path={ground}/heldout"], where),
        (["name=uncut"], "never"),
        (["name=r5"], str(ground / "nothing")),
        (["name=r6", "steps=3", "checkpoint.allow=[steps]"], where),
    ]
    for lr, allowed, length, data, never, absent, beyond in run_ranks(many_refused, 2, ground / "recipe.yaml", cases):
        changes, safe = lr.split("  safe:")
        assert "data.seed: 0 → 3" in changes and "optim.lr: 0.001 → 0.0005" in changes and "micro_batch: 1 → 2" in safe
        assert "checkpoint.allow='[data.seed, optim.lr]'" in lr
        assert allowed == "went on"
        assert "steps: 10 → 12" in length
        assert "LoaderError: the data order is not the one of the saved run" in data and "shards of a" in data
        assert "would start over them" in never
        assert "no such folder" in absent
        assert beyond == "went on"  # and ended at once: the checkpoint is beyond the end
    assert not losses_of(ground / "runs" / "r6")


def test_a_model_with_tied_embeddings_trains_saves_and_opens(tmp_path):
    from transformers import AutoModelForCausalLM

    folder = tiny.ground(tmp_path)
    shutil.rmtree(folder / "model")
    tiny.save_tiny(folder / "model", tie_word_embeddings=True)
    tiny.write_recipe(folder, steps=2)
    run_ranks(one_run, 2, folder / "recipe.yaml", [])
    saved = folder / "runs" / "tiny" / "checkpoints" / "step_000002"
    model, info = AutoModelForCausalLM.from_pretrained(saved, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    index = json.loads((saved / "model.safetensors.index.json").read_text())
    assert "model.embed_tokens.weight" in index["weight_map"] and "lm_head.weight" not in index["weight_map"]


def test_a_bf16_run_keeps_the_files_precision_in_its_masters(tmp_path):
    folder = tiny.ground(tmp_path)
    tiny.write_recipe(folder, steps=1, model={"path": str(folder / "model"), "dtype": "bf16"}, schedule={"warmup_steps": 0})
    for worst in run_ranks(masters_against_file, 2, folder / "recipe.yaml", folder / "model"):
        assert worst == 0.0
    run_ranks(one_run, 2, folder / "recipe.yaml", [])
    config = json.loads((folder / "runs/tiny/checkpoints/step_000001/config.json").read_text())
    assert config["dtype"] == "bfloat16"


def masters_against_file(world, recipe_path: Path, folder: Path) -> float:
    from deepspeed.utils import safe_get_full_fp32_param
    from safetensors.torch import load_file

    from train.engine.zero3 import start
    from train.recipe.load import load

    engine, _, _ = start(load(recipe_path), world, folder, 1)
    original = load_file(folder / "model.safetensors")
    return max(float((safe_get_full_fp32_param(p).view_as(original[n]) - original[n]).abs().max()) for n, p in engine.parameters.items())
