"""Intervals and tests against what is known without them."""

import math
from fractions import Fraction

import numpy as np

from train.evaluation import intervals


def test_a_bootstrap_interval_of_a_mean_is_as_wide_as_theory_says():
    values = np.random.default_rng(0).normal(5, 2, 800)
    found = intervals.of_ratio(values, np.ones(800))
    half = 1.96 * values.std() / math.sqrt(800)
    assert abs(found.low - (values.mean() - half)) < 0.1 * half and abs(found.high - (values.mean() + half)) < 0.1 * half


def test_values_of_one_unit_are_drawn_together():
    values = np.repeat(np.random.default_rng(1).normal(0, 1, 100), 5)
    alone, together = (intervals.of_ratio(values, np.ones(500), units) for units in (None, [n // 5 for n in range(500)]))
    widths = [one.high - one.low for one in (alone, together)]
    assert 2.0 < widths[1] / widths[0] < 2.5  # sqrt(5) = 2.24


def test_the_same_values_give_the_same_interval():
    values = np.arange(50.0)
    assert intervals.of_ratio(values, np.ones(50)) == intervals.of_ratio(values, np.ones(50))


def test_mcnemar_is_the_exact_binomial_test():
    for a, b in ((0, 0), (1, 0), (3, 9), (12, 12), (40, 70), (900, 800)):
        tail = sum(Fraction(math.comb(a + b, k), 2 ** (a + b)) for k in range(min(a, b) + 1))
        assert math.isclose(intervals.p_of_mcnemar(a, b), min(1.0, float(2 * tail)), rel_tol=1e-9), (a, b)


def test_wilson_is_the_published_interval():
    for right, count, low, high in ((0, 10, 0.0, 0.2775), (7, 10, 0.3968, 0.8922), (81, 263, 0.2553, 0.3662)):  # the last: Newcombe 1998
        found = intervals.wilson(right, count)
        assert abs(found.low - low) < 1e-4 and abs(found.high - high) < 1e-4


def test_sign_flips_tell_a_difference_from_none():
    rng = np.random.default_rng(2)
    assert intervals.p_of_sign_flips(rng.normal(0.5, 1, 200)) < 0.001
    assert intervals.p_of_sign_flips(rng.normal(0, 1, 200)) > 0.05
    few = np.array([1.0, 2.0, 3.0])  # of 8 ways to choose signs two reach the sum
    assert abs(intervals.p_of_sign_flips(few) - 0.25) < 0.02
