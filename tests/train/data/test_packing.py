import gzip
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.made.memory_shards import MemoryShards
from tests.made.where import SHARED
from train.data import packing
from train.data.packing import IGNORED, PADDING_ROW, PackedRows, Rows, join, pack, plan_split, plan_whole

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60)
SEQ_LEN = st.integers(2, 24)
GOLDEN = ["896bd9db8d1f", "141ae6a052e1", "0062ba5ef357", "0d9e63f0ce76"]
quick = settings(max_examples=60, deadline=None)


def plan(how: str, lengths: list[int], seq_len: int, seed: int = 0) -> Rows:
    sizes = np.array(lengths, np.int64)
    return {"split": plan_split, "whole": plan_whole}[how](sizes, seq_len, np.random.default_rng(seed))


def row_sizes(rows: Rows) -> np.ndarray:
    return np.add.reduceat(rows.stop - rows.start, rows.row_starts[:-1])


def check_every_token_once(rows: Rows, lengths: list[int]) -> None:
    seen = [(d, t) for d, a, b in zip(rows.document, rows.start, rows.stop) for t in range(a, b)]
    assert sorted(seen) == [(d, t) for d, n in enumerate(lengths) for t in range(n)]


@quick
@given(LENGTHS, SEQ_LEN, st.integers(0, 5))
def test_split_packing_fills_every_row_but_the_last_and_loses_no_token(lengths, seq_len, seed):
    rows = plan("split", lengths, seq_len, seed)
    check_every_token_once(rows, lengths)
    sizes = row_sizes(rows)
    assert (sizes[:-1] == seq_len).all() and sizes[-1] == (sum(lengths) - 1) % seq_len + 1
    assert rows.fill == sum(lengths) / (len(rows) * seq_len)
    assert rows.cut == sum(np.count_nonzero(rows.document == d) > 1 for d in range(len(lengths)))


def test_split_packing_keeps_the_order_it_is_given_when_it_has_no_generator():
    rows = plan_split(np.array([3, 5, 2]), 4, order=np.array([2, 0, 1]))
    assert list(zip(rows.document, rows.start, rows.stop)) == [(2, 0, 2), (0, 0, 2), (0, 2, 3), (1, 0, 3), (1, 3, 5)]
    assert rows.row_starts.tolist() == [0, 2, 4, 5] and rows.cut == 2


@quick
@given(LENGTHS, SEQ_LEN, st.integers(0, 5))
def test_whole_packing_never_cuts_a_document_that_fits_and_loses_no_token(lengths, seq_len, seed):
    rows = plan("whole", lengths, seq_len, seed)
    check_every_token_once(rows, lengths)
    assert row_sizes(rows).max() <= seq_len
    pieces = np.bincount(rows.document, minlength=len(lengths))
    assert pieces.tolist() == [-(-n // seq_len) for n in lengths]
    assert rows.cut == sum(n > seq_len for n in lengths)
    assert set(rows.start % seq_len) == {0}  # long ones: whole rows, then the rest


@pytest.mark.parametrize("packing", ["split", "whole"])
def test_no_document_makes_no_row(packing):
    rows = plan(packing, [], 8)
    assert len(rows) == 0 and rows.tokens == 0 and rows.fill == 0


def test_a_document_may_come_twice_in_an_epoch():
    order = np.array([1, 0, 1])
    for rows in (plan_whole(np.array([3, 2]), 4, np.random.default_rng(0), order=order), plan_split(np.array([3, 2]), 4, order=order)):
        assert rows.tokens == 7 and (rows.stop - rows.start)[rows.document == 1].sum() == 4


@pytest.mark.parametrize("packing", ["split", "whole"])
def test_rows_come_in_another_order_from_another_generator_and_the_same_from_the_same(packing):
    lengths = list(range(3, 80))
    assert plan(packing, lengths, 16, seed=1).digest() == plan(packing, lengths, 16, seed=1).digest()
    assert plan(packing, lengths, 16, seed=1).digest() != plan(packing, lengths, 16, seed=2).digest()


def test_a_plan_is_the_one_that_runs_of_before_have_trained_on():
    """By digests that the first version of these plans had, a step of which sorted all documents at once."""
    rng = np.random.default_rng(7)
    lengths = np.maximum(rng.lognormal(4, 1, 3000).astype(np.int64), 1)
    order = rng.integers(0, 3000, 4000)
    found = [f(lengths, 256, np.random.default_rng(3), order=o).digest()[:12] for f in (plan_whole, plan_split) for o in (None, order)]
    assert found == GOLDEN


@quick
@given(LENGTHS, SEQ_LEN, st.integers(1, 9))
def test_a_plan_does_not_depend_on_how_many_documents_are_looked_at_at_once(lengths, seq_len, at_once):
    order = np.random.default_rng(1).integers(0, len(lengths), 50)
    for make in (plan_whole, plan_split):
        plans = []
        for packing.AT_ONCE in (1 << 20, at_once):
            plans.append(make(np.array(lengths), seq_len, np.random.default_rng(0), order=order))
        packing.AT_ONCE = 1 << 20
        assert plans[0].digest() == plans[1].digest() and plans[0].cut == plans[1].cut
    assert plans[0].document.dtype == np.int32  # four bytes a number: a plan of 100 million documents is 1.2 GB


def test_the_digest_sees_a_single_moved_token_boundary():
    rows = plan_split(np.array([3, 5, 2]), 4)
    moved = Rows(rows.document, rows.start, rows.stop + np.array([0, 0, 0, 1]), rows.row_starts, 4)
    assert moved.digest() != rows.digest()


def expected(rows: Rows, indices: list[int], shards: list[MemoryShards]) -> dict[str, list[int]]:
    """What a micro-batch must hold, token by token in plain Python."""
    out = {"tokens": [], "labels": [], "position_ids": [], "source": [], "cu_seqlens": [0]}
    documents = [(k, s, i) for k, s in enumerate(shards) for i in range(len(s))]
    for row in indices:
        used = 0
        segments = range(0) if row == PADDING_ROW else range(rows.row_starts[row], rows.row_starts[row + 1])
        for g in segments:
            k, s, i = documents[rows.document[g]]
            text = s.tokens(i).tolist()
            for place, t in enumerate(range(rows.start[g], rows.stop[g])):
                target = t + 1 < len(text) and (s.masks is None or s.masks[i][t + 1])
                out["tokens"].append(text[t])
                out["labels"].append(text[t + 1] if target else IGNORED)
                out["position_ids"].append(place)
                out["source"].append(k)
            used += rows.stop[g] - rows.start[g]
            out["cu_seqlens"].append(len(out["tokens"]))
        pad = int(rows.seq_len - used)
        if pad:
            out["tokens"] += [0] * pad
            out["labels"] += [IGNORED] * pad
            out["position_ids"] += range(pad)
            out["source"] += [-1] * pad
            out["cu_seqlens"].append(len(out["tokens"]))
    return out


@quick
@given(LENGTHS, LENGTHS, SEQ_LEN, st.sampled_from(["split", "whole"]), st.booleans(), st.data())
def test_a_packed_micro_batch_is_what_plain_python_makes_of_its_rows(lengths, more, seq_len, packing, masked, data):
    masks = [np.random.default_rng(n).integers(0, 2, n).astype(np.uint8) for n in more] if masked else None
    shards = [MemoryShards(lengths, 1), MemoryShards(more, 1 + sum(lengths), masks)]
    rows = plan(packing, lengths + more, seq_len)
    indices = data.draw(st.lists(st.sampled_from([PADDING_ROW, *range(len(rows))]), min_size=1, max_size=6))
    packed, wanted = pack(rows, np.array(indices), shards), expected(rows, indices, shards)
    for name, values in wanted.items():
        assert getattr(packed, name).tolist() == values, name
    assert packed.supervised == sum(v != IGNORED for v in wanted["labels"])
    assert packed.max_seqlen == max(np.diff(wanted["cu_seqlens"]))
    types = {name: getattr(packed, name).dtype.name for name in wanted}
    assert types == {"tokens": "int64", "labels": "int64", "position_ids": "int64", "source": "int16", "cu_seqlens": "int32"}


@quick
@given(LENGTHS, SEQ_LEN, st.sampled_from(["split", "whole"]))
def test_every_token_but_the_first_of_its_document_is_a_target_exactly_once(lengths, seq_len, packing):
    shards = MemoryShards(lengths)
    rows = plan(packing, lengths, seq_len)
    labels = pack(rows, np.arange(len(rows)), [shards]).labels
    firsts = set(shards.first[:-1].tolist())
    assert sorted(labels[labels != IGNORED]) == [t for t in range(sum(lengths)) if t not in firsts]


def test_the_label_of_a_cut_documents_last_position_is_the_token_that_opens_the_next_piece():
    packed = pack(plan_split(np.array([6]), 4), np.array([0, 1]), [MemoryShards([6], first_token=10)])
    assert packed.labels.tolist() == [11, 12, 13, 14, 15, IGNORED, IGNORED, IGNORED]
    assert packed.position_ids.tolist() == [0, 1, 2, 3, 0, 1, 0, 1] and packed.cu_seqlens.tolist() == [0, 4, 6, 8]


def test_token_zero_in_a_document_is_text_and_not_padding():
    packed = pack(plan_split(np.array([3]), 4), np.array([0]), [MemoryShards([3], first_token=0)])
    assert packed.tokens.tolist() == [0, 1, 2, 0] and packed.source.tolist() == [0, 0, 0, -1]


def test_only_tokens_the_mask_marks_are_targets():
    shards = MemoryShards([6], first_token=10, masks=[np.array([0, 0, 1, 1, 0, 1], np.uint8)])
    assert pack(plan_split(np.array([6]), 8), np.array([0]), [shards]).labels.tolist()[:6] == [IGNORED, 12, 13, IGNORED, 15, IGNORED]
    cut = pack(plan_split(np.array([6]), 3), np.array([0, 1]), [shards])  # the mask of a target in the next piece
    assert cut.labels.tolist() == [IGNORED, 12, 13, IGNORED, 15, IGNORED]


def test_joined_spans_hold_the_same_rows():
    rows = plan("whole", list(range(1, 30)), 32)
    joined = join([rows.span(3, 7), rows.span(0, 2)])
    shards = [MemoryShards(list(range(1, 30)))]
    assert (pack(joined, np.arange(6), shards).tokens == pack(rows, np.array([3, 4, 5, 6, 0, 1]), shards).tokens).all()


@pytest.mark.parametrize(
    "damage",
    [
        {"cu_seqlens": np.array([0, 2, 5], np.int32)},
        {"cu_seqlens": np.array([0, 2, 2, 4], np.int32)},
        {"cu_seqlens": np.array([0, 2, 4], np.int64)},
        {"position_ids": np.array([0, 1, 2, 3])},
        {"max_seqlen": 3},
        {"labels": np.array([1, 2, 3])},
    ],
)
def test_a_micro_batch_refuses_edges_that_do_not_fit_its_tokens(damage):
    right = {"tokens": np.arange(4), "labels": np.arange(4), "position_ids": np.array([0, 1, 0, 1])}
    right |= {"cu_seqlens": np.array([0, 2, 4], np.int32), "max_seqlen": 2, "source": np.zeros(4, np.int16), "supervised": 2}
    PackedRows(**right)
    with pytest.raises(AssertionError):
        PackedRows(**(right | damage))


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "abstracts").is_dir(), reason="needs the real abstracts beside the checkout")
def test_real_abstracts_fill_rows_of_2048_to_99_9_percent_whole_and_entirely_split():
    import sentencepiece

    tokenizer = sentencepiece.SentencePieceProcessor(str(next((SHARED / "tokenizers" / "mistral_v1").glob("*.model*"))))
    with gzip.open(SHARED / "abstracts" / "astro_train.jsonl.gz", "rt") as file:
        texts = [json.loads(line)["abstract"] for line in file]
    lengths = np.array([len(ids) + 2 for ids in tokenizer.encode(texts, num_threads=2)], np.int64)
    assert len(lengths) > 19_000
    whole = plan_whole(lengths, 2048, np.random.default_rng(0))
    assert whole.fill >= 0.999, f"{whole.fill:.5f}"
    assert whole.cut == 0 and whole.tokens == lengths.sum()
    split = plan_split(lengths, 2048, np.random.default_rng(0))
    assert (row_sizes(split)[:-1] == 2048).all() and split.tokens == lengths.sum()
