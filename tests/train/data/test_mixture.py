import hashlib
import os
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.made import processes
from train.data.mixture import MixtureError, SourceSpec, epoch_documents, epoch_shares, require_tokens, tokens_available

# (sources, weight of the first, epoch) → sha256 of the documents in order
GOLDEN = {
    (1, None, 0): "b0686652",
    (1, None, 3): "eaaf3eed",
    (2, None, 0): "466a9507",
    (2, None, 3): "271701fa",
    (2, 2.0, 0): "19381402",
    (2, 2.0, 3): "2f2707b5",
}
LENGTHS = [np.random.default_rng(k).integers(5, 50, size) for k, size in enumerate((400, 60, 200))]
TOTALS = [int(n.sum()) for n in LENGTHS]
FIRST = np.cumsum([0, *(len(n) for n in LENGTHS)])
WEIGHTED = [SourceSpec("papers", 0.6), SourceSpec("chat", 0.1), SourceSpec("general", 0.3)]


def documents_of(source: int, documents: np.ndarray) -> np.ndarray:
    return documents[(documents >= FIRST[source]) & (documents < FIRST[source + 1])] - FIRST[source]


def tokens_of(source: int, documents: np.ndarray) -> int:
    return int(LENGTHS[source][documents_of(source, documents)].sum())


def test_without_weights_an_epoch_is_every_document_once_in_another_order_each_time():
    specs = [SourceSpec(name) for name in ("papers", "chat", "general")]
    epochs = [epoch_documents(LENGTHS, specs, seed=1, epoch=e) for e in range(3)]
    assert all(sorted(documents) == list(range(FIRST[-1])) for documents in epochs)
    assert len({tuple(documents) for documents in epochs}) == 3
    assert (epoch_documents(LENGTHS, specs, seed=2, epoch=0) != epochs[0]).any()


@pytest.mark.slow
def test_the_order_is_the_same_in_a_process_with_another_hash_seed():
    code = (
        "import numpy as np; from train.data.mixture import *\n"
        "n = [np.arange(1, 300), np.arange(1, 90)]\n"
        "print(epoch_documents(n, [SourceSpec('ä', .7), SourceSpec('b', .3)], 5, 2).tolist())"
    )
    runs = [processes.run([sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": s}) for s in "01"]
    assert runs[0].stdout == runs[1].stdout and len(runs[0].stdout) > 500, runs[0].stderr


def test_weights_are_shares_of_tokens_in_every_epoch():
    for epoch in range(6):
        documents = epoch_documents(LENGTHS, WEIGHTED, seed=0, epoch=epoch)
        shares = np.array([tokens_of(k, documents) for k in range(3)])
        assert shares / shares.sum() == pytest.approx([0.6, 0.1, 0.3], abs=0.01)


def test_an_epoch_of_weighted_sources_is_as_long_as_the_scarcest_source_allows():
    _, shares = epoch_shares(TOTALS, WEIGHTED, epoch=0)
    assert sum(shares) == pytest.approx(min(total / spec.weight for total, spec in zip(TOTALS, WEIGHTED)), abs=2)
    assert any(share == total for share, total in zip(shares, TOTALS))


def test_a_weighted_source_goes_on_in_the_next_epoch_where_it_stopped():
    seen = np.concatenate([documents_of(0, epoch_documents(LENGTHS, WEIGHTED, 0, epoch)) for epoch in range(8)])
    counts = np.bincount(seen, minlength=400)
    assert counts.max() - counts.min() <= 1 and len(seen) > 800


def test_weights_need_not_add_up_to_one():
    doubled = [SourceSpec(spec.name, spec.weight * 2) for spec in WEIGHTED]
    assert (epoch_documents(LENGTHS, doubled, 0, 1) == epoch_documents(LENGTHS, WEIGHTED, 0, 1)).all()


def test_a_source_at_its_cap_stops_and_the_others_share_its_part_in_proportion():
    specs = [SourceSpec("papers", 0.6), SourceSpec("chat", 0.1, max_repeats=2), SourceSpec("general", 0.3)]
    epochs = [epoch_documents(LENGTHS, specs, 0, epoch) for epoch in range(12)]
    assert np.bincount(np.concatenate([documents_of(1, d) for d in epochs]), minlength=60).tolist() == [2] * 60
    after = [d for d in epochs if not len(documents_of(1, d))]
    assert len(after) > 3
    for documents in after:
        assert tokens_of(0, documents) / tokens_of(2, documents) == pytest.approx(2, rel=0.03)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 30), st.floats(0.01, 5), st.sampled_from([0.5, 1, 1.5, 3])), min_size=1, max_size=4), st.booleans()
)
def test_capped_sources_give_exactly_the_tokens_they_have_and_then_say_so(sources, weighted):
    lengths = [np.random.default_rng(k).integers(1, 20, size) for k, (size, _, _) in enumerate(sources)]
    totals = [int(n.sum()) for n in lengths]
    specs = [SourceSpec(str(k), weight if weighted else None, repeats) for k, (_, weight, repeats) in enumerate(sources)]
    given_out, epoch = 0, 0
    while any(shares := epoch_shares(totals, specs, epoch)[1]):
        assert all(share <= total for share, total in zip(shares, totals))
        given_out += sum(shares)
        epoch += 1
        assert epoch < 10_000
    assert given_out == tokens_available(totals, specs) == sum(int(t * s.max_repeats) for t, s in zip(totals, specs))
    require_tokens(totals, specs, given_out)
    with pytest.raises(MixtureError, match=f"give {given_out:,} tokens .* asks for {given_out + 1:,}; raise or drop max_repeats"):
        require_tokens(totals, specs, given_out + 1)
    with pytest.raises(MixtureError, match=f"used up after {given_out:,} tokens"):
        epoch_documents(lengths, specs, 0, epoch)


def test_one_source_without_a_cap_never_runs_out():
    specs = [SourceSpec("papers", 0.5), SourceSpec("chat", 0.5, max_repeats=1)]
    assert tokens_available(TOTALS[:2], specs) is None
    require_tokens(TOTALS[:2], specs, 10**15)


def test_documents_of_length_zero_are_left_out():
    lengths = [np.array([4, 0, 3, 0, 2])]
    assert sorted(epoch_documents(lengths, [SourceSpec("a")], 0, 0)) == [0, 2, 4]


def test_the_order_of_an_epoch_is_the_one_that_runs_of_before_have_trained_on():
    rng = np.random.default_rng(5)
    lengths = [rng.integers(0, 50, 400), rng.integers(1, 90, 300)]
    for specs, k in (([SourceSpec("a")], 1), ([SourceSpec("a"), SourceSpec("b")], 2), ([SourceSpec("a", 2.0), SourceSpec("b", 1.0)], 2)):
        for epoch in (0, 3):
            documents = epoch_documents(lengths[:k], specs, 11, epoch)
            assert documents.dtype == np.int32
            assert hashlib.sha256(documents.astype("<i8").data).hexdigest()[:8] == GOLDEN[k, specs[0].weight, epoch]
