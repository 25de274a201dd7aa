"""The memory plan against numbers worked out by hand, and what is refused with which remedy."""

import dataclasses
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.made import processes, tiny
from train.engine.deepspeed_json import merged_config
from train.model_files.folder import ModelError
from train.model_files.shapes import described
from train.preflight import memory_plan
from train.preflight.dry_run import shape_of_path
from train.preflight.memory_items import Shape
from train.preflight.memory_plan import MemoryPlanError, plan, require, short_of
from train.recipe.load import ROOT, load
from train.world.machine import FreeBytes, what_there_is

GIB = 2**30
SMALL, LARGE = "meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-70b-hf"
MEASURED = json.loads((ROOT / "launch" / "results" / "gpu-1b-h200.json").read_text())["parts"]
H200 = {name: part["result"] for name, part in MEASURED.items() if part["result"] and "job" in part["result"]}
ROOMY = FreeBytes(host=2000 * GIB, device=80 * GIB, disk=1e16)


def planned(name: str, ranks: int, *words: str, on_cuda: bool = True, local: int = 8):
    recipe = load(f"launch/recipes/{name}.yaml", words)
    zero = merged_config(recipe, ranks, on_cuda)["zero_optimization"]
    return plan(recipe, shape_of_path(recipe.model.path, recipe.adapter), ranks, min(ranks, local), zero, on_cuda)


def item(p, part: str) -> float:
    [found] = [i for i in p.items if part in i.what]
    return found.nbytes


def test_sizes_of_the_published_models_come_from_their_configs_alone():
    small, large = shape_of_path(SMALL), shape_of_path(LARGE)
    assert (small.parameters, large.parameters) == (6_738_415_616, 68_976_648_192)
    assert large.largest == 32000 * 8192 and (large.layers, large.kv_width) == (80, 1024)
    assert large.layer == 2 * 8192 * 8192 + 2 * 8192 * 1024 + 3 * 8192 * 28672 + 2 * 8192


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {"num_key_value_heads": 2}),
        ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
        ("llama", {"num_key_value_heads": None, "head_dim": 32}),
        ("mistral", {"num_key_value_heads": 2}),
        ("qwen2", {"tie_word_embeddings": True}),  # its projections have biases
    ],
)
def test_sizes_are_those_of_the_tree_that_transformers_builds(tmp_path, kind, changes):
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": 200, "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = AutoConfig.for_model(kind, **{**sizes, "num_key_value_heads": 4, **changes})
    config.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_config(config)
    numels = [p.numel() for p in model.parameters()]
    layer = [sum(p.numel() for p in layer.parameters()) for layer in model.model.layers]
    kv_width = model.model.layers[0].self_attn.k_proj.out_features
    assert Shape.of(described(tmp_path / "config.json")) == Shape(sum(numels), max(numels), max(layer), 3, 64, 176, kv_width, 200)


def test_a_model_without_decoder_layers_is_refused(tmp_path):
    from transformers import GPT2Config

    GPT2Config(vocab_size=200, n_embd=64, n_layer=1, n_head=4).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="transformer.wte.weight and the like: no .layers in its base model"):
        shape_of_path(str(tmp_path))


def test_a_head_that_computes_something_else_is_refused_by_a_dry_run_too(tmp_path):
    config = tiny.tiny_config().to_dict() | {"final_logit_softcapping": 30.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"config.json: final_logit_softcapping=30.0 changes the logits"):
        shape_of_path(str(tmp_path))


@pytest.mark.slow
def test_a_dry_run_of_a_llama_loads_neither_torch_nor_transformers():
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None; from launch.pretrain import main;"
        " sys.exit(main(['launch/recipes/cpt_70b.yaml', '--dry-run', '--elsewhere', '--gpus', '64']))"
    )
    done = processes.run([sys.executable, "-c", code])
    assert done.returncode == 0 and "68,976,648,192" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("name", "ranks", "gib"), [("cpt_7b", 8, 14.1), ("cpt_70b", 64, 18.1), ("cpt_70b", 32, 36.1), ("cpt_70b", 16, 72.3)]
)
def test_model_states_are_18_bytes_a_parameter_over_the_ranks(name, ranks, gib):
    p = planned(name, ranks)
    assert p.state("device") / GIB == pytest.approx(gib, abs=0.05) and p.state("host") == 0


def test_an_offloaded_optimizer_leaves_two_bytes_a_parameter_on_the_device_and_the_rest_in_host_memory():
    p = planned("cpt_70b", 16, "deepspeed=ds_configs/zero3_offload_optimizer.json")
    assert p.state("device") == 2 * 68_976_648_192 / 16
    assert p.state("host") == 20 * 68_976_648_192 / 16  # DeepSpeed's estimate allows 16 to 24
    everything = planned("cpt_70b", 16, "deepspeed=ds_configs/zero3_offload_all.json")
    assert everything.state("device") == 0 and everything.state("host") == 22 * 68_976_648_192 / 16


@pytest.mark.parametrize(("name", "gb"), [("cpt_7b", 1.7), ("cpt_70b", 17.2)])
def test_hpz_keeps_a_second_copy_of_the_weights_in_each_node(name, gb):
    p = planned(name, 64, "deepspeed=ds_configs/zero3_hpz.json")
    assert item(p, "hpZ") / 1e9 == pytest.approx(gb, abs=0.05)


def test_fp32_training_keeps_weights_gradients_masters_and_two_moments():
    p = planned("cpt_7b", 8, "model.dtype=fp32")
    assert p.state("device") == 20 * 6_738_415_616 / 8


def test_a_frozen_base_has_two_bytes_a_parameter_and_its_adapter_eighteen():
    base, adapter = 68_976_648_192, 207_093_760
    p = planned("sft_70b_lora", 8)
    assert p.state("device") == (2 * base + 18 * adapter) / 8 and p.checkpoint_bytes == 16 * adapter
    linear = 80 * (2 * 8192 * 8192 + 2 * 1024 * 8192 + 3 * 28672 * 8192)
    assert planned("sft_70b_lora", 8, "model.quantize=nf4").state("device") == (0.5625 * linear + 2 * (base - linear) + 18 * adapter) / 8
    assert planned("sft_70b_lora", 8, "model.quantize=int8").state("device") == (1.0625 * linear + 2 * (base - linear) + 18 * adapter) / 8


def test_activations_are_a_blocks_published_bytes_a_token_times_layers():
    """2 x (6h + 2gh) + 6f bytes a token and layer: 32.1 hidden states for the 7B."""
    none, full = (planned("cpt_7b", 8, "micro_batch=4", f"model.activation_checkpointing={kind}") for kind in ("none", "full"))
    tokens, a_block = 4 * 4096, 2 * (6 * 4096 + 2 * 4096) + 6 * 11008
    assert a_block == pytest.approx(32.1 * 4096, rel=0.001)
    ends = 4 * 2 * 4096
    assert item(none, "at least") == tokens * (32 * a_block + ends)
    assert item(full, "at least") == tokens * (a_block + 31 * 2 * 4096 + ends)
    assert item(none, "if no kernels are fused") == tokens * 32 * (8 * 4096 + 2 * 11008)  # two norms' fp32 inputs, the activated gate
    without = planned("cpt_7b", 8, "micro_batch=4", "model.activation_checkpointing=none", "model.attention=sdpa")
    assert item(without, "if no kernels are fused") == tokens * 32 * (56 * 4096 - a_block)  # 28 copies of 2 bytes, measured


def test_one_ranks_weights_are_not_gathered_and_its_gradients_not_sent():
    one, two = (planned("cpt_7b", ranks, "model.activation_checkpointing=none") for ranks in (1, 2))
    assert not [i for i in one.items if "gathered" in i.what] and [i for i in two.items if "gathered" in i.what]
    assert 2 * item(one, "reduce_bucket_size") == item(two, "reduce_bucket_size")
    away = planned("cpt_7b", 1, "deepspeed=ds_configs/zero3_offload_all.json", "model.activation_checkpointing=none")
    assert [i for i in away.items if "gathered" in i.what]


@pytest.mark.parametrize("part", H200)
def test_the_memory_of_a_plan_is_what_an_h200_was_seen_to_give(part, tmp_path):
    """launch/results/gpu-1b-h200.json, as torch's allocator counts."""
    from train.preflight.planner import clusters, forecast, models

    found = H200[part]
    hidden, layers, kv_heads, mlp = (2048, 22, 4, 5632) if part.startswith("1b") else (4096, 4, 32, 11008)
    config = {"model_type": "llama", "vocab_size": 32000, "hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": mlp}
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_attention_heads": 32, "num_key_value_heads": kv_heads}))
    given = dict(word.split("=") for word in found["job"]["overrides"])
    words = {"model.activation_checkpointing": "none", **given, "tokens_per_step": int(given["micro_batch"]) * 4096}
    recipe = load("launch/recipes/cpt_7b.yaml", [f"model.path={tmp_path}", *(f"{key}={value}" for key, value in words.items())])
    made = forecast.forecast(recipe, models.of_recipe(recipe), clusters.cluster(clusters.gpu_named("H200"), 1))
    assert made.peak / GIB == pytest.approx(found["peak memory GiB a rank"], rel=0.05)


def test_ten_steps_were_seen_on_an_h200():
    assert len(H200) == 10


def test_logits_exist_for_one_chunk_of_the_loss_only():
    assert item(planned("cpt_7b", 8, "model.loss_chunk=1024"), "logits") == 1024 * 32000 * (2 + 4 + 4)


def test_a_save_needs_two_tensors_and_in_the_background_the_ranks_share_of_the_trainer_state():
    p = planned("cpt_70b", 64)
    assert p.need("host", "save") == 2 * 2 * 32000 * 8192
    recipe = load("launch/recipes/cpt_70b.yaml")
    behind = dataclasses.replace(recipe.checkpoint, background=True)
    zero = merged_config(recipe, 64, True)["zero_optimization"]
    p = plan(dataclasses.replace(recipe, checkpoint=behind), shape_of_path(LARGE), 64, 8, zero, True)
    assert p.need("host", "save") == 2 * 2 * 32000 * 8192 + 12 * 68_976_648_192 / 64


def test_disk_holds_what_retention_keeps_and_the_one_being_written():
    p = planned("cpt_70b", 64)  # the last two, the best one, and one on its way
    assert p.checkpoint_bytes == 14 * 68_976_648_192 and p.checkpoints == 4
    assert planned("cpt_70b", 64, "checkpoint.trainer_state=false", "guard.max_rewinds=0").checkpoint_bytes == 2 * 68_976_648_192


def test_a_load_needs_the_share_and_one_tensor():
    p = planned("cpt_70b", 64)
    assert p.need("device", "load") == 2 * 68_976_648_192 / 64 + 2 * 32000 * 8192


def test_on_a_cpu_everything_is_host_memory():
    p = planned("cpt_7b", 2, "deepspeed=ds_configs/cpu.json", on_cuda=False)
    assert p.state("device") == 0 and p.need("device") == 0 and p.state("host") == 18 * 6_738_415_616 / 2


# -- does it fit ------------------------------------------------------------------------------------------------------


def refused(name: str, ranks: int, there: FreeBytes, *words: str) -> str:
    recipe = load(f"launch/recipes/{name}.yaml", words)
    p = planned(name, ranks, *words)
    faults = short_of(p, there)
    assert faults
    return memory_plan.refusal(recipe, shape_of_path(recipe.model.path), p, there, True, faults)


def test_the_recipes_fit_the_machines_their_headers_name():
    for name, ranks in (("cpt_7b", 8), ("cpt_70b", 64), ("sft_7b", 8), ("sft_70b", 16)):
        assert not short_of(planned(name, ranks), ROOMY, sure=False), name
    for name, ranks, gib in (("cpt_7b_lora", 4, 40), ("sft_70b_lora", 8, 80)):
        assert not short_of(planned(name, ranks), dataclasses.replace(ROOMY, device=gib * GIB), sure=False), name


def test_a_refused_70b_is_told_what_it_needs_what_there_is_and_what_fits_and_that_does_fit():
    said = refused("cpt_70b", 16, ROOMY)
    assert re.search(r"a rank needs \d+\.\d\d GiB on its device, there are 80.00 GiB", said)
    # 2 rows keep 12.5 GiB of activations and the optimizer does not fit beside the model
    assert "deepspeed=ds_configs/zero3_offload_optimizer.json" in said
    [ranks] = re.findall(r"(\d+) ranks on (\d+) nodes like these", said)
    assert not short_of(planned("cpt_70b", int(ranks[0])), ROOMY) and int(ranks[0]) == 8 * int(ranks[1])
    assert short_of(planned("cpt_70b", int(ranks[0]) - 8), ROOMY), "fewer would have been enough"
    assert not short_of(planned("cpt_70b", 16, "deepspeed=ds_configs/zero3_offload_optimizer.json"), ROOMY)


def test_offloading_is_not_advised_where_host_memory_is_short():
    said = refused("cpt_70b", 16, dataclasses.replace(ROOMY, host=300 * GIB))
    assert "offload" not in said and "ranks on" in said


def test_a_run_that_only_its_activations_make_too_large_is_told_so():
    words = ("model.activation_checkpointing=none", "micro_batch=8")
    said = refused("cpt_7b", 8, ROOMY, *words)
    advice = said.split("what would fit:")[1]
    assert "  - model.activation_checkpointing=full\n" in advice
    assert "  - model.activation_checkpointing=full micro_batch=1" not in advice, "less is enough"
    assert advice.endswith("  - micro_batch=1")
    assert not short_of(planned("cpt_7b", 8, words[0], "micro_batch=1"), ROOMY)


def test_a_disk_without_room_for_one_checkpoint_is_refused_and_for_all_is_warned_of(tmp_path):
    p = planned("cpt_7b", 8)
    said = refused("cpt_7b", 8, dataclasses.replace(ROOMY, disk=50e9))
    assert "one checkpoint takes 94.34 GB, the disk has 50.00 GB free" in said and "free 44.34 GB" in said
    assert not short_of(p, dataclasses.replace(ROOMY, disk=100e9))
    assert any("lower checkpoint.keep_last" in w for w in short_of(p, dataclasses.replace(ROOMY, disk=100e9), sure=False))


def tiny_shape(folder: Path) -> Shape:
    return Shape.of(described(tiny.save_tiny(folder) / "config.json"))


def world_of(machines: list[FreeBytes]) -> SimpleNamespace:
    """A rank of a CPU world whose other ranks report these machines."""
    return SimpleNamespace(device=torch.device("cpu"), size=len(machines), local_size=len(machines), gather=lambda own: machines)


def test_every_real_run_gets_its_plan_in_lines(tmp_path):
    recipe = load(tiny.write_recipe(tmp_path))
    here = what_there_is(torch.device("cpu"), tmp_path / "runs")
    assert here.host > 0 and here.device is None and here.disk > 0
    said = require(recipe, tiny_shape(tmp_path / "model"), world_of([here]))
    assert (
        said[0].startswith("memory plan for ")
        and any("pieces being read" in line for line in said)
        and any("disk" in line for line in said)
    )


def test_the_scarcest_node_decides(tmp_path):
    recipe = load(tiny.write_recipe(tmp_path))
    scarce = FreeBytes(host=1e6, device=None, disk=1e12)
    with pytest.raises(MemoryPlanError, match="a node's 3 ranks need .* of main memory, there are 1.0 MiB"):
        require(
            recipe,
            tiny_shape(tmp_path / "model"),
            world_of([dataclasses.replace(scarce, host=1e12), scarce, dataclasses.replace(scarce, host=1e12)]),
        )
