"""Every pair of nodes meets once, in rounds in which nobody is asked twice."""

from __future__ import annotations

import itertools

import pytest

from train.preflight.doctor.network import tournament
from train.world.environment import own_address


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 16, 33])
def test_each_pair_meets_once_and_nobody_twice_in_a_round(count):
    players = [8 * i for i in range(count)]
    rounds = tournament(players)
    met = [tuple(sorted(pair)) for pairs in rounds for pair in pairs]
    assert sorted(met) == list(itertools.combinations(players, 2))
    for pairs in rounds:
        asked = [p for pair in pairs for p in pair]
        assert len(asked) == len(set(asked))
    assert len(rounds) <= count  # as few as can be, or one more


def test_the_address_is_the_named_interfaces_or_the_one_that_leads_to_rank_0():
    assert own_address({"GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1"}) == "127.0.0.1"
    assert own_address({"MASTER_ADDR": "localhost"}) == "127.0.0.1"
