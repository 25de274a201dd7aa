"""Rates from made-up times, the readable line, and metrics.jsonl across a resume."""

import json

import pytest
import torch

from train.model.flops import flops_per_token
from train.recipe.vocabulary import Logging
from train.run.metrics_log import MetricsLog, lines
from train.run.rates import Flops, StepNumbers, rates
from train.world.ranks import World
from train.world.voice import readable_time

ALONE = World(0, 1, 0, torch.device("cpu"))
STEP = StepNumbers(
    step=3, loss=2.5, lr=1e-5, grad_norm=1.25, tokens=3000, step_tokens=1000, supervised=990, seconds=2.0, wait_seconds=0.5, attended=100.0
)


def test_rates_come_from_tokens_and_times():
    r = rates(STEP, Flops(ranks=4, seq_len=512, dense=1e9, attention=1e6, peak_tflops=1.0), steps_left=10, seconds_a_step=3.0)
    assert r["tokens_per_second"] == 500 and r["tokens_per_second_per_rank"] == 125
    assert r["mfu"] == pytest.approx(500 * (1e9 + 512e6) / 4e12)
    assert r["mfu_attended"] == pytest.approx(500 * (1e9 + 100e6) / 4e12)
    assert r["data_wait_share"] == 0.25 and r["eta_seconds"] == 30.0
    assert rates(STEP, Flops(1, 512, 1e9, 1e6, None), 0, 0)["mfu"] is None


def test_the_line_is_readable():
    r = rates(STEP, Flops(4, 512, 1e9, 1e6, 1.0), 10, 370.0)
    text, *shorter = lines(STEP, 13, r, 3 << 30)
    assert text == "step 3/13  loss 2.5000  lr 1.00e-05  norm 1.250  500 tok/s  MFU 18.9%  mem 3.00 GiB  wait 25%  ETA 1h01m"
    assert shorter[-1] == "step 3/13  loss 2.5000" and all(len(a) >= len(b) for a, b in zip([text, *shorter], shorter))
    assert readable_time(59) == "0m59s" and readable_time(3600 * 49) == "2d01h"


def test_flops_of_a_token_are_the_published_ones_of_llama_2_7b():
    from transformers import LlamaConfig

    config = LlamaConfig(vocab_size=32000, hidden_size=4096, num_hidden_layers=32, num_attention_heads=32)
    assert flops_per_token(config, 6_738_415_616, 0) / 1e9 == pytest.approx(39.6, abs=0.1)
    assert flops_per_token(config, 6_738_415_616, 4096) / 1e9 == pytest.approx(46.06, abs=0.05)  # NeMo's printed figure


def test_lines_beyond_the_resumed_step_and_half_lines_are_dropped(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 3}\n{"step": 2, "loss": 2}\n{"step": 3, "lo')
    log = MetricsLog(tmp_path, ALONE, Flops(1, 8, 1.0, 1.0, None), Logging(every_steps=1, tensorboard=False), 5, start_step=1)
    log.step(STEP)
    log.close()
    assert [json.loads(t)["step"] for t in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 3]


def test_a_loss_that_is_not_finite_is_null_in_the_json_and_said_in_the_line(tmp_path, capsys):
    log = MetricsLog(tmp_path, ALONE, Flops(1, 8, 1.0, 1.0, None), Logging(every_steps=10, tensorboard=False), 5, start_step=0)
    log.step(StepNumbers(**{**STEP.__dict__, "loss": float("nan"), "skipped": True, "why": "not finite"}))
    log.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss"] is None
    assert "SKIPPED, not finite" in capsys.readouterr().out
