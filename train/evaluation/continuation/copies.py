"""What of a text stands word for word in training shards: the longest common run of tokens, and the document it is from.

texts' ids → all their runs of SEED tokens, hashed → each document's runs of SEED tokens, hashed at once → hits, grown to both sides
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from data_tools.shards.reader import Shards

SEED = 8  # tokens of the shortest run that is looked for
FACTOR = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Copy:
    """A run of `tokens` tokens from `start` on in the text; document "" where not even SEED tokens stand anywhere."""

    tokens: int = 0
    start: int = 0
    document: str = ""


def longest_copies(
    texts: Sequence[Sequence[int]], shards: Sequence[Shards], advance: Callable[[float], None] = lambda by: None
) -> list[Copy]:
    """Of each text; `advance` is told of every document that was read."""
    found = [Copy()] * len(texts)
    arrays = [np.asarray(ids, np.int64) for ids in texts]
    places = [(n, k) for n, ids in enumerate(arrays) for k in range(len(ids) - SEED + 1)]
    if not places:
        return found
    seeds = np.concatenate([_hashes(ids) for ids in arrays if len(ids) >= SEED])
    order = np.argsort(seeds, kind="stable")
    seeds = seeds[order]
    for source in shards:
        for document in range(len(source)):
            tokens = np.asarray(source.tokens(document), np.int64)
            advance(1)
            if len(tokens) < SEED:
                continue
            hashes = _hashes(tokens)
            left = np.searchsorted(seeds, hashes)
            hits = np.flatnonzero(seeds[np.minimum(left, len(seeds) - 1)] == hashes)
            passed: dict[tuple[int, int], int] = {}  # (text, diagonal) → where its last run ended
            for at in hits.tolist():
                for k in range(int(left[at]), int(np.searchsorted(seeds, hashes[at], side="right"))):
                    n, start = places[order[k]]
                    if passed.get((n, at - start), -1) > at:
                        continue
                    length = _same(arrays[n][start:], tokens[at:])
                    passed[n, at - start] = at + length
                    if length >= SEED and length > found[n].tokens:
                        found[n] = Copy(length, start, source.id(document))
    return found


def _hashes(ids: np.ndarray) -> np.ndarray:
    """Of each run of SEED ids: (length - SEED + 1,) uint64."""
    values, count = ids.astype(np.uint64), len(ids) - SEED + 1
    total = np.zeros(count, np.uint64)
    for k in range(SEED):
        total = total * FACTOR + values[k : k + count] + np.uint64(1)
    return total


def _same(a: np.ndarray, b: np.ndarray) -> int:
    """How many of the first elements are the same."""
    length = min(len(a), len(b))
    differs = np.flatnonzero(a[:length] != b[:length])
    return int(differs[0]) if len(differs) else length
