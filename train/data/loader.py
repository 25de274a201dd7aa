"""The rows of this rank, step after step, as torch batches.

shards → lengths → the epoch's plan (plans.py, mixture.py, packing.py) → the step's rows → this rank's micro-batches → `PackedBatch`.

Which rows make step n depends on (shards, seed, epoch) alone; ranks, micro-batches and workers only deal them out. Where the
loader stands is an epoch and a row of its plan, so that a resume seeks and replays nothing. A thread builds steps ahead; the
state never counts what the caller has not been given.
"""

import math
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_tools.shards.reader import Shards
from train.data import packing, positions
from train.data.batch import PackedBatch
from train.data.packing import PADDING_ROW, Rows
from train.data.plans import DataSettings, Plans, differences
from train.data.positions import LeftOut, Position, Span

STATE_VERSION = 2
READABLE = (1, STATE_VERSION)  # 1: before rows could be left out
PACKED_AT_ONCE = 2**17  # tokens: enough to spread the cost of a call, and still in the processor's cache


class LoaderError(ValueError):
    """A loader state that does not fit the data: says what differs."""


@dataclass(frozen=True)
class _Step:
    rows: Rows  # of all ranks
    batches: list[PackedBatch]  # of this rank
    after: Position


class Loader:
    """Endless steps of `rows_per_step` rows; rank r's micro-batch k holds rows (k * world_size + r) * micro_batch_rows … of the step.

    shards and specs in recipe order, opened and verified by the caller. When the ranks' places are more than rows_per_step the
    rest are rows of padding, so that every world size computes the same global batch with equal counts of micro-batches.
    Raises MixtureError when every source is used up.
    """

    def __init__(self, shards: Mapping[str, Shards], settings: DataSettings, rank: int = 0, world_size: int = 1) -> None:
        s, names = settings, [spec.name for spec in settings.specs]
        assert list(shards) == names, f"shards of {list(shards)}, specs of {names}"
        assert s.rows_per_step > 0 and s.micro_batch_rows > 0 and 0 <= rank < world_size, (s, rank, world_size)
        self.source_names = names
        self.shards = list(shards.values())
        self.settings, self.rank, self.world_size = settings, rank, world_size
        self.plans = Plans(self.shards, settings)
        self.accumulation = -(-s.rows_per_step // (world_size * s.micro_batch_rows))
        self.data_wait_seconds = 0.0  # that next_step blocked; the caller resets it
        self._row_numbers = self._rank_rows()
        self._packers = ThreadPoolExecutor(s.workers, "packer") if s.workers > 1 else None
        self._builder = ThreadPoolExecutor(1, "loader")  # one thread: steps are built in order
        self._ahead: deque[Future[_Step]] = deque()
        self._used = self._built = Position()
        self.left_out: LeftOut = ()
        self._last: _Step | None = None

    def next_step(self) -> list[PackedBatch]:
        """This rank's `accumulation` micro-batches of the next step. Raises what went wrong while they were built."""
        begun = time.perf_counter()
        while len(self._ahead) <= self.settings.prefetch_steps:
            self._ahead.append(self._builder.submit(self._build))
        step = self._ahead[0].result()
        self._ahead.popleft()  # only now: an interrupt while waiting must not lose a step
        self._last, self._used = step, step.after
        self.data_wait_seconds += time.perf_counter() - begun
        return step.batches

    def next_targets(self) -> float:
        """Targets in this rank's part of the next step; nan where it is not built yet, or not to be built."""
        coming = self._ahead[0] if self._ahead else None
        if coming is None or not coming.done() or coming.exception() is not None:
            return math.nan
        return sum(batch.supervised for batch in coming.result().batches)

    def step_documents(self) -> list[tuple[str, str, int, int]]:
        """(source, document id, start, stop) of every segment of the step last returned, of all ranks, in order."""
        assert self._last is not None, "no step has been taken"
        return self._named(self._last.rows)

    def _named(self, rows: Rows) -> list[tuple[str, str, int, int]]:
        source, index = packing.locate(rows.document, self.shards)
        places = zip(source.tolist(), index.tolist(), rows.start.tolist(), rows.stop.tolist(), strict=True)
        return [(self.source_names[k], self.shards[k].id(i), start, stop) for k, i, start, stop in places]

    def rank_documents(self, most: int) -> tuple[list[str], int]:
        """Names (source/id) of the first `most` documents of this rank's part of the step last returned, and how many segments it has."""
        assert self._last is not None, "no step has been taken"
        segments = self._rank_segments(self._last.rows)
        source, index = packing.locate(self._last.rows.document[segments[:most]], self.shards)
        names = [f"{self.source_names[k]}/{self.shards[k].id(i)}" for k, i in zip(source.tolist(), index.tolist(), strict=True)]
        return list(dict.fromkeys(names)), len(segments)

    def state_dict(self) -> dict[str, Any]:
        """Where the caller stands: after the step last returned, whatever is built ahead; and the rows it leaves out."""
        plan = self.plans.fingerprint(self._used.epoch)
        return {"version": STATE_VERSION, **self._used._asdict(), "plan_fingerprint": plan, "left_out": [list(s) for s in self.left_out]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Seek. Raises LoaderError, naming what differs, when the rows planned now are not those of the state."""
        if state.get("version") not in READABLE:
            found = f"version {state.get('version')!r}, this program reads {', '.join(map(str, READABLE))}"
            raise LoaderError(f"loader state: {found}; resume with the program that wrote it")
        position = Position(int(state["epoch"]), int(state["next_row"]))
        self.require_plan(state["plan_fingerprint"], position.epoch)
        rows = len(self.plans.rows(position.epoch))
        if not 0 <= position.next_row <= rows:
            raise LoaderError(f"loader state: next_row {position.next_row} of an epoch of {rows} rows; the state is damaged")
        self.seek(position, positions.merged(Span(*span) for span in state.get("left_out", ())))

    def require_plan(self, then: Mapping[str, Any], epoch: int) -> None:
        """Raises LoaderError, naming what differs, when the rows of an epoch are not those of a plan's fingerprint."""
        now = self.plans.fingerprint(epoch)
        if now != then:
            raise LoaderError("the data order is not the one of the saved run: " + "; ".join(differences(then, now)))

    def seek(self, position: Position, left_out: LeftOut) -> None:
        """Go to a position, and from there on leave rows out."""
        self._forget()
        self._used = self._built = position
        self.left_out = left_out

    @property
    def position(self) -> Position:
        """After the step last returned."""
        return self._used

    def rows_of_last_steps(self, steps: int) -> LeftOut:
        """All rows from where the last so many steps began to where the caller stands, those already left out among them too."""
        first = positions.back(self._used, steps * self.settings.rows_per_step, self._plan_rows, self.left_out)
        return positions.merged(positions.between(first, self._used, self._plan_rows))

    def documents_in(self, spans: LeftOut) -> list[tuple[str, str, int, int]]:
        """(source, document id, start, stop) of every segment of these rows, in order."""
        return self._named(packing.join([self.plans.rows(s.epoch).span(s.first, s.stop) for s in spans])) if spans else []

    @property
    def epoch_rows(self) -> int:
        """Rows of the epoch the caller stands in."""
        return len(self.plans.rows(self._used.epoch))

    def require_tokens(self, tokens: int) -> None:
        """Raises MixtureError when the sources cannot give a run of that many tokens."""
        self.plans.require_tokens(tokens)

    def close(self) -> None:
        self._forget()
        self._builder.shutdown()
        self.plans.close()
        if self._packers:
            self._packers.shutdown()

    def _forget(self) -> None:
        """Drop what was built ahead, and wait for what is being built."""
        wait([future for future in self._ahead if not future.cancel()])
        self._ahead.clear()
        self._last = None

    def _build(self) -> _Step:
        """The step at `_built`, in the builder's thread."""
        rows, after = self._take(self._built, self.settings.rows_per_step)
        places = packing.locate(rows.document[self._rank_segments(rows)], self.shards)
        self._check_files(*places)  # a mapped file that shrank would end the process

        def pack(micro_batches: np.ndarray) -> list[PackedBatch]:
            batches = PackedBatch.split(packing.pack(rows, micro_batches.ravel(), self.shards), len(micro_batches))
            for batch in batches:
                _ = batch.contents  # counted here, in a thread that nobody waits for
            return batches

        try:
            parts = list((self._packers.map if self._packers else map)(pack, self._row_numbers))
        finally:
            self._check_files(*places)  # what was read is what was opened, and a fault in between has this cause
        self._built = after
        return _Step(rows, [batch for part in parts for batch in part], after)

    def _check_files(self, source: np.ndarray, index: np.ndarray) -> None:
        """Of the documents of this rank's rows alone: of thousands of files on a shared disk, those of a step are few."""
        for k, shards in enumerate(self.shards):
            shards.check_unchanged(index[source == k])

    def _rank_segments(self, rows: Rows) -> np.ndarray:
        """Segments of a step's rows that are this rank's."""
        mine = np.concatenate([part.ravel() for part in self._row_numbers])
        return packing.segments_of(rows, mine[(mine != PADDING_ROW) & (mine < len(rows))])

    def _plan_rows(self, epoch: int) -> int:
        return len(self.plans.rows(epoch))

    def _take(self, at: Position, count: int) -> tuple[Rows, Position]:
        """The next `count` rows, across as many epochs as they lie in."""
        spans, at = positions.take(at, count, self._plan_rows, self.left_out)
        if 2 * at.next_row > self._plan_rows(at.epoch):
            self.plans.prepare(at.epoch + 1)
        return packing.join([self.plans.rows(s.epoch).span(s.first, s.stop) for s in spans]), at

    def _rank_rows(self) -> list[np.ndarray]:
        """Row numbers within the step, (micro-batches, micro_batch_rows), of this rank, in parts worth packing at once."""
        s = self.settings
        first = (np.arange(self.accumulation) * self.world_size + self.rank) * s.micro_batch_rows
        rows = first[:, None] + np.arange(s.micro_batch_rows)
        rows = np.where(rows < s.rows_per_step, rows, PADDING_ROW)
        at_once = max(1, PACKED_AT_ONCE // (s.micro_batch_rows * s.seq_len))
        return [rows[k : k + at_once] for k in range(0, len(rows), at_once)]
