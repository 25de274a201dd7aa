"""Figures that are drawn block by block equal those of the whole table of cosines."""

import numpy as np
import pytest

from train.evaluation.embedding import similarity
from train.evaluation.embedding.papers import halves
from train.evaluation.embedding.similarity import neighbours, ranks, spread, unit


@pytest.fixture
def vectors(monkeypatch) -> np.ndarray:
    monkeypatch.setattr(similarity, "ROWS", 7)
    return np.random.default_rng(0).normal(0.3, 1, (40, 8)).astype(np.float32)


def test_spread_is_that_of_all_pairs(vectors):
    told = spread(unit(vectors.copy()))
    table = vectors @ vectors.T
    lengths = np.linalg.norm(vectors, axis=1)
    cosines = (table / np.outer(lengths, lengths))[np.triu_indices(40, 1)]
    assert told.counts.sum() == 780 and abs(told.mean - cosines.mean()) < 1e-6 and abs(told.deviation - cosines.std()) < 1e-6
    for share in (0.05, 0.5, 0.95):
        assert abs(told.quantile(share) - np.quantile(cosines, share)) < 0.05


def test_centring_takes_the_mean_off(vectors):
    centred = unit(vectors.copy(), vectors.mean(axis=0))
    assert spread(centred).mean < spread(unit(vectors.copy())).mean - 0.05


def test_ranks_are_the_places_in_the_sorted_row_and_ties_count_against(vectors):
    targets = unit(vectors.copy())
    queries = unit(vectors + np.random.default_rng(1).normal(0, 1, vectors.shape).astype(np.float32))
    table = queries @ targets.T
    told = [1 + int((table[n] > table[n, n]).sum()) for n in range(40)]
    assert ranks(queries, targets).tolist() == told and len(set(told)) > 3
    same = np.repeat(targets[:1], 5, axis=0)
    assert ranks(same, same).tolist() == [5] * 5


def test_neighbours_are_those_of_the_whole_table(vectors):
    kinds = ["a", "b", "b", "c"] * 9 + ["a", "a", "alone", "c"]
    units = unit(vectors + np.array([[kinds[n] == "a"] * 8 for n in range(40)], np.float32))
    told = neighbours(units, kinds, k=5)
    table = units @ units.T
    same, auc = [], []
    for n in range(40):
        others = [m for m in range(40) if m != n]
        alike = [m for m in others if kinds[m] == kinds[n]]
        if alike:
            nearest = sorted(others, key=lambda m: table[n, m])[-5:]
            same.append(sum(kinds[m] == kinds[n] for m in nearest) / 5)
            auc.append(np.mean([table[n, m] > table[n, d] for m in alike for d in others if kinds[d] != kinds[n]]))
    assert len(told.same) == 39 and np.allclose(told.same, same) and np.allclose(told.auc, auc)
    assert neighbours(units, ["x"] * 40) is None and neighbours(units, [str(n) for n in range(40)]) is None


def test_an_abstract_is_cut_between_sentences_near_its_middle():
    assert halves("One star shines. Two stars dance. Three stars fall.") == ("One star shines. Two stars dance.", "Three stars fall.")
    assert halves("a sentence without any end at all") == ("a sentence without", "any end at all")
