"""Best-fit packing by length alone: how many documents of each length there are → the rows they go to.

Rows are filled one after another with the longest document that fits, and as soon as one, two or three documents fill the
rest to the last token, with those. Documents of one length are interchangeable, so lengths are sets of bits (Python ints),
a search is a shift and an AND, and a row that was found is laid down as often as its lengths last: the cost grows with the
number of different rows, some thousands, and hardly with the number of documents.
"""

from dataclasses import dataclass

import numpy as np

TRIES = 64  # lengths tried as the first of the last three documents of a row


@dataclass(frozen=True)
class Laid:
    """Where all documents lie, longest first: `times` of one length in each of the rows first:first + rows, behind `before` others.

    All but the last (laid,) int64; in_row: (rows,) int64, documents of each row.
    """

    times: np.ndarray
    first: np.ndarray
    rows: np.ndarray
    before: np.ndarray
    in_row: np.ndarray


def fill_rows(counts: np.ndarray, seq_len: int) -> Laid:
    """counts[n] documents of n tokens each, n <= seq_len → rows, as few as can be found quickly."""
    lengths = _Lengths(counts.tolist(), seq_len)
    laid: list[tuple[int, int, int, int, int]] = []
    filled: list[tuple[int, int]] = [(0, 0)]  # documents of a row, rows like it
    opened = 0
    while lengths.present:
        row = _fill_row(lengths, seq_len)
        times = {n: row.count(n) for n in sorted(row, reverse=True)}
        # half of what is there: lengths that end early are missed by the rows to come
        again = min(lengths.left[n] // k for n, k in times.items())
        again = again if len(row) == 1 or again < 4 else again // 2
        before = 0
        for n, k in times.items():
            lengths.take(n, again * k)
            laid.append((n, k, opened, again + 1, before))
            before += k
        filled.append((len(row), again + 1))
        opened += again + 1
    length, *parts = np.array(laid, np.int64).reshape(-1, 5).T
    longest_first = np.argsort(-length, kind="stable")
    return Laid(*(part[longest_first] for part in parts), np.repeat(*np.array(filled, np.int64).T))


def _fill_row(lengths: "_Lengths", seq_len: int) -> list[int]:
    """Take the documents of one row; nothing that is left fits what remains of it."""
    row: list[int] = []
    room = seq_len
    while longest := lengths.longest(room):
        last = [longest] if longest == room else lengths.pair(room) or (lengths.three(room) if room < 3 * longest else None)
        for n in last or [longest]:
            lengths.take(n)
            row.append(n)
            room -= n
    return row


class _Lengths:
    """A multiset of lengths. Bit n of `present` is set while documents of n tokens are left, and bit seq_len - n of `mirror`."""

    def __init__(self, left: list[int], seq_len: int) -> None:
        self.left, self.seq_len = left, seq_len
        self.present = sum(1 << n for n, count in enumerate(left) if count)
        self.mirror = sum(1 << (seq_len - n) for n, count in enumerate(left) if count)

    def take(self, n: int, count: int = 1) -> None:
        """A negative count puts back."""
        was, self.left[n] = self.left[n], self.left[n] - count
        if (was == 0) != (self.left[n] == 0):
            self.present ^= 1 << n
            self.mirror ^= 1 << (self.seq_len - n)

    def longest(self, room: int) -> int:
        """0 when nothing fits."""
        return max(0, (self.present & ((2 << room) - 1)).bit_length() - 1)

    def pair(self, room: int) -> list[int] | None:
        """Two documents that fill `room`, as unequal as possible."""
        fitting = self.present & (self.mirror >> (self.seq_len - room))  # bit n: both n and room - n are there
        if room % 2 == 0 and self.left[room // 2] == 1:
            fitting &= ~(1 << room // 2)
        n = fitting.bit_length() - 1
        return [n, room - n] if fitting else None

    def three(self, room: int) -> list[int] | None:
        """Three documents that fill `room`, the first among the TRIES longest."""
        n = room
        for _ in range(TRIES):
            n = self.longest(n - 1)
            if not n:
                return None
            self.take(n)
            rest = self.pair(room - n)
            self.take(n, -1)
            if rest:
                return [n, *rest]
        return None
