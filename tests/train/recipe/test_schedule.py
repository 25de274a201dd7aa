import math

import pytest

from train.recipe.schedule import lr_at

COSINE = {"kind": "cosine", "peak": 2e-5, "total": 100, "warmup": 10, "floor_ratio": 0.1}
WSD = {"kind": "wsd", "peak": 1.0, "total": 100, "warmup": 10, "floor_ratio": 0.1, "decay": 20}


def test_warm_up_is_linear_never_zero_and_reaches_the_peak_exactly_at_its_end():
    rates = [lr_at(k, **COSINE) for k in range(11)]
    assert rates[0] > 0 and rates[10] == 2e-5
    assert [b - a for a, b in zip(rates, rates[1:])] == pytest.approx([2e-5 / 11] * 10)


def test_warm_up_means_the_same_in_tokens_as_in_steps():
    in_tokens = COSINE | {"total": 100 * 4096, "warmup": 10 * 4096, "step": 4096}
    assert [lr_at(k * 4096, **in_tokens) for k in range(101)] == pytest.approx([lr_at(k, **COSINE) for k in range(101)], rel=1e-12)


def test_cosine_follows_the_cosine_from_the_peak_to_the_floor():
    assert lr_at(55, **COSINE) == pytest.approx(2e-5 * 0.55)
    assert lr_at(32.5, **COSINE) == pytest.approx(2e-5 * (0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2))
    assert lr_at(100, **COSINE) == pytest.approx(2e-6) == lr_at(1000, **COSINE)


def test_wsd_is_flat_and_then_falls_in_a_line_to_the_floor():
    assert [lr_at(k, **WSD) for k in (10, 50, 80)] == [1.0] * 3
    assert [lr_at(k, **WSD) for k in (85, 90, 100, 200)] == pytest.approx([0.775, 0.55, 0.1, 0.1])


def test_constant_stays_at_the_peak():
    assert [lr_at(k, **(COSINE | {"kind": "constant"})) for k in (10, 99, 100, 500)] == [2e-5] * 4


def test_a_decay_longer_than_what_warm_up_leaves_starts_at_the_peak():
    assert lr_at(95, **(WSD | {"warmup": 95, "decay": 50})) == 1.0


def test_without_warm_up_the_first_step_has_the_peak():
    assert lr_at(0, **(COSINE | {"warmup": 0})) == 2e-5


@pytest.mark.parametrize(
    "changes", [{"warmup": 100}, {"warmup": 95, "decay": 50}, {"total": 1, "warmup": 0.03, "decay": 0.2}, {"decay": 0}]
)
def test_no_length_of_warm_up_or_decay_takes_the_rate_out_of_its_bounds(changes):
    for kind in ("cosine", "wsd", "constant"):
        rates = [lr_at(k, **(WSD | changes | {"kind": kind})) for k in range(130)]
        assert all(0 < rate <= 1.0 for rate in rates)
