"""Held-out rows and scores: the same tokens at every evaluation, the same loss at any number of ranks."""

import numpy as np

from tests.made.memory_shards import MemoryShards
from train.evaluation.heldout import heldout_rows

B = np.random.default_rng(2).integers(1, 60, 40).tolist()


def test_heldout_rows_are_fixed_whole_and_at_most_as_many_as_asked_for():
    shards = MemoryShards(B)
    rows = heldout_rows(shards, 32)
    assert rows.digest() == heldout_rows(shards, 32).digest()
    assert rows.tokens == sum(B) and np.bincount(rows.document).max() == 2  # longer ones are cut
    few = heldout_rows(shards, 32, max_rows=5)
    assert len(few) == 5 and few.document.tolist() == rows.span(0, 5).document.tolist()
    assert len(heldout_rows(shards, 32, max_rows=10_000)) == len(rows)
