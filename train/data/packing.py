"""From document lengths to packed rows: pure numpy, the same on every rank.

lengths of an epoch's documents → `plan_split` or `plan_whole` → `Rows`, the epoch's plan → `pack` → `PackedRows`, one micro-batch.

    rows = plan_whole(np.array([3, 5, 2]), seq_len=5, rng=np.random.default_rng(0))   # two rows: {5} and {3, 2}
    packed = pack(rows, np.array([0, 1]), [shards])                                   # 10 tokens, cu_seqlens [0, 5, 8, 10] or [0, 3, 5, 10]
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from train.data import best_fit

if TYPE_CHECKING:
    from data_tools.shards.reader import Shards

IGNORED = -100  # the label of a position that has no target
PADDING_ROW = -1  # the row number of a row that is all padding
AT_ONCE = 1 << 20  # documents or segments worked on at once while a plan is made


@dataclass(frozen=True)
class Rows:
    """An epoch's plan: row k holds segments row_starts[k]:row_starts[k + 1], each a token range of one document.

    document, start, stop: (segments,) int32, or int64 where that is too small, documents numbered over all sources in recipe order, ranges half-open;
    row_starts: (rows + 1,) int64. `cut` documents lie in more than one segment.
    """

    document: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    row_starts: np.ndarray
    seq_len: int
    cut: int = 0

    def __len__(self) -> int:
        return len(self.row_starts) - 1

    @property
    def tokens(self) -> int:
        return int(self.stop.sum() - self.start.sum())

    @property
    def fill(self) -> float:
        """Tokens per place for one, 0 to 1."""
        return self.tokens / max(1, len(self) * self.seq_len)

    def digest(self) -> str:
        """sha256 of what lies in which row: two plans with one digest train on the same tokens in the same order."""
        digest = hashlib.sha256(f"{self.seq_len} {len(self)} {len(self.document)}".encode())
        for array in (self.document, self.start, self.stop, self.row_starts):
            for at in range(0, len(array), AT_ONCE):  # as eight bytes each, whatever they are kept in
                digest.update(array[at : at + AT_ONCE].astype("<i8", copy=False).data)
        return digest.hexdigest()

    def span(self, first: int, stop: int) -> "Rows":
        """Rows first:stop as a plan of their own; views, nothing copied but row_starts."""
        low, high = self.row_starts[first], self.row_starts[stop]
        parts = (self.document[low:high], self.start[low:high], self.stop[low:high])
        return Rows(*parts, self.row_starts[first : stop + 1] - low, self.seq_len)


def join(spans: Sequence[Rows]) -> Rows:
    """Plans of one seq_len, one after another."""
    if len(spans) == 1:
        return spans[0]
    parts = (np.concatenate([getattr(s, name) for s in spans]) for name in ("document", "start", "stop"))
    counts = np.concatenate([np.diff(s.row_starts) for s in spans])
    return Rows(*parts, _offsets(counts), spans[0].seq_len)


# ---- plans ----


def plan_split(lengths: np.ndarray, seq_len: int, rng: np.random.Generator | None = None, order: np.ndarray | None = None) -> Rows:
    """Lay the documents end to end in `order` and cut at every `seq_len`: all rows are full but the last.

    lengths: (documents,) all > 0; order: the documents of this epoch, one may come twice (default: all). With `rng` the full
    rows are shuffled, so that the pieces of a long paper do not fill one step; a short row stays last.
    """
    tokens = sum(int(sizes.sum()) for _, sizes in _in_parts(lengths, order))
    counts = np.zeros(-(-tokens // seq_len), np.int64)  # segments of each row, as the documents come
    cut = 0
    for part in _pieces(lengths, order, seq_len):
        first = int(part.row[0])
        counts[first : int(part.row[-1]) + 1] += np.bincount(part.row - first)
        cut += part.cut
    full = tokens // seq_len
    permuted = np.arange(len(counts)) if rng is None else np.append(rng.permutation(full), np.arange(full, len(counts)))
    row_starts = _offsets(counts[permuted])
    slot = np.empty(len(counts), np.int64)  # where a row's segments begin, less the segments before it as the documents come
    slot[permuted] = row_starts[:-1]
    slot -= _offsets(counts)[:-1]
    document, start, stop = (np.empty(row_starts[-1], _index_type(lengths)) for _ in range(3))
    done = 0
    for part in _pieces(lengths, order, seq_len):
        at = slot[part.row] + np.arange(done, done + len(part.row))
        document[at], start[at], stop[at] = part.document, part.start, part.stop
        done += len(part.row)
    return Rows(document, start, stop, row_starts, seq_len, cut)


def plan_whole(lengths: np.ndarray, seq_len: int, rng: np.random.Generator, order: np.ndarray | None = None) -> Rows:
    """Best fit: no document that fits a row is ever cut; longer ones are cut into rows and a rest.

    lengths: (documents,) all > 0; order: the documents of this epoch, one may come twice (default: all). Documents of one
    length are interchangeable and are dealt out in `order`; the rows are shuffled by `rng`.
    """
    counts = np.zeros(seq_len + 1, np.int64)  # of what is placed by length: documents that fit a row, rests of longer ones
    long_ones, full_rows = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for documents, sizes in _in_parts(lengths, order):
        longer = np.flatnonzero(sizes > seq_len)
        long_ones.append(documents[longer])
        full_rows.append(sizes[longer] // seq_len)
        counts += np.bincount(_rests(sizes, seq_len), minlength=seq_len + 1)
    counts[0] = 0
    laid = best_fit.fill_rows(counts, seq_len)
    long_ones, full_rows = np.concatenate(long_ones), np.concatenate(full_rows)

    opened = len(laid.in_row)
    in_row = np.append(laid.in_row, np.ones(full_rows.sum(), np.int64))  # segments of each row, before rows are shuffled
    new_number = rng.permutation(len(in_row))
    shuffled = np.empty_like(in_row)
    shuffled[new_number] = in_row
    row_starts = _offsets(shuffled)
    slot = row_starts[new_number]  # where a row's segments go
    document, start, stop = (np.empty(row_starts[-1], _index_type(lengths)) for _ in range(3))
    longest_first = _longest_first(lengths, order, counts)
    dealt = 0
    for at in _places(laid, slot):
        document[at] = longest_first[dealt : dealt + len(at)]
        dealt += len(at)
    del longest_first
    document[slot[opened:]] = np.repeat(long_ones, full_rows)
    for at in range(0, len(document), AT_ONCE):
        part = slice(at, at + AT_ONCE)
        stop[part] = sizes = lengths[document[part]]
        start[part] = np.where(sizes > seq_len, sizes // seq_len * seq_len, 0)
    start[slot[opened:]] = _ranges(np.zeros(len(full_rows), np.int64), full_rows) * seq_len
    stop[slot[opened:]] = start[slot[opened:]] + seq_len
    return Rows(document, start, stop, row_starts, seq_len, len(long_ones))


def _places(laid: best_fit.Laid, slot: np.ndarray) -> Iterator[np.ndarray]:
    """Where the documents go, longest first, some AT_ONCE at a time; slot: where each row begins."""
    ends = np.cumsum(laid.rows * laid.times)
    for low, high in itertools.pairwise(np.unique(np.append(np.searchsorted(ends, np.arange(0, ends[-1:].sum(), AT_ONCE)), len(ends)))):
        times, first, rows, before = (part[low:high] for part in (laid.times, laid.first, laid.rows, laid.before))
        place = _ranges(np.zeros(high - low, np.int64), rows * times)  # within what is laid of one length
        times = np.repeat(times, rows * times)
        row = np.repeat(first, rows * laid.times[low:high]) + place // times
        yield slot[row] + np.repeat(before, rows * laid.times[low:high]) + place % times


def _longest_first(lengths: np.ndarray, order: np.ndarray | None, counts: np.ndarray) -> np.ndarray:
    """The documents by what is to be placed of them, those of one length in order; counts[n]: how many of n there are, 0 none."""
    seq_len = len(counts) - 1
    sorted_ones = np.empty(counts.sum(), _index_type(lengths))
    after = np.cumsum(counts[::-1])[::-1]  # documents at least as long
    place = after - counts  # where the next of each length goes
    narrow = np.uint16 if seq_len < 1 << 16 else np.uint32  # numpy sorts 16 bits by radix
    for documents, sizes in _in_parts(lengths, order):
        rests = _rests(sizes, seq_len)
        by_length = np.argsort((seq_len - rests).astype(narrow), kind="stable")
        here = np.bincount(rests, minlength=seq_len + 1)
        by_length = by_length[: len(by_length) - here[0]]
        here[0] = 0
        first = np.cumsum(here[::-1])[::-1] - here  # of each length within this part
        at = np.arange(len(by_length)) + np.repeat((place - first)[::-1], here[::-1])
        sorted_ones[at] = documents[by_length]
        place += here
    return sorted_ones


def _rests(sizes: np.ndarray, seq_len: int) -> np.ndarray:
    """What of each document is placed by length: all of one that fits a row, of a longer one what is over after full rows."""
    return np.where(sizes > seq_len, sizes % seq_len, sizes)


def _in_parts(lengths: np.ndarray, order: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Documents in order and their lengths, AT_ONCE at a time: what is made on the way to a plan stays small beside it."""
    for at in range(0, len(lengths) if order is None else len(order), AT_ONCE):
        documents = np.arange(at, min(at + AT_ONCE, len(lengths))) if order is None else order[at : at + AT_ONCE]
        sizes = lengths[documents]
        assert sizes.min() > 0, "a document without tokens"
        yield documents, sizes


@dataclass(frozen=True)
class _Pieces:
    """Documents laid end to end and cut at row ends, in order: (pieces,) each; cut: documents of more than one piece."""

    document: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    row: np.ndarray
    cut: int


def _pieces(lengths: np.ndarray, order: np.ndarray | None, seq_len: int) -> Iterator[_Pieces]:
    before = 0
    for documents, sizes in _in_parts(lengths, order):
        ends = before + np.cumsum(sizes)
        begins = ends - sizes
        first_row = begins // seq_len
        pieces = (ends - 1) // seq_len - first_row + 1  # one a row that the document touches
        row = _ranges(first_row, pieces)
        of = np.repeat(np.arange(len(documents)), pieces)
        start = np.maximum(begins[of], row * seq_len) - begins[of]
        stop = np.minimum(ends[of], (row + 1) * seq_len) - begins[of]
        yield _Pieces(documents[of], start, stop, row, int(np.count_nonzero(pieces > 1)))
        before = int(ends[-1])


def _index_type(lengths: np.ndarray) -> type:
    """Four bytes a number where they do: a plan of 100 million documents is 1.2 GB so."""
    return np.int32 if max(len(lengths), lengths.max(initial=0)) < 1 << 31 else np.int64


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """starts [5, 0], counts [2, 3] → [5, 6, 0, 1, 2]"""
    offsets = _offsets(counts)
    return np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], counts)


def _offsets(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])


# ---- packed rows ----


@dataclass(frozen=True)
class PackedRows:
    """One micro-batch: rows end to end, each its segments and, when short, one segment of padding.

    tokens, labels, position_ids: (rows * seq_len,) int64; labels[i] is the target of position i, the next token of the same
    document, IGNORED where there is none; cu_seqlens: (segments + 1,) int32, starts at 0, ends at rows * seq_len;
    source: (rows * seq_len,) int16, -1 on padding; supervised: labels that are targets.
    """

    tokens: np.ndarray
    labels: np.ndarray
    position_ids: np.ndarray
    cu_seqlens: np.ndarray
    max_seqlen: int
    source: np.ndarray
    supervised: int

    def __post_init__(self) -> None:
        total, edges = len(self.tokens), self.cu_seqlens
        sizes = edges[1:] - edges[:-1]
        assert len(self.labels) == len(self.position_ids) == len(self.source) == total, "arrays of one micro-batch differ in length"
        assert edges.dtype == np.int32 and edges[0] == 0 and edges[-1] == total, f"cu_seqlens runs {edges[0]}..{edges[-1]}, not 0..{total}"
        assert sizes.min() > 0 and sizes.max() == self.max_seqlen, f"segments of {sizes.min()}..{sizes.max()}, max_seqlen {self.max_seqlen}"
        assert not self.position_ids[edges[:-1]].any(), "a segment does not start at position 0"


def pack(rows: Rows, indices: np.ndarray, shards: Sequence["Shards"]) -> PackedRows:
    """The rows of these numbers as one micro-batch; PADDING_ROW is a row of padding. `shards` in recipe order."""
    seq_len, total = rows.seq_len, len(indices) * rows.seq_len
    real = indices != PADDING_ROW
    first = np.where(real, rows.row_starts[indices], 0)
    counts = np.where(real, rows.row_starts[indices + 1] - first, 0)  # segments of each row
    segments = _ranges(first, counts)
    document, start, stop = rows.document[segments], rows.start[segments], rows.stop[segments]
    sizes = stop - start
    tokens_before = _offsets(sizes)[_offsets(counts)]  # each row, and the end
    row_begins = np.arange(0, total, seq_len)
    used = np.diff(tokens_before)
    begins = np.cumsum(sizes) - sizes + np.repeat(row_begins - tokens_before[:-1], counts)
    pads = (row_begins + used)[used < seq_len]

    source, index = locate(document, shards)
    edges = np.concatenate([begins, pads])
    edge_source = np.concatenate([source, np.full(len(pads), -1)]).astype(np.int16)
    by_place = np.argsort(edges)
    edges, edge_source = edges[by_place], edge_source[by_place]
    lengths = np.diff(edges, append=total)
    tokens, labels, positions = (np.empty(total, np.int64) for _ in range(3))
    count_up = np.arange(seq_len)  # copied bit by bit: a whole array of positions made by arithmetic costs more than all else here
    for at, size in zip(edges.tolist(), lengths.tolist(), strict=True):
        positions[at : at + size] = count_up[:size]
    for at in pads.tolist():
        tokens[at : at - at % seq_len + seq_len] = 0
    _copy_tokens(tokens, labels, shards, _Segments(source, index, start, stop, begins))
    for at in pads.tolist():
        labels[at : at - at % seq_len + seq_len] = IGNORED
    return PackedRows(
        tokens=tokens,
        labels=labels,
        position_ids=positions,
        cu_seqlens=np.append(edges, total).astype(np.int32),
        max_seqlen=int(lengths.max()),
        source=np.repeat(edge_source, lengths),
        supervised=int(np.count_nonzero(labels != IGNORED)),
    )


@dataclass(frozen=True)
class _Segments:
    """Token ranges start:stop of documents `index` of sources `source`, and where in the micro-batch each begins: (segments,) int64 each."""

    source: np.ndarray
    index: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    begins: np.ndarray

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        return zip(*(getattr(self, f.name).tolist() for f in fields(self)), strict=True)


def _copy_tokens(tokens: np.ndarray, labels: np.ndarray, shards: Sequence["Shards"], segments: _Segments) -> None:
    """Lay the segments' tokens where they begin; a label is the document's next token, where the mask trains on it."""
    places = list(segments)
    for k, i, a, b, at in places:
        tokens[at : at + b - a] = shards[k].tokens(i)[a:b]
    labels[:-1] = tokens[1:]
    s = segments
    document_lengths = np.zeros(len(s.source), np.int64)
    for k, one in enumerate(shards):
        here = s.source == k
        document_lengths[here] = one.lengths[s.index[here]]
    labels[s.begins + (s.stop - s.start) - 1] = IGNORED
    for j in np.flatnonzero(s.stop < document_lengths).tolist():  # a piece of a cut document: its next token is elsewhere
        k, i, a, b, at = places[j]
        labels[at + b - a - 1] = shards[k].tokens(i)[b]
    if any(one.has_mask for one in shards):
        for k, i, a, b, at in places:
            if shards[k].has_mask:
                mask = shards[k].mask(i)[a + 1 : b + 1]  # of the targets
                labels[at : at + len(mask)][mask == 0] = IGNORED


def segments_of(rows: Rows, indices: np.ndarray) -> np.ndarray:
    """Numbers of the segments of these rows, row by row."""
    first = rows.row_starts[indices]
    return _ranges(first, rows.row_starts[indices + 1] - first)


def locate(document: np.ndarray, shards: Sequence["Shards"]) -> tuple[np.ndarray, np.ndarray]:
    """Document numbers over all sources → which source, and the number within it."""
    first = _offsets(np.array([len(s) for s in shards]))
    source = np.searchsorted(first, document, side="right") - 1
    return source, document - first[source]
