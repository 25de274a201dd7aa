"""`launch/benchmark.py train`: the real step of a recipe is what is measured, and padded batches hold the very same documents."""

import gzip
import json
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from data_tools.shards.writer import ShardWriter
from launch.benchmark import main
from tests.made import processes, tiny
from train.benchmark.step import account
from train.benchmark.step.job import Job, recipe_of
from train.benchmark.step.made import MadeDocuments, lengths
from train.benchmark.step.padded import padded
from train.recipe.vocabulary import RecipeError


def written(folder) -> dict:
    """A recipe of a tiny model on shards of its own."""
    config = tiny.save_tiny(folder / "model")
    writer = ShardWriter(folder / "shards", kind="corpus", vocab_size=64, tokenizer={"fingerprint": "f"})
    rng = np.random.default_rng(0)
    for i, n in enumerate(rng.integers(3, 30, 600)):
        writer.add(str(i), "s", rng.integers(0, 64, n))
    writer.finish()
    recipe = {
        "name": "tiny", "steps": 50, "tokens_per_step": 512, "micro_batch": 2, "model": {"path": str(folder / "model"), "dtype": "fp32"},
        "data": {"seq_len": 64, "packing": "whole", "sources": {"s": {"path": str(folder / "shards")}}}, "deepspeed": "ds_configs/cpu.json",
    }  # fmt: skip
    (folder / "r.yaml").write_text(yaml.safe_dump(recipe))
    return config


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> dict:
    """Two ranks under the deepspeed launcher, as a user of a cluster calls it: packed and padded, with a trace and the collectives."""
    folder = tmp_path_factory.mktemp("bench")
    written(folder)
    words = "--steps 2 --warmup 0 --compare padded --peak-tflops 0.001 --collectives micro_batch=2 --accumulation 1".split()
    command = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", "2", "--master_port", processes.free_port()]
    command += ["launch/benchmark.py", "train", folder / "r.yaml", *words, "--profile", folder / "trace", "--json", folder / "f.json"]
    done = processes.run(command, env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "f.json").read_text()) | {"printed": done.stdout}


@pytest.mark.slow
def test_a_report_tells_speed_mfu_memory_and_where_they_come_from(report):
    assert report["command"].startswith("python launch/benchmark.py train") and report["commit"] and report["date"].startswith("20")
    packed = report["rows"][0]
    assert (
        report["ranks"] == 2 and packed["useful tokens/s"] == pytest.approx(2 * packed["a rank"]) == 2 * report["tokens_per_second_per_gpu"]
    )
    assert packed["MFU %"] > packed["MFU attended %"] > packed["MFU, 6N %"] > 0 and packed["HFU %"] == packed["MFU %"]
    assert report["peak_memory_gib"] > 0.05 and report["versions"]["torch"] and report["interconnect"]
    assert report["recipe"]["micro_batch"] == 2 and report["recipe"]["tokens_per_step"] == 2 * 1 * 2 * 64
    assert report["printed"].count("useful tokens/s a rank") == 1  # one rank talks


@pytest.mark.slow
def test_padded_steps_have_the_losses_of_the_packed_ones_and_waste_more(report):
    packed, longest, whole = report["rows"]
    assert packed["useful %"] > longest["useful %"] > whole["useful %"]
    for row in (longest, whole):
        assert report[f"largest loss difference, {row['batches']}"] < 1e-5
        assert report[f"packed / {row['batches']}"] == pytest.approx(packed["useful tokens/s"] / row["useful tokens/s"], abs=0.01)


@pytest.mark.slow
def test_a_step_is_told_apart_into_phases_communication_and_operations(report):
    assert {"data", "forward", "backward", "agreement", "optimizer"} <= {row["phase"] for row in report["phases"]}
    assert sum(row["share %"] for row in report["phases"]) == pytest.approx(100)
    step = report["of a step"]
    assert 0 < step["waiting for data %"] <= step["all but forward, backward and optimizer %"] < 60
    sent = report["communication, seconds of a step under the profiler, on the slowest rank"]
    assert sent["busy"] > 0 and sent["busy"] >= max(sent["exposed"], sent["hidden"])
    assert len(report["dearest"]) == 10 and any(
        word in row["operation"] for row in report["dearest"] for word in ("mm", "linear", "product")
    )
    with gzip.open(report["trace"]) as file:
        names = {event.get("name") for event in json.load(file)["traceEvents"]}
    assert {"phase: forward", "phase: optimizer", "gloo:all_gather"} <= names and report["trace"].endswith(".pt.trace.json.gz")


@pytest.mark.slow
def test_collectives_are_timed_at_the_sizes_of_the_recipe(report):
    kinds = {row["collective"] for row in report["collectives"]}
    assert kinds == {"all-gather", "reduce-scatter"} and all(row["GB/s (bus)"] > 0 for row in report["collectives"])
    assert any("a decoder layer" in row["of"] for row in report["collectives"]) and "scattered" in report["collectives of a step"]


def test_flops_are_those_of_the_formulas_and_recomputed_ones_count_as_hardware_only():
    config = SimpleNamespace(vocab_size=32000, hidden_size=4096, num_attention_heads=32, num_hidden_layers=32, tie_word_embeddings=False)
    n = 6_738_415_616  # LLaMA-2-7B
    plain = account.Shape.of(config, n, "none", 4096, 1e15)
    assert plain.model(0) == 6 * (n - 32000 * 4096) and plain.model(4096) / 1e9 == pytest.approx(
        46.09, abs=0.01
    )  # as published tables have it
    assert plain.hardware(4096) == plain.model(4096)
    full = account.Shape.of(config, n, "full", 4096, 1e15)
    assert full.model(4096) == plain.model(4096)
    assert full.hardware(4096) / full.model(4096) == pytest.approx(4 / 3, abs=0.01)  # but for the head, which is not computed again
    half = account.Shape.of(config, n, "every_other", 4096, 1e15)
    assert half.hardware(4096) - half.model(4096) == pytest.approx((full.hardware(4096) - full.model(4096)) / 2)


def test_what_is_neither_forward_backward_nor_optimizer_is_told_as_a_share_of_the_step():
    seconds = {"data": 0.5, "forward": 4.0, "backward": 4.0, "agreement": 0.25, "optimizer": 1.0, "logging": 0.25}
    assert account.besides(seconds) == {"all but forward, backward and optimizer %": 10, "waiting for data %": 5}


def test_a_table_gives_the_median_step_and_the_quartiles_apart():
    shape = account.Shape(dense=6e9, attention=1e6, again_dense=0, again_attention=0, seq_len=1000, peak=1e13)
    steps = [account.Taken(1000, 2000, 100, seconds, 0.1, 1.0) for seconds in (1.0, 2.0, 4.0)]
    row = account.row("packed", steps, shape, 2, 100)
    assert row["useful tokens/s"] == 500 and row["a rank"] == 250 and (row["slowest"], row["fastest"]) == (250, 1000)
    assert row["spread %"] == pytest.approx(100 * (750 - 375) / 500) and row["useful %"] == 50 and row["seconds a step"] == 2
    assert row["MFU %"] == pytest.approx(100 * 250 * 7e9 / 1e13) and row["MFU, 6N %"] == pytest.approx(100 * 250 * 6e9 / 1e13)


def test_a_recipe_is_measured_as_it_stands_but_for_the_words_and_the_accumulation(tmp_path):
    written(tmp_path)
    job = Job(recipe=str(tmp_path / "r.yaml"))
    assert recipe_of(job, 2, False).rows_per_step == 8 and recipe_of(job, 2, False).micro_batch == 2
    changed = job.with_words(("micro_batch=16", "activation_checkpointing=full"))
    assert changed.with_words(("micro_batch=4",)).overrides.count("micro_batch=4") == 1
    with pytest.raises(RecipeError, match="a step has only 8 rows"):
        recipe_of(changed, 1, False)
    import dataclasses

    wide = recipe_of(dataclasses.replace(changed, accumulation=3), 2, False)
    assert wide.rows_per_step == 16 * 3 * 2 and wide.model.activation_checkpointing == "full"
    made = recipe_of(Job(size="7b", overrides=("seq_len=100",)), 4, True)
    assert made.data.seq_len == 100 and made.tokens_per_step == 4 * 4 * 100 and made.model.dtype == "bf16"


def test_padding_moves_every_document_and_label_and_adds_none():
    rng = np.random.default_rng(0)
    documents = tiny.random_documents(rng, [9, 4, 30, 7, 12])
    packed = tiny.pack_by_hand(documents, 70)
    alone = SimpleNamespace(max=lambda values: [values[0] + 1])  # another rank has one micro-batch more
    for row in (0, 40):
        batches = padded([packed], 2, row, rng, alone)
        assert len(batches) == 4 and batches[-1].supervised == 0
        found = []
        for batch in batches:
            edges = batch.cu_seqlens.tolist()
            for a, b in zip(edges, edges[1:]):
                real = batch.source[a:b] >= 0
                tokens, labels = batch.tokens[0, a:b], batch.labels[0, a:b]
                assert row in (0, b - a) and (labels[~real] == -100).all()
                if real.any():
                    assert labels[real][:-1].equal(tokens[real][1:])
                    found.append(tokens[real].tolist())
        assert sorted(found) == sorted(d.tolist() for d in documents)


def test_made_documents_are_as_long_as_asked_for_and_alike_every_time():
    made = lengths(8 * 4 * 4096 * 40, 654, 4096)
    assert 600 < made.mean() < 700 and made.max() <= 4096
    one = MadeDocuments(made, 1000)
    assert (one.tokens(3) == MadeDocuments(made, 1000).tokens(3)).all() and len(one.tokens(3)) == made[3]


@pytest.mark.parametrize(
    "words, said",
    [
        (["--steps", "0"], "--steps: 0 is not above 0"),
        (["--model", "m", "--size", "1m"], "--model and --size: give one of them"),
        (["a.yaml", "b.yaml"], "a.yaml b.yaml: one recipe at a time"),
        (["--size", "1m", "microbatch=2"], "microbatch: not a key of a recipe; did you mean micro_batch?"),
        (["--size", "1m", "every_steps=2"], "every_steps: not a key of a recipe; it is one of"),
        (["--compare", "x.json"], "give padded, or two files of --json"),
        (["--again", "--compare", "no.json", "no.json"], "no.json: cannot be read"),
        (["no_such_recipe", "--sweep", "micro_batch=1"], "no_such_recipe"),
        (["--size", "1m", "--sweep", "micro_batch"], "give key=value,value"),
    ],
)
def test_what_cannot_be_measured_is_named(words, said, capsys):
    try:
        assert main(["train", *words]) == 1
    except SystemExit as ended:
        assert ended.code == 2
    assert said in capsys.readouterr().err
