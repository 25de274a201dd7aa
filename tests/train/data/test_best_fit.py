import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from train.data.best_fit import fill_rows

quick = settings(max_examples=100, deadline=None)


def fill(lengths: list[int], seq_len: int) -> list[list[int]]:
    """The rows, each as its lengths."""
    laid = fill_rows(np.bincount(lengths, minlength=seq_len + 1), seq_len)
    rows: list[list[int]] = [[0] * count for count in laid.in_row]
    descending = iter(sorted(lengths, reverse=True))
    for times, first, count, before in zip(laid.times, laid.first, laid.rows, laid.before):
        for k in range(first, first + count):
            rows[k][before : before + times] = [next(descending) for _ in range(times)]
    assert next(descending, None) is None and all(all(row) for row in rows)
    return rows


@quick
@given(st.integers(2, 60).flatmap(lambda s: st.tuples(st.just(s), st.lists(st.integers(1, s), min_size=1, max_size=80))))
def test_no_row_is_overfull_and_no_two_rows_would_fit_into_one(case):
    seq_len, lengths = case
    sizes = sorted(sum(row) for row in fill(lengths, seq_len))
    assert sum(sizes) == sum(lengths) and sizes[-1] <= seq_len
    assert len(sizes) == 1 or sizes[0] + sizes[1] > seq_len


def test_a_row_is_completed_exactly_by_one_two_or_three_documents_where_the_longest_that_fits_would_not():
    assert fill([7, 2, 3], 10) == [[7, 3], [2]]
    assert fill([6, 5, 4], 10) == [[6, 4], [5]]
    assert fill([12, 7, 5, 3], 20) == [[12, 5, 3], [7]]  # 12 + 7 would leave 1
    assert fill([10, 9, 4, 4, 2], 20) == [[10, 4, 4, 2], [9]]  # 10 + 9 would leave 1


def test_one_document_is_not_counted_twice_when_two_of_its_length_would_fill_the_row():
    assert fill([10, 5], 20) == [[10, 5]]
    assert fill([10, 5, 5], 20) == [[10, 5, 5]]


def best_fit_decreasing(lengths: list[int], seq_len: int) -> int:
    """The rows that the textbook's rule needs, one document at a time."""
    rooms: list[int] = []
    for n in sorted(lengths, reverse=True):
        fitting = [room for room in rooms if room >= n]
        if fitting:
            rooms.remove(min(fitting))
        rooms.append((min(fitting) if fitting else seq_len) - n)
    return len(rooms)


def test_lengths_like_those_of_abstracts_and_papers_need_fewer_rows_than_best_fit_decreasing():
    ours = textbook = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        lengths = np.clip(rng.lognormal(np.log(330), (0.4, 0.8)[seed % 2], 600), 20, 2048).astype(int).tolist()
        here, there = len(fill(lengths, 2048)), best_fit_decreasing(lengths, 2048)
        assert here <= there + 1
        ours, textbook = ours + here, textbook + there
    assert ours < textbook


def test_many_documents_of_one_length_lie_as_many_to_a_row_as_fit():
    assert [len(row) for row in fill([3] * 1000, 10)] == [3] * 333 + [1]
