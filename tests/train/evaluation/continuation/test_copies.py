"""The longest run of tokens that also stands in training shards, against a search through all of them."""

import numpy as np
import pytest

from tests.made.tiny import save_tiny, write_shards
from train.evaluation.continuation.copies import SEED, Copy, longest_copies


def plainly(text: list[int], documents: list[list[int]]) -> int:
    """By trying every run."""
    best = 0
    for document in documents:
        for i in range(len(text)):
            for j in range(len(document)):
                k = 0
                while i + k < len(text) and j + k < len(document) and text[i + k] == document[j + k]:
                    k += 1
                best = max(best, k)
    return best if best >= SEED else 0


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    from data_tools.shards.reader import Shards

    folder, rng = tmp_path_factory.mktemp("copies"), np.random.default_rng(0)
    documents = [rng.integers(3, 12, size=n) for n in (60, 3, 45, 80, 25)] + [np.full(40, 9)]
    save_tiny(folder / "model")
    return Shards.open(write_shards(folder / "shards", folder / "model", documents)), [d.tolist() for d in documents]


def test_it_is_as_long_as_a_search_of_all_runs_finds(ground):
    shards, documents = ground
    rng = np.random.default_rng(1)
    texts = [documents[0][10:40], [5, *documents[2][3:22], 4], documents[3][70:] + documents[4][:12], [9] * 50, [], [3] * 7]
    texts += [[*rng.integers(3, 12, 12), *documents[k % 5][k : k + 9 + k], *rng.integers(3, 12, 12)] for k in range(12)]
    texts = [[int(id) for id in text] for text in texts]
    found = longest_copies(texts, [shards])
    assert [one.tokens for one in found] == [plainly(text, documents) for text in texts]
    assert found[0] == Copy(30, 0, "a-0") and found[4] == Copy() and len({one.tokens for one in found}) > 6


def test_it_is_told_from_which_document_and_where_it_begins(ground):
    shards, documents = ground
    [one] = longest_copies([[300, 301, *documents[3][20:50], 300]], [shards])
    assert (one.tokens, one.start, one.document) == (30, 2, "a-3")
