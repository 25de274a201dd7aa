import math

import pytest

from train.recipe.schedule import Curve

COSINE = {"kind": "cosine", "peak": 2e-5, "total": 100, "warmup": 10, "floor_ratio": 0.1}
WSD = {"kind": "wsd", "peak": 1.0, "total": 100, "warmup": 10, "floor_ratio": 0.1, "decay": 20}


def test_warm_up_is_linear_never_zero_and_reaches_the_peak_exactly_at_its_end():
    rates = [Curve(**COSINE).at(k) for k in range(11)]
    assert rates[0] > 0 and rates[10] == 2e-5
    assert [b - a for a, b in zip(rates, rates[1:])] == pytest.approx([2e-5 / 11] * 10)


def test_warm_up_means_the_same_in_tokens_as_in_steps():
    in_tokens = COSINE | {"total": 100 * 4096, "warmup": 10 * 4096, "step": 4096}
    assert [Curve(**in_tokens).at(k * 4096) for k in range(101)] == pytest.approx([Curve(**COSINE).at(k) for k in range(101)], rel=1e-12)


def test_cosine_follows_the_cosine_from_the_peak_to_the_floor():
    assert Curve(**COSINE).at(55) == pytest.approx(2e-5 * 0.55)
    assert Curve(**COSINE).at(32.5) == pytest.approx(2e-5 * (0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2))
    assert Curve(**COSINE).at(100) == pytest.approx(2e-6) == Curve(**COSINE).at(1000)


def test_wsd_is_flat_and_then_falls_in_a_line_to_the_floor():
    assert [Curve(**WSD).at(k) for k in (10, 50, 80)] == [1.0] * 3
    assert [Curve(**WSD).at(k) for k in (85, 90, 100, 200)] == pytest.approx([0.775, 0.55, 0.1, 0.1])


def test_constant_stays_at_the_peak():
    assert [Curve(**COSINE | {"kind": "constant"}).at(k) for k in (10, 99, 100, 500)] == [2e-5] * 4


def test_a_decay_longer_than_what_warm_up_leaves_starts_at_the_peak():
    assert Curve(**WSD | {"warmup": 95, "decay": 50}).at(95) == 1.0


def test_without_warm_up_the_first_step_has_the_peak():
    assert Curve(**COSINE | {"warmup": 0}).at(0) == 2e-5


@pytest.mark.parametrize(
    "changes", [{"warmup": 100}, {"warmup": 95, "decay": 50}, {"total": 1, "warmup": 0.03, "decay": 0.2}, {"decay": 0}]
)
def test_no_length_of_warm_up_or_decay_takes_the_rate_out_of_its_bounds(changes):
    for kind in ("cosine", "wsd", "constant"):
        rates = [Curve(**WSD | changes | {"kind": kind}).at(k) for k in range(130)]
        assert all(0 < rate <= 1.0 for rate in rates)
