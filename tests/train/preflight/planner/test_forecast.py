"""A recipe on a cluster: what fits, what would, the fastest settings, and what a measured run corrects."""

import dataclasses
import json
import re

import numpy as np
import pytest

from tests.made import tiny
from train.preflight.planner.clusters import cluster, gpu_named, with_memory
from train.preflight.planner.forecast import Setting, attended, forecast
from train.preflight.planner.measured import MeasuredError, factor
from train.preflight.planner.models import of_recipe
from train.preflight.planner.said import as_json, lines
from train.preflight.planner.search import search
from train.recipe.load import load

GIB = 2**30
FULL = ("micro_batch=4", "model.activation_checkpointing=full")


def made(name: str, gpus: int, gpu: str, *words: str, setting: Setting | None = None, **at):
    recipe = load(name, words)
    return forecast(recipe, of_recipe(recipe), cluster(gpu_named(gpu), gpus, **at), setting or Setting())


def test_the_recipes_run_at_the_speeds_that_are_published_for_such_runs():
    """llm-foundry, full checkpointing: 3,684 and 8,611 on 8 A100 and H100; fms-fsdp without: 4,550 on A100; Automodel and IBM, 70B: 867, 956."""
    assert made("cpt_7b", 8, "A100", *FULL).rate == pytest.approx(3684, rel=0.1)
    assert made("cpt_7b", 8, "H100", *FULL).rate == pytest.approx(8611, rel=0.1)
    assert made("cpt_7b", 8, "A100").rate == pytest.approx(4550, rel=0.1)
    assert made("cpt_70b", 64, "H100").rate == pytest.approx(910, rel=0.1)
    assert made("cpt_7b", 8, "A100", *FULL).mfu == pytest.approx(0.54, abs=0.04)


def test_what_does_not_fit_says_so_with_remedies_that_fit_by_the_same_arithmetic():
    no = made("cpt_70b", 16, "H100")
    assert not no.fits and "a rank needs" in no.short[0] and no.remedies
    words = [r for r in no.remedies if "=" in r and "ranks" not in r]
    assert words
    for remedy in words:
        assert made("cpt_70b", 16, "H100", *remedy.split()).fits, remedy
    [more] = [r for r in no.remedies if "ranks on" in r]
    assert made("cpt_70b", int(more.split()[0]), "H100").fits
    assert "DOES NOT FIT" in "\n".join(lines(no)) and as_json(no)["fits"] is False


def test_a_run_that_would_fit_at_least_but_not_as_expected_does_not_fit():
    """By what is sure alone it fits (a run is refused for that alone, once it is there); the plan counts what is expected, too."""
    recipe, gpu, plain = load("cpt_7b"), gpu_named("A100"), made("cpt_7b", 8, "A100")
    sure, expected = plain.memory.need("device") / GIB, plain.peak / GIB
    assert sure + 1 < expected

    def of(gib: float):
        return forecast(recipe, of_recipe(recipe), cluster(with_memory(gpu, gib), 8))

    assert "will take about" in of((sure + expected) / 2).short[0] and of((sure + expected) / 2).remedies
    assert of(1.02 * expected).fits and "near the limit" in of(1.02 * expected).near[0]
    assert of(1.2 * expected).fits and not of(1.2 * expected).near


def test_main_memory_is_judged_where_it_is_said():
    words = ("deepspeed=ds_configs/zero3_offload_optimizer.json", "micro_batch=1")
    assert made("cpt_70b", 16, "H100", *words).fits
    small = made("cpt_70b", 16, "H100", *words, setting=Setting(host=500 * GIB))
    assert not small.fits and "main memory" in small.short[0]
    away = ("deepspeed=ds_configs/zero3_offload_optimizer.json",)
    back = made("sft_7b", 8, "A100", *away, setting=Setting(host=64 * GIB)).remedies
    assert "deepspeed=ds_configs/zero3.json" in back and not any("zero3.json" in r for r in made("cpt_70b", 16, "H100").remedies)


def test_the_held_names_are_there():
    found = as_json(made("cpt_7b", 8, "H100"))
    assert found["fits"] is True and found["tokens_per_second_per_gpu"] > 1000 and 0 < found["mfu"] < 1
    assert found["bottleneck"] == "products" and 15 < found["peak_memory_gib"] < 80
    assert sum(found["shares"].values()) == pytest.approx(1)
    json.dumps(found, allow_nan=False)


def test_rows_of_padding_are_no_tokens():
    whole, padded = (
        made("cpt_7b", 8, "H100", *FULL),
        made("cpt_7b", 7, "H100", *FULL),
    )  # 256 rows over 7 x 4: 10 micro-batches, 24 rows of padding
    assert whole.useful == 1 and padded.useful == pytest.approx(256 / 280)
    assert "padding" in "\n".join(lines(padded))


def test_more_network_and_more_gpus_never_make_a_run_longer():
    hours = [made("cpt_70b", 64, "H100", gigabits=g).cost.hours for g in (100, 200, 400, 800, 1600, 3200)]
    assert hours == sorted(hours, reverse=True) and hours[0] > 1.5 * hours[-1]
    hours = [made("cpt_70b", n, "H100").cost.hours for n in (32, 64, 128, 256)]
    assert hours == sorted(hours, reverse=True)


def test_an_adapter_takes_less_memory_less_wire_and_four_flops_an_element_instead_of_six():
    whole, adapter = (made("cpt_70b", 64, "H100", *words) for words in ((), ("adapter.rank=64",)))
    assert adapter.peak < 0.7 * whole.peak and adapter.saving.nbytes < 0.1 * whole.saving.nbytes
    assert adapter.wire.weights == whole.wire.weights and adapter.wire.gradients < 0.05 * whole.wire.gradients
    # the forward, the backward without weights' gradients, the forward again: 6 of 8
    assert adapter.times.products / whole.times.products == pytest.approx(6 / 8, rel=0.01)
    assert adapter.rate > 1.1 * whole.rate


def test_what_a_node_sends_is_the_arithmetic_of_the_wire():
    """4 micro-steps of 2 x 138 GB of bf16 weights, less two layers of 80 that stay, and 276 GB of gradients in fp32; 63 of 64 parts of it."""
    assert made("cpt_70b", 64, "H100").wire.total == pytest.approx((16 - 4 * 2 / 80) * 2 * 68_976_648_192 * 63 / 64, rel=1e-2)
    assert made("cpt_7b", 8, "H100").wire.total == 0


def test_attention_is_counted_over_the_documents_of_shards_that_are_here(tmp_path):
    """Documents of 100, 300 and 2,500 tokens in rows of 1,000: pieces of 100, 300, 1,000, 1,000, 500."""
    lengths = {"a": [100, 300], "b": [2500]}
    tiny.write_tokenizer(tmp_path / "model")
    for name, those in lengths.items():
        tiny.write_shards(tmp_path / name, tmp_path / "model", [np.full(n, 5) for n in those])
    words = ["data.seq_len=1000", "tokens_per_step=64000", "model.path=models/Llama-2-7b-hf"]
    here = load(tiny.write_recipe(tmp_path), words)
    sources = {name: dataclasses.replace(next(iter(here.data.sources.values())), path=tmp_path / name, weight=None) for name in lengths}
    here = dataclasses.replace(here, data=dataclasses.replace(here.data, sources=sources))
    assert attended(here) == pytest.approx((100**2 + 300**2 + 2 * 1000**2 + 500**2) / 2900)
    weighed = {"a": dataclasses.replace(sources["a"], weight=3), "b": dataclasses.replace(sources["b"], weight=1)}
    here = dataclasses.replace(here, data=dataclasses.replace(here.data, sources=weighed))
    assert attended(here) == pytest.approx(3 / 4 * (100**2 + 300**2) / 400 + 1 / 4 * (2 * 1000**2 + 500**2) / 2500)
    assert attended(load("cpt_7b")) is None
    whole, short = made("cpt_7b", 8, "H100"), made("cpt_7b", 8, "H100", setting=Setting(attended=300.0))
    assert short.times.attention == pytest.approx(whole.times.attention * 300 / 4096) and short.rate > whole.rate


def test_search_proposes_what_fits_and_is_no_slower_in_words_that_a_recipe_takes():
    recipe = load("cpt_7b", FULL)
    there = cluster(gpu_named("A100"), 8)
    found = search(recipe, of_recipe(recipe), there, Setting())
    best, plain = found[0], made("cpt_7b", 8, "A100", *FULL)
    assert best.forecast.fits and not best.forecast.near and best.forecast.rate > 1.15 * plain.rate
    again = made("cpt_7b", 8, "A100", *{word.split("=")[0]: word for word in (*FULL, *best.words.split())}.values())
    assert again.rate == pytest.approx(best.forecast.rate) and again.fits
    # 4,550 and 4,641 are published without checkpointing, 3,684 with; bf16 on the wire is worth nothing inside a node
    assert re.search("activation_checkpointing=(none|selective)", best.words) and "reduce_dtype" not in best.words
    assert any("activation_checkpointing=none" in f.words and f.forecast.rate == pytest.approx(4550, rel=0.1) for f in found)
    assert any(not f.words for f in found)  # the recipe as it is, for comparison


def test_search_takes_hpz_only_over_nodes_and_offload_only_where_nothing_else_fits():
    recipe = load("cpt_70b")
    assert all("hpz" not in f.words for f in search(recipe, of_recipe(recipe), cluster(gpu_named("B200"), 8), Setting()))
    slow = search(recipe, of_recipe(recipe), cluster(gpu_named("H100"), 64, None, 200), Setting())
    assert "hpz" in slow[0].words
    few = search(recipe, of_recipe(recipe), cluster(gpu_named("H100"), 16), Setting())
    assert few and "offload" in few[0].words


def result(**changes) -> dict:
    row = {"batches": "packed", "useful tokens/s": 8000.0, "a rank": 8000.0}
    base = {
        "model": "x, 6,738,415,616 parameters, bf16", "ranks": 1, "device": "NVIDIA H100 80GB HBM3", "engine": "ds_configs/zero3.json, fused",
        "batch": "8,192 places a step: 1 micro-batches of 2 rows of 4096 a rank", "rows": [row],
    }  # fmt: skip
    return base | changes


def test_a_measured_run_corrects_the_rate_of_the_same_model_on_the_same_gpus(tmp_path):
    recipe, gpu = load("cpt_7b"), gpu_named("H100")
    sizes = of_recipe(recipe).sizes
    file = tmp_path / "train.json"

    def of(report) -> float:
        file.write_text(json.dumps(report))
        return factor(file, recipe, sizes, gpu)

    slow = of(result())
    assert of(result(rows=[{"a rank": 4000.0}])) == pytest.approx(2 * slow)
    plain, corrected = made("cpt_7b", 8, "H100"), made("cpt_7b", 8, "H100", setting=Setting(measured=slow))
    assert corrected.rate == pytest.approx(plain.rate / slow)
    for bad, said in (
        (result(model="x, 1,000 parameters"), "of a model of 1,000 parameters, the recipe's has 6,738,415,616"),
        (result(device="cpu"), "measured on cpu, the plan is for H100"),
        (result(device="Wonder 9"), "whose peak is not known"),
        (result(rows=[]), "not a result of `benchmark.py train --json`"),
        ([], "not a JSON object"),
    ):
        with pytest.raises(MeasuredError, match=said):
            of(bad)
    with pytest.raises(MeasuredError, match="cannot be read"):
        factor(tmp_path / "none.json", recipe, sizes, gpu)


LORA = ("cpt_7b_lora", 1, "H200")


def test_an_adapters_flops_are_four_an_element_and_bringing_its_base_from_main_memory_takes_time():
    plain, away = made(*LORA), made(*LORA, "deepspeed=ds_configs/zero3_offload_all.json")
    assert plain.job.flops_per_token(0) == 4 * plain.job.sizes.computed
    # 13.5 GB twice a micro-step, at 20 GB/s
    assert away.times.optimizer - plain.times.optimizer > 2 * 2 * 6.7e9 / 20e9 * 0.99
    assert away.rate < plain.rate


def test_a_base_in_four_bits_is_smaller_slower_and_offered_where_an_adapter_does_not_fit():
    plain, packed = made(*LORA), made(*LORA, "model.quantize=nf4")
    assert packed.memory.need("device") < plain.memory.need("device") - 8 * GIB and 0.5 * plain.rate < packed.rate < 0.95 * plain.rate
    words = "model.quantize=nf4"
    assert words in made("sft_70b_lora", 8, "4090").remedies and made("sft_70b_lora", 8, "4090", *words.split()).fits
    assert not any("quantize" in r for r in made("cpt_70b", 8, "A100").remedies)
    over_nodes = ("model.quantize=nf4", "model.activation_checkpointing=full", "micro_batch=1")
    less, more = (made("sft_70b_lora", 16, "A100", *w).wire.weights for w in (over_nodes, over_nodes[1:]))
    assert 0.25 < less / more < 0.35


def test_a_runs_hours_count_the_saves_that_its_recipe_asks_for():
    """966 GB at 2 GB/s, 483 s every 100 steps: an eighth of the time, which a save behind the steps does not take."""
    often = made("cpt_70b", 64, "H100")
    assert often.lost == pytest.approx(483 / (483 + 100 * often.seconds_per_step), rel=0.05)
    assert often.cost.hours == pytest.approx(
        often.recipe.total_steps * often.recipe.tokens_per_step / often.rate / 64 / 3600 / (1 - often.lost)
    )
    said = "\n".join(lines(often))
    assert "with checkpoint.background=true" in said and f"{often.lost:.1%} of the time to saves and failures" in said
    assert made("cpt_70b", 64, "H100", "checkpoint.background=true").lost < 0.01
    assert "least with none but the last" in "\n".join(lines(made("sft_7b", 8, "A100", "tokens=1e8", "checkpoint.every_steps=5")))


def test_what_a_plan_rests_on_is_said():
    assert "guesses" not in lines(made("cpt_7b", 8, "A100"))[-1]
    assert "no published run on B200" in lines(made("cpt_7b", 8, "B200"))[-1]
    assert "no published run of an adapter" in lines(made(*LORA))[-1]
    no = "\n".join(lines(made("cpt_70b", 16, "H100")))
    assert "V100 has no bf16" in "\n".join(lines(made("cpt_7b", 4, "V100"))) and "send less (--search)" in "\n".join(
        lines(made("cpt_70b", 64, "H100", gigabits=100))
    )
    assert "if it fitted" in no and "GiB of a node's main memory)" in no
