"""Hours, dollars and the interval between saves, against other ways to find them."""

import math

import pytest

from train.preflight.planner.clusters import HOURS_BETWEEN_FAILURES, cluster, gpu_named
from train.preflight.planner.cost import RESTART, cost, optimal_interval, saving


def test_a_run_takes_its_tokens_over_the_rate():
    """3.3e9 tokens at 956 a second and GPU: 959 H100-hours, 15 hours on 64 of them."""
    found = cost(3.3e9, 956, cluster(gpu_named("H100"), 64), 0.0, 2.5)
    assert found.gpu_hours == pytest.approx(958.9, abs=0.1) and found.hours == pytest.approx(14.98, abs=0.01)
    assert found.dollars == pytest.approx(2397.1, abs=0.3)
    assert cost(3.3e9, 956, cluster(gpu_named("H100"), 64), 0.5, 2.5).hours == pytest.approx(2 * found.hours)


@pytest.mark.parametrize(("save", "failure"), [(5, 3600), (60, 86400), (600, 86400), (900, 4000)])
def test_the_interval_loses_least_by_dalys_own_model_of_a_run(save, failure):
    """Expected time a useful second, exponential failures: M (exp((t + d) / M) - 1) / t (Daly 2006, eq. 13 without restarts); its least by search."""

    def slowness(interval: float) -> float:
        return failure * math.expm1((interval + save) / failure) / interval

    best = min(slowness(failure * k / 5000) for k in range(1, 15000))
    assert slowness(optimal_interval(save, failure)) < best * 1.001


def test_failures_come_as_llama_3s_did_and_a_save_behind_the_steps_costs_a_copy():
    """419 in 54 days of 16,384 GPUs: a cluster of 64 fails every month."""
    there = cluster(gpu_named("H100"), 64)
    assert HOURS_BETWEEN_FAILURES == pytest.approx(50_670, rel=0.001)
    ahead, behind = (saving(966e9, there, 2e9, background) for background in (False, True))
    assert ahead.seconds == pytest.approx(483) and behind.seconds == pytest.approx(966e9 / 64 / 20e9)
    assert ahead.failure_hours == pytest.approx(792, rel=0.001)
    assert ahead.lost == pytest.approx(
        ahead.seconds / (ahead.every + ahead.seconds) + (ahead.every / 2 + RESTART) / (ahead.failure_hours * 3600)
    )
    assert behind.every < ahead.every and behind.lost < ahead.lost < 0.03
