"""Packing: seconds and fill of our plans beside other packers, on made or real document lengths.

The made lengths are lognormal with the mean of a chat mixture, 654 tokens; --shards takes those of real shards. Documents
longer than a row are cut beforehand, alike for all. Packers of other projects are measured when they are installed.
"""

import argparse
import bisect
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from train.data.mixture import generator
from train.data.packing import plan_split, plan_whole

MEAN_TOKENS, SIGMA = 654, 0.9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--documents", type=int, default=500_000, help="how many lengths to make (default: %(default)s)")
    parser.add_argument("--seq-len", type=int, default=4096, help="tokens of a row (default: %(default)s)")
    parser.add_argument("--shards", type=Path, help="take the lengths of these shards instead")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each packer, the fastest counts (default: %(default)s)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    lengths = _lengths(args)
    pieces = _cut(lengths, args.seq_len)
    tokens = int(lengths.sum())
    packers: dict[str, Callable[[], int]] = {
        "ours, split": lambda: len(plan_split(lengths, args.seq_len, generator(0))),
        "ours, whole": lambda: len(plan_whole(lengths, args.seq_len, generator(0))),
        "next-fit in order": lambda: _next_fit(pieces.tolist(), args.seq_len),
        "best-fit decreasing, one by one": lambda: _best_fit_decreasing(pieces.tolist(), args.seq_len),
    } | _installed(pieces, args.seq_len)
    rows = []
    for name, pack in packers.items():
        count, seconds = _fastest(pack, args.repeats)
        rows.append({"packer": name, "seconds": seconds, "fill %": round(100 * tokens / (count * args.seq_len), 3), "rows": count})
    return {"documents": len(lengths), "tokens": tokens, "seq_len": args.seq_len, "rows": rows}


def _lengths(args: argparse.Namespace) -> np.ndarray:
    if args.shards:
        from data_tools.shards.reader import Shards

        return Shards.open(args.shards, verify="size").lengths
    made = generator(0, "lengths").lognormal(np.log(MEAN_TOKENS) - SIGMA**2 / 2, SIGMA, args.documents)
    return np.maximum(made.astype(np.int64), 2)


def _cut(lengths: np.ndarray, seq_len: int) -> np.ndarray:
    whole, rest = lengths // seq_len, lengths % seq_len
    return np.concatenate([np.repeat(seq_len, whole.sum()), rest[rest > 0]])


def _fastest(pack: Callable[[], int], repeats: int) -> tuple[int, float]:
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        count = pack()
        seconds.append(time.perf_counter() - begun)
    return count, min(seconds)


def _next_fit(lengths: list[int], seq_len: int) -> int:
    """A new row whenever the next document does not fit."""
    count, room = 0, 0
    for n in lengths:
        if n > room:
            count, room = count + 1, seq_len
        room -= n
    return count


def _best_fit_decreasing(lengths: list[int], seq_len: int) -> int:
    """The textbook's rule, with the rooms that occur kept sorted."""
    rooms: list[int] = []
    rows_with = [0] * (seq_len + 1)
    count = 0
    for n in sorted(lengths, reverse=True):
        at = bisect.bisect_left(rooms, n)
        room = rooms[at] if at < len(rooms) else seq_len
        if at == len(rooms):
            count += 1
        else:
            rows_with[room] -= 1
            if not rows_with[room]:
                del rooms[at]
        left = room - n
        if left:
            rows_with[left] += 1
            if rows_with[left] == 1:
                bisect.insort(rooms, left)
    return count


def _installed(lengths: np.ndarray, seq_len: int) -> dict[str, Callable[[], int]]:
    """Packers of other projects that can be imported here."""
    found: dict[str, Callable[[], int]] = {}
    if importlib.util.find_spec("trl"):
        import datasets
        from trl import pack_dataset

        table = datasets.Dataset.from_dict({"input_ids": [np.zeros(n, np.int32) for n in lengths]}).with_format("arrow")
        found["TRL bfd (moves the tokens too)"] = lambda: len(pack_dataset(table, seq_len, "bfd", map_kwargs={"batch_size": len(table)}))
    return found
