import copy
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.shards.format import ShardError
from data_tools.shards.reader import Shards
from data_tools.shards.writer import ShardWriter
from tests.made.memory_shards import MemoryShards
from train.data.batch import PackedBatch
from train.data.loader import Loader, LoaderError
from train.data.mixture import MixtureError, SourceSpec
from train.data.packing import IGNORED, pack
from train.data.plans import DataSettings
from train.evaluation.heldout import heldout_rows

A = np.random.default_rng(1).integers(1, 30, 70).tolist()
B = np.random.default_rng(2).integers(1, 60, 40).tolist()


def loader(**changes) -> Loader:
    values = {"shards": {"a": MemoryShards(A, 0, name="a"), "b": MemoryShards(B, sum(A), name="b")}, "seq_len": 32}
    values |= {"packing": "whole", "seed": 3, "rows_per_step": 8, "prefetch_steps": 0} | changes
    values.setdefault("specs", [SourceSpec(name) for name in values["shards"]])
    ranks = {key: values.pop(key) for key in ("rank", "world_size") if key in values}
    return Loader(values.pop("shards"), DataSettings(**values), **ranks)


def rows_of(batches: list[PackedBatch], seq_len: int = 32) -> list[dict[str, list[int]]]:
    """Row by row, padding rows left out: what lies there, free of how rows were put into micro-batches."""
    rows = []
    for batch in batches:
        for k in range(batch.tokens.shape[1] // seq_len):
            part = slice(k * seq_len, (k + 1) * seq_len)
            if (batch.source[part] >= 0).any():
                edges = batch.cu_seqlens[(batch.cu_seqlens >= part.start) & (batch.cu_seqlens <= part.stop)] - part.start
                row = {name: getattr(batch, name)[0, part].tolist() for name in ("tokens", "labels", "position_ids")}
                rows.append(row | {"source": batch.source[part].tolist(), "edges": edges.tolist()})
    return rows


def steps(count: int, world_size: int = 1, micro_batch_rows: int = 1, state: dict | None = None, **changes) -> tuple[list, list]:
    """The rows of each step in their global order, put together from all ranks, and the documents that rank 0 logs."""
    ranks = [loader(rank=r, world_size=world_size, micro_batch_rows=micro_batch_rows, **changes) for r in range(world_size)]
    rows, documents = [], []
    for rank in ranks:
        if state:
            rank.load_state_dict(state)
    for _ in range(count):
        taken = [rank.next_step() for rank in ranks]
        assert {len(t) for t in taken} == {ranks[0].accumulation}
        rows.append([row for at in zip(*taken) for batch in at for row in rows_of([batch], ranks[0].settings.seq_len)])
        logs = [rank.step_documents() for rank in ranks]
        assert all(log == logs[0] for log in logs)
        documents.append(logs[0])
    for rank in ranks:
        rank.close()
    return rows, documents


@pytest.mark.parametrize("packing", ["split", "whole"])
def test_the_rows_of_every_step_are_the_same_at_any_ranks_micro_batches_workers_and_prefetch(packing):
    wanted, documents = steps(20, packing=packing)
    assert sum(len(rows) for rows in wanted) == 20 * 8
    for world_size, micro_batch_rows, workers, prefetch in [
        (1, 8, 3, 0),
        (2, 1, 1, 2),
        (2, 3, 2, 1),
        (4, 1, 1, 0),
        (4, 4, 2, 3),
        (3, 2, 1, 1),
    ]:
        shape = {"world_size": world_size, "micro_batch_rows": micro_batch_rows, "workers": workers, "prefetch_steps": prefetch}
        assert steps(20, packing=packing, **shape) == (wanted, documents), shape


@pytest.mark.slow
@pytest.mark.timeout(900)  # a busy machine is no hang
@settings(max_examples=500, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 25), min_size=1, max_size=30),
    seq_len=st.integers(2, 20),
    packing=st.sampled_from(["split", "whole"]),
    rows_per_step=st.integers(1, 9),
    world_size=st.integers(1, 4),
    micro_batch_rows=st.integers(1, 3),
    epochs=st.integers(1, 2),
)
def test_every_rank_gets_equally_many_batches_and_an_epoch_loses_no_document(lengths, epochs, rows_per_step, **shape):
    shards = {"m": MemoryShards(lengths)}
    one = loader(shards=shards, rows_per_step=rows_per_step, seq_len=shape["seq_len"], packing=shape["packing"])
    rows_of_epochs = [len(one.plans.rows(e)) for e in range(epochs)]
    one.close()
    count = -(-sum(rows_of_epochs) // rows_per_step)
    rows, documents = steps(count, shards=shards, rows_per_step=rows_per_step, **shape)
    in_order = list(itertools.chain.from_iterable(rows))
    assert len(in_order) == count * rows_per_step
    for epoch, number in enumerate(rows_of_epochs):
        first = sum(rows_of_epochs[:epoch])
        tokens = [t for row in in_order[first : first + number] for t, s in zip(row["tokens"], row["source"]) if s >= 0]
        assert sorted(tokens) == list(range(sum(lengths)))  # each document's every token once an epoch


@pytest.mark.slow
@pytest.mark.timeout(900)  # a busy machine is no hang
@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 25), min_size=1, max_size=30),
    packing=st.sampled_from(["split", "whole"]),
    rows_per_step=st.integers(1, 9),
    starts=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 6), st.integers(0, 5)), min_size=2, max_size=5),
)
def test_a_run_whose_number_of_ranks_changes_has_every_steps_documents_once_and_in_order(lengths, packing, rows_per_step, starts):
    """starts: ranks, micro-batch, steps until the ranks die, and how many of them the newest checkpoint is behind."""
    given_ = {"shards": {"m": MemoryShards(lengths)}, "rows_per_step": rows_per_step, "packing": packing, "seq_len": 16}
    wanted, documents = steps(sum(count for _, _, count, _ in starts), **given_)
    got, seen, state = [], [], None
    for world_size, micro_batch_rows, count, behind in starts:
        ranks = {"world_size": world_size, "micro_batch_rows": micro_batch_rows, "state": state}
        rows, logged = steps(count, **ranks, **given_)
        assert rows == wanted[len(got) : len(got) + count] and logged == documents[len(got) : len(got) + count]
        kept = max(0, count - behind)  # steps after the newest checkpoint are made again
        if kept:
            one = loader(**given_)
            if state:
                one.load_state_dict(state)
            for _ in range(kept):
                one.next_step()
            state = one.state_dict()
            one.close()
        got, seen = got + rows[:kept], seen + logged[:kept]
    assert got == wanted[: len(got)] and seen == documents[: len(got)]


def test_supervised_tokens_of_a_step_add_up_to_the_same_at_any_world_size():
    def supervised(world_size: int) -> list[int]:
        ranks = [loader(rank=r, world_size=world_size, micro_batch_rows=3) for r in range(world_size)]
        taken = [sum(batch.supervised for rank in ranks for batch in rank.next_step()) for _ in range(6)]
        for rank in ranks:
            rank.close()
        return taken

    assert supervised(1) == supervised(2) == supervised(4)
    assert min(supervised(1)) > 0


def test_the_targets_of_the_next_step_are_known_once_it_is_built():
    ahead = loader(prefetch_steps=1, rank=1, world_size=2)
    assert math.isnan(ahead.next_targets()), "nothing is built before the first step is asked for"
    for _ in range(6):
        ahead.next_step()
        ahead._ahead[0].result(timeout=60)
        told = ahead.next_targets()
        assert told == sum(batch.supervised for batch in ahead._ahead[0].result().batches) > 0
    ahead.load_state_dict(ahead.state_dict())
    assert math.isnan(ahead.next_targets()), "another place may follow"
    ahead.close()


def test_places_beyond_the_steps_rows_are_padding_without_labels():
    four = [loader(rank=r, world_size=4, micro_batch_rows=3, rows_per_step=8) for r in range(4)]
    last = four[3].next_step()
    assert four[3].accumulation == 1 and len(last) == 1
    assert last[0].supervised == 0 and (last[0].labels == IGNORED).all() and (last[0].source == -1).all()
    assert last[0].cu_seqlens.tolist() == [0, 32, 64, 96] and last[0].tokens.shape == (1, 96)


def test_a_micro_batch_has_the_shapes_and_types_attention_needs():
    (batch,) = loader(micro_batch_rows=8).next_step()
    assert batch.tokens.shape == batch.labels.shape == batch.position_ids.shape == (1, 256) and batch.source.shape == (256,)
    assert batch.tokens.dtype == batch.labels.dtype == batch.position_ids.dtype == torch.int64
    assert batch.cu_seqlens.dtype == torch.int32 and batch.source.dtype == torch.int16
    sizes = batch.cu_seqlens.diff()
    assert batch.max_seqlen == sizes.max() and batch.supervised == (batch.labels != IGNORED).sum()
    restarted = torch.cat([torch.arange(n) for n in sizes])
    assert torch.equal(batch.position_ids[0], restarted)
    assert batch.to("meta").tokens.device.type == "meta" and batch.to("meta").max_seqlen == batch.max_seqlen


def test_splitting_packed_rows_gives_what_packing_each_part_gives():
    shards = MemoryShards(A)
    rows = heldout_rows(shards, 32)
    split = PackedBatch.split(pack(rows, np.arange(6), [shards]), 3)
    for k, part in enumerate(split):
        (alone,) = PackedBatch.split(pack(rows, np.arange(2 * k, 2 * k + 2), [shards]))
        assert all(np.array_equal(getattr(part, f), getattr(alone, f)) for f in alone.__dataclass_fields__)


@pytest.mark.parametrize("weighted", [False, True])
def test_three_chained_resumes_at_any_step_give_the_rows_of_an_uncut_run(weighted):
    specs = [SourceSpec("a", 0.7 if weighted else None), SourceSpec("b", 0.3 if weighted else None)]
    wanted, documents = steps(16, specs=specs, rows_per_step=7)
    whole = loader(specs=specs, rows_per_step=7)
    assert whole.epoch_rows < 7 * 12, "the cuts must cross an epoch's end"
    for first in range(1, 9):
        got, logged, state = [], [], None
        for number, world_size in ((first, 1), (4, 2), (16 - first - 4, 4)):
            runner = loader(specs=specs, rows_per_step=7)
            if state:
                runner.load_state_dict(state)
            rows, log = steps(number, world_size=world_size, specs=specs, rows_per_step=7, prefetch_steps=2, state=state)
            got, logged = got + rows, logged + log
            for _ in range(number):
                runner.next_step()
            state = json.loads(json.dumps(runner.state_dict()))  # as a checkpoint keeps it
            runner.close()
        assert (got, logged) == (wanted, documents)


def test_a_resume_exactly_at_an_epochs_end_starts_the_next_epoch():
    one = loader(rows_per_step=1)
    rows_in_epoch = one.epoch_rows
    wanted, _ = steps(3, rows_per_step=rows_in_epoch)
    whole_epochs = loader(rows_per_step=rows_in_epoch)
    whole_epochs.next_step()
    state = whole_epochs.state_dict()
    assert (state["epoch"], state["next_row"]) == (0, rows_in_epoch)
    assert steps(1, rows_per_step=rows_in_epoch, state=state)[0] == wanted[1:2]


def test_the_state_says_what_the_caller_was_given_and_not_what_was_built_ahead():
    ahead, plain = loader(prefetch_steps=4), loader(prefetch_steps=0)
    for _ in range(5):
        ahead.next_step(), plain.next_step()
        ahead._ahead[-1].result()  # all is built
        assert ahead.state_dict() == plain.state_dict()
    assert ahead.state_dict()["epoch"] * 1000 + ahead.state_dict()["next_row"] > 0
    ahead.close()


def test_nothing_is_read_before_the_first_step_and_a_seek_reads_only_its_own_step():
    shards = {"a": MemoryShards(A, name="a")}
    first = loader(shards=shards)
    for _ in range(3):
        first.next_step()
    state, there = first.state_dict(), shards["a"]
    there.read.clear()
    second = loader(shards=shards)
    second.load_state_dict(state)
    assert there.read == []
    second.next_step()
    assert {f"a-{i}" for i in there.read} == {document for _, document, _, _ in second.step_documents()}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 4}, "seed was 3, is 4"),
        ({"seq_len": 16}, "seq_len was 32, is 16"),
        ({"packing": "split"}, "packing was whole, is split"),
        ({"long_documents": "drop"}, "long_documents was cut, is drop"),
        ({"shards": {"a": MemoryShards(A, name="a"), "b": MemoryShards(B[:-1], name="b")}}, "shards of b was b-"),
        ({"specs": [SourceSpec("a"), SourceSpec("b", max_repeats=9)]}, "max_repeats of b was None, is 9"),
        ({"specs": [SourceSpec("a", 0.5), SourceSpec("b", 0.5)]}, "weight of a was None, is 0.5"),
        ({"shards": {"a": MemoryShards(A, name="a")}}, "shards of b was b-.*, is None"),
    ],
)
def test_a_state_of_other_data_or_settings_is_refused_with_what_changed(changes, named):
    run = loader()
    run.next_step()
    with pytest.raises(LoaderError, match=named):
        loader(**changes).load_state_dict(run.state_dict())


def test_a_state_is_refused_when_the_rows_alone_differ_or_its_version_or_position_is_wrong():
    run = loader()
    run.next_step()
    state = run.state_dict()
    assert state["plan_fingerprint"]["rows"] == run.plans.rows(0).digest()
    loader().load_state_dict(state)
    other = copy.deepcopy(state)
    other["plan_fingerprint"]["rows"] = "0" * 64
    with pytest.raises(LoaderError, match="same shards and settings, but the rows hash to"):
        loader().load_state_dict(other)
    with pytest.raises(LoaderError, match="version 7, this program reads 1"):
        loader().load_state_dict(state | {"version": 7})
    with pytest.raises(LoaderError, match="next_row 10000 of an epoch of"):
        loader().load_state_dict(state | {"next_row": 10_000})


def test_ranks_micro_batch_and_rows_per_step_may_change_on_a_resume():
    run = loader()
    run.next_step()
    loader(rank=1, world_size=2, micro_batch_rows=2, rows_per_step=4, workers=2).load_state_dict(run.state_dict())
    assert run.state_dict()["next_row"] == 8


def test_a_run_may_use_every_token_there_is_and_asking_for_more_says_so():
    specs = [SourceSpec("a", max_repeats=1), SourceSpec("b", max_repeats=1)]
    run = loader(specs=specs, rows_per_step=1, prefetch_steps=3)
    for _ in range(run.epoch_rows):
        run.next_step()  # what is built ahead runs out before the caller does
    with pytest.raises(MixtureError, match=f"used up after {sum(A) + sum(B):,} tokens"):
        run.next_step()
    run.require_tokens(sum(A) + sum(B))
    asked = math.floor(99_999 * run.plans.rows(0).fill)  # of 99,999 tokens in rows, the last of which is not full
    with pytest.raises(MixtureError, match=f"asks for {asked:,}"):
        run.require_tokens(99_999)


def test_documents_longer_than_a_row_are_dropped_counted_and_not_part_of_the_weights():
    run = loader(long_documents="drop", rows_per_step=4)
    long = sum(n > 32 for n in B)
    assert run.plans.dropped_documents == long > 5
    assert run.plans.rows(0).tokens == sum(A) + sum(n for n in B if n <= 32)


def real_shards(folder: Path, documents: int = 40) -> Shards:
    writer = ShardWriter(folder, kind="chat", vocab_size=300, tokenizer={"fingerprint": "f"}, shard_tokens=300)
    rng = np.random.default_rng(0)
    for i in range(documents):
        writer.add(f"d{i}", "s", rng.integers(1, 300, 20), rng.integers(0, 2, 20))
    writer.finish()
    return Shards.open(folder)


def test_real_shards_give_their_tokens_and_masks(tmp_path):
    shards = real_shards(tmp_path / "s")
    run = loader(shards={"s": shards}, micro_batch_rows=8)
    (batch,) = run.next_step()
    documents = run.step_documents()
    assert len(documents) == 8 and documents[0][0] == "s"
    for k, (_, name, start, stop) in enumerate(documents):
        i = int(name[1:])
        assert batch.tokens[0, k * 32 : k * 32 + 20].tolist() == shards.tokens(i).tolist() and (start, stop) == (0, 20)
        wanted = np.where(shards.mask(i)[1:] == 1, shards.tokens(i)[1:].astype(int), IGNORED)
        assert batch.labels[0, k * 32 : k * 32 + 19].tolist() == wanted.tolist()


@pytest.mark.parametrize("prefetch_steps", [0, 2])
def test_a_shard_that_shrinks_under_the_run_ends_it_with_a_message_and_not_a_bus_error(tmp_path, prefetch_steps):
    shards = real_shards(tmp_path / "s")
    run = loader(shards={"s": shards}, prefetch_steps=prefetch_steps)
    run.next_step()
    for step in run._ahead:
        step.result()  # no thread is reading while the file shrinks
    for path in (tmp_path / "s").glob("*.arrow"):
        with open(path, "r+b") as file:
            file.truncate(100)
    with pytest.raises(ShardError, match="changed while it was open"):
        for _ in range(5):
            run.next_step()


def test_a_step_that_was_packed_while_a_file_changed_is_not_given_out():
    class Changing(MemoryShards):
        def check_unchanged(self, documents: object = None) -> None:
            if len(self.read) > 40:
                raise ShardError("changed while it was open")

        def tokens(self, i: int) -> np.ndarray:
            return super().tokens(i)[:0] if len(self.read) > 40 else super().tokens(i)

    run = loader(shards={"m": Changing(A)}, rows_per_step=200, seq_len=256)
    with pytest.raises(ShardError, match="changed while it was open"):
        run.next_step()


def test_the_time_a_caller_waits_adds_up():
    run = loader()
    run.next_step()
    once = run.data_wait_seconds
    run.next_step()
    assert 0 < once < run.data_wait_seconds


def test_closing_twice_and_closing_unused_are_no_error():
    run = loader(prefetch_steps=3)
    run.close()
    run.close()
    with pytest.raises(RuntimeError):
        run.next_step()
