"""Every token but a document's first is scored once, with something before it, however long documents and windows are."""

import numpy as np
import pytest

from train.evaluation.perplexity.windows import Window, batches, cut


def test_a_document_that_fits_is_one_window():
    assert cut([5, 1, 0, 2], 8) == [Window(0, 0, 5, 1), Window(3, 0, 2, 1)]


def test_a_longer_one_is_read_in_windows_that_overlap():
    assert cut([10], 4, 2) == [Window(0, 0, 4, 1), Window(0, 2, 6, 4), Window(0, 4, 8, 6), Window(0, 6, 10, 8)]
    assert cut([7], 4, 1) == [Window(0, 0, 4, 1), Window(0, 3, 7, 4)]  # as lm-evaluation-harness reads it


@pytest.mark.parametrize("seed", range(20))
def test_each_token_is_scored_once_with_at_least_the_overlap_before_it(seed):
    rng = np.random.default_rng(seed)
    longest = int(rng.integers(2, 40))
    overlap = int(rng.integers(1, longest))
    lengths = rng.integers(0, 150, 12).tolist()
    scored: dict[int, list[int]] = {k: [] for k in range(12)}
    for w in cut(lengths, longest, overlap):
        assert 0 <= w.start < w.first < w.stop <= lengths[w.document] and w.stop - w.start <= longest
        assert w.start == 0 or w.first - w.start >= overlap
        scored[w.document] += range(w.first, w.stop)
    assert all(scored[k] == list(range(1, length)) for k, length in enumerate(lengths))


def test_batches_hold_every_window_in_order_and_no_more_tokens_than_asked():
    windows = cut([3, 9, 2, 40, 5], 16, 4)
    made = batches(windows, 20)
    assert [k for batch in made for k in batch] == list(range(len(windows))) and len(made) > 2
    assert all(len(batch) == 1 or sum(windows[k].stop - windows[k].start for k in batch) <= 20 for batch in made)
