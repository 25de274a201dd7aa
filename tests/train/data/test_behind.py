"""The documents behind a step, compared with what a loader gives out, at other numbers of ranks and with rows left out."""

import pytest

from tests.made.memory_shards import MemoryShards
from train.data.behind import BehindError, behind
from train.data.loader import Loader
from train.data.mixture import SourceSpec
from train.data.plans import DataSettings
from train.data.positions import Position, Span

LENGTHS = {"a": [5, 90, 17, 3, 44, 61, 8] * 6, "b": [30, 12, 7] * 9}


def shards() -> dict[str, MemoryShards]:
    return {name: MemoryShards(lengths, name=name) for name, lengths in LENGTHS.items()}


@pytest.mark.parametrize("packing", ["split", "whole"])
@pytest.mark.parametrize("left_out", [(), (Span(0, 3, 9), Span(0, 30, 40), Span(1, 0, 5))])
@pytest.mark.parametrize("weights", [(None, None), (0.7, 0.3)])
def test_they_are_those_the_ranks_are_given(packing, left_out, weights):
    specs = [SourceSpec(name, weight) for name, weight in zip(LENGTHS, weights, strict=True)]
    settings = DataSettings(specs=specs, seq_len=32, packing=packing, seed=5, rows_per_step=6)
    loader = Loader(shards(), settings, rank=1, world_size=3)
    loader.seek(Position(), left_out)
    for step in range(1, 16):
        loader.next_step()
        pieces = behind(shards(), settings, step, left_out, {0: loader.plans.digest(0)})
        assert [(p.source, p.id, p.start, p.stop) for p in pieces] == loader.step_documents(), step
        assert [p.row for p in pieces] == sorted(p.row for p in pieces) and {p.row for p in pieces} == set(range(6))
        assert all(p.length == LENGTHS[p.source][p.index] for p in pieces)
        assert not any(s.epoch == p.epoch and s.first <= p.plan_row < s.stop for p in pieces for s in left_out)
    assert loader.position.epoch >= 1
    loader.close()


def test_rows_left_out_of_other_data_are_refused():
    settings = DataSettings(specs=[SourceSpec("a")], seq_len=32, packing="split", seed=5, rows_per_step=6)
    with pytest.raises(BehindError, match="epoch 0: .*other data"):
        behind({"a": MemoryShards([40] * 50)}, settings, 2, (Span(0, 0, 3),), {0: "0123"})
