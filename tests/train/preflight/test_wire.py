"""What ZeRO-3 sends between nodes, by arithmetic."""

import json
from pathlib import Path

import pytest

from train.preflight.wire import bytes_a_step

DS = Path(__file__).resolve().parents[3] / "ds_configs"


def llama2(layers: int, hidden: int, mlp: int, kv: int) -> list[int]:
    layer = [hidden * hidden, hidden * kv, hidden * kv, hidden * hidden, *[hidden * mlp] * 3, hidden, hidden]
    return [32000 * hidden, *layer * layers, hidden, 32000 * hidden]


SEVEN = (32, 4096, 11008, 4096)
SEVENTY = (80, 8192, 28672, 1024)


def zero(name: str, **values) -> dict:
    return json.loads((DS / name).read_text())["zero_optimization"] | values


@pytest.mark.parametrize("model, seen", [(SEVEN, 1.85), (SEVENTY, 1.99)])
def test_weights_gathered_agree_with_deepspeeds_own_coordinator(model, seen):
    """seen: DeepSpeed 0.19.8's, run on these shapes with zero3.json: volume gathered in a micro-batch, over the model's size."""
    numels = llama2(*model)
    wire = bytes_a_step(numels, zero("zero3.json"), ranks=2, nodes=2, micro_steps=1, element=2)
    assert wire.weights / (0.5 * 2 * sum(numels)) == pytest.approx(seen, rel=0.01)


def test_a_small_model_is_gathered_once_a_micro_batch():
    numels = llama2(2, 64, 172, 64)
    settings = dict(ranks=2, nodes=2, micro_steps=3, element=4)
    kept = bytes_a_step(numels, zero("zero3.json", stage3_param_persistence_threshold=0), **settings)
    assert kept.weights == 3 * 0.5 * 4 * sum(numels)
    again = bytes_a_step(numels, zero("zero3.json", stage3_param_persistence_threshold=0, stage3_max_reuse_distance=0), **settings)
    assert again.weights == 2 * kept.weights
    assert bytes_a_step(numels, zero("zero3.json"), **settings, gradient=2).gradients == kept.gradients / 2


def test_a_step_of_70b_on_8_nodes():
    """4 micro-batches on 64 GPUs: 4 x (2 + 2) times the 138 GB of the weights, 44 s at 400 Gb/s; by hpZ (1 + 8) times, 25 s."""
    numels = llama2(*SEVENTY)
    plain = bytes_a_step(numels, zero("zero3.json"), ranks=64, nodes=8, micro_steps=4, element=2)
    assert plain.seconds(400) == pytest.approx(44, rel=0.02)
    hpz = bytes_a_step(numels, zero("zero3_hpz.json"), ranks=64, nodes=8, micro_steps=4, element=2)
    assert hpz.seconds(400) == pytest.approx(25, rel=0.03)
    assert bytes_a_step(numels, zero("zero3.json"), ranks=8, nodes=1, micro_steps=4, element=2).total == 0
