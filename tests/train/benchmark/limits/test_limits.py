"""`launch/benchmark.py limits`: what a step is held against does the work it says, and a start's first step is seen when its line is whole."""

import numpy as np
import pytest

from data_tools.shards.writer import ShardWriter
from tests.made import tiny
from tests.made.ranks import run_ranks
from train.benchmark.limits import calls, plain, products
from train.benchmark.step.job import Job


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("limits")
    tiny.save_tiny(folder / "model")
    writer = ShardWriter(folder / "shards", kind="corpus", vocab_size=tiny.VOCAB, tokenizer={"fingerprint": "f"})
    rng = np.random.default_rng(0)
    for i, n in enumerate(rng.integers(3, 30, 200)):
        writer.add(str(i), "s", rng.integers(0, 64, n))
    writer.finish()
    words = ("data.seq_len=64", "micro_batch=2", "data.packing=whole", "deepspeed=cpu", "model.loss_chunk=48")
    return Job(
        model=str(folder / "model"), shards=str(folder / "shards"), overrides=words, accumulation=1, steps=2, warmup=1, phases=False
    ).to_dict()  # fmt: skip


def _of_rank(world, given):
    return plain.measure(given, world), products.measure(given, world)


@pytest.mark.slow
def test_plain_data_parallel_and_the_products_alone_take_the_steps_rows(job):
    for got, alone in run_ranks(_of_rank, 2, job):
        assert got["seconds"] > 0 and alone["tokens/s"] > 0
        c = tiny.tiny_config()
        width, mlp = c.hidden_size, c.intermediate_size
        kv = width * c.num_key_value_heads // c.num_attention_heads
        layer = 2 * width * width + 2 * width * kv + 3 * width * mlp
        linear = c.num_hidden_layers * layer + width * c.vocab_size
        assert alone["GFLOP/s"] * 1e9 / alone["tokens/s"] == pytest.approx(6 * linear)


def test_a_first_step_counts_when_its_line_is_whole(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    assert not calls._has_step(metrics)
    for text, there in (('{"step": 0, "heldout": 1}\n', False), ('{"step": 1, "lo', False), ('{"step": 1, "loss": 2.0}\n', True)):
        metrics.write_text(text)
        assert calls._has_step(metrics) == there


def test_ratios_are_of_two_within_a_pair():
    row = calls._row("plain", [(2.0, 1.0), (3.0, 2.0), (8.0, 2.0)])
    assert (row["ratio"], row["from"], row["to"]) == (2.0, 1.5, 4.0)
