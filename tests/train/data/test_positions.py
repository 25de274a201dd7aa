"""Rows taken and left out, compared with a plain list of all rows."""

from hypothesis import given, settings
from hypothesis import strategies as st

from train.data.positions import Position, Span, back, between, merged, take


@st.composite
def cases(draw):
    sizes = draw(st.lists(st.integers(1, 12), min_size=1, max_size=6))
    spans = [
        Span(e, *sorted((draw(st.integers(0, sizes[e])), draw(st.integers(0, sizes[e])))))
        for e in draw(st.lists(st.integers(0, len(sizes) - 1), max_size=5))
    ]
    return sizes, spans, draw(st.integers(1, 9))


@settings(max_examples=300, deadline=None)
@given(cases())
def test_steps_take_the_rows_that_are_not_left_out_one_after_another_and_go_back_the_same_way(case):
    sizes, spans, count = case
    everything = [(e, row) for e, n in enumerate(sizes) for row in range(n)]
    gone = {(s.epoch, row) for s in spans for row in range(s.first, s.stop)}
    kept = [row for row in everything if row not in gone]
    left_out = merged(spans)
    assert [(s.epoch, row) for s in left_out for row in range(s.first, s.stop)] == sorted(gone)
    at, taken, ends = Position(), [], [Position()]
    while len(taken) + count <= len(kept):
        parts, at = take(at, count, sizes.__getitem__, left_out)
        rows = [(s.epoch, row) for s in parts for row in range(s.first, s.stop)]
        assert len(rows) == count
        taken += rows
        ends.append(at)
    assert taken == kept[: len(taken)]
    for k in range(len(ends)):
        start = back(at, k * count, sizes.__getitem__, left_out)
        again, _ = take(start, k * count, sizes.__getitem__, left_out) if k else ([], start)
        assert [(s.epoch, row) for s in again for row in range(s.first, s.stop)] == (taken[-k * count :] if k else [])
    assert back(at, len(everything) + 1, sizes.__getitem__, left_out) == Position()
    covered = [(s.epoch, row) for s in between(Position(), at, sizes.__getitem__) for row in range(s.first, s.stop)]
    assert covered == [row for row in everything if row < tuple(at)]
