"""Documents that are there twice, and documents that an evaluation would ask about.

1. `signature` makes of a text a fingerprint of its words (equal: an exact duplicate) and a MinHash of its word 5-grams.
2. `find_duplicates` takes documents from the best to the worst and drops one when a better one that stays is equal or alike. So
   nothing is dropped for being like a document that was itself dropped, and the answer depends on the set of documents alone.
3. `Evaluation` holds the 13-grams of evaluation sets and names the file a text shares one with.

datatrove has a MinHash of its own; it keeps the first of a cluster in reading order, which would make the result depend on how
the input is cut into files, and joins chains of documents whose ends are not alike.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

SHINGLE, BANDS, ROWS = 5, 20, 6  # two texts that share 80% of their 5-grams meet in a band with 99.8%, 50% with 27%
PERMUTATIONS = BANDS * ROWS
NGRAM = 13
_FACTORS = np.random.Generator(np.random.PCG64(20230914)).integers(1, 1 << 63, size=(2, PERMUTATIONS), dtype=np.uint64) | np.uint64(1)


class DuplicatesError(ValueError):
    """An evaluation file that cannot be used."""


def words_of(text: str) -> list[str]:
    """Lower-case words and numbers; TeX signs, punctuation and spaces make no difference between copies."""
    return re.findall(r"[^\W_]+", text.lower())


def word_hashes(words: list[str]) -> np.ndarray:
    """(words,) uint64, the same in every process and on every machine."""
    known: dict[str, int] = {}
    for word in words:
        if word not in known:
            data = word.encode()
            known[word] = zlib.crc32(data) << 32 | zlib.adler32(data)
    return _mix(np.fromiter((known[word] for word in words), np.uint64, len(words)))


def gram_hashes(hashes: np.ndarray, n: int) -> np.ndarray:
    """(words - n + 1,) uint64, one for each run of n words; one for the whole text where it is shorter."""
    n = min(n, len(hashes))
    if n == 0:
        return np.zeros(0, np.uint64)
    total = np.zeros(len(hashes) - n + 1, np.uint64)
    for k in range(n):
        total = total * np.uint64(0x9E3779B97F4A7C15) + hashes[k : len(hashes) - n + 1 + k]
    return _mix(total)


def _mix(values: np.ndarray) -> np.ndarray:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@dataclass(frozen=True)
class Signature:
    exact: bytes  # 16 bytes
    minhash: np.ndarray  # (PERMUTATIONS,) uint32


def signature(text: str) -> Signature:
    words = words_of(text)
    grams = np.unique(gram_hashes(word_hashes(words), SHINGLE))
    minhash = np.full(PERMUTATIONS, 0xFFFFFFFF, np.uint32)
    for start in range(0, len(grams), 4096):  # a block at a time: a book must not need a gigabyte
        block = grams[start : start + 4096, None] * _FACTORS[0] + _FACTORS[1]
        minhash = np.minimum(minhash, (block >> np.uint64(32)).astype(np.uint32).min(axis=0))
    return Signature(hashlib.blake2b(" ".join(words).encode(), digest_size=16).digest(), minhash)


def band_hashes(minhashes: np.ndarray) -> np.ndarray:
    """(documents, PERMUTATIONS) uint32 → (documents, BANDS) uint64."""
    rows = minhashes.reshape(len(minhashes), BANDS, ROWS).astype(np.uint64)
    total = np.zeros(rows.shape[:2], np.uint64)
    for k in range(ROWS):
        total = _mix(total + rows[:, :, k] + np.uint64(0x9E3779B97F4A7C15))
    return total


@dataclass(frozen=True)
class Duplicate:
    dropped: int  # positions in what was given
    kept: int
    reason: str  # "exact_duplicate" or "near_duplicate"
    similarity: float  # estimated share of 5-grams in common


def find_duplicates(
    exact: list[bytes], minhashes: np.ndarray, ranks: list[Any], *, similarity: float = 0.8, most: int = 200
) -> Iterator[Duplicate]:
    """Duplicates among documents; ranks: sortable and different for each, the smallest is the best copy.

    `most` bounds how many kept documents of one band a document is compared with; only boilerplate shares a band with so many.
    """
    order = sorted(range(len(ranks)), key=ranks.__getitem__)
    bands = band_hashes(minhashes)
    shared = np.zeros(bands.shape, bool)  # a band nobody shares needs no table: that is nearly all of them
    for band in range(BANDS):
        _, inverse, counts = np.unique(bands[:, band], return_inverse=True, return_counts=True)
        shared[:, band] = counts[inverse] > 1
    first: dict[bytes, int] = {}
    tables: list[dict[int, list[int]]] = [{} for _ in range(BANDS)]
    for index in order:
        if exact[index] in first:
            yield Duplicate(index, first[exact[index]], "exact_duplicate", 1.0)
            continue
        mine = np.flatnonzero(shared[index]).tolist()
        others = sorted({other for band in mine for other in tables[band].get(int(bands[index, band]), ())[:most]})
        if others:
            alike = (minhashes[others] == minhashes[index]).mean(axis=1)
            best = int(alike.argmax())
            if alike[best] >= similarity:
                yield Duplicate(index, others[best], "near_duplicate", round(float(alike[best]), 3))
                continue
        first[exact[index]] = index
        for band in mine:
            tables[band].setdefault(int(bands[index, band]), []).append(index)


class Evaluation:
    """The n-grams of evaluation sets, and which file each is from."""

    def __init__(self, hashes: np.ndarray, files: np.ndarray, names: list[str], n: int, short: int) -> None:
        self.hashes, self.files, self.names, self.n = hashes, files, names, n
        self.short = short  # texts with fewer than n words: they cannot be looked for

    @classmethod
    def of(cls, texts: Iterable[tuple[str, str]], n: int = NGRAM) -> Evaluation:
        """texts: (file, text) of every question, answer or passage. Raises DuplicatesError when there is nothing to look for."""
        names: list[str] = []
        hashes, files, short = [], [], 0
        for name, text in texts:
            if name not in names:
                names.append(name)
            words = word_hashes(words_of(text))
            if len(words) < n:
                short += 1
                continue
            hashes.append(gram_hashes(words, n))
            files.append(np.full(len(hashes[-1]), names.index(name), np.int32))
        if not hashes:
            raise DuplicatesError(
                f"--decontaminate {', '.join(names) or '(no text)'}: no text of {n} words or more; choose a smaller --ngram"
            )
        unique, positions = np.unique(np.concatenate(hashes), return_index=True)
        return cls(unique, np.concatenate(files)[positions], names, n, short)

    def shared_with(self, text: str) -> tuple[str, str] | None:
        """The evaluation file that shares a run of n words with the text, and the run."""
        words = words_of(text)
        if len(words) < self.n:
            return None
        grams = gram_hashes(word_hashes(words), self.n)
        found = np.searchsorted(self.hashes, grams).clip(max=len(self.hashes) - 1)
        hits = np.flatnonzero(self.hashes[found] == grams)
        return (self.names[self.files[found[hits[0]]]], " ".join(words[hits[0] : hits[0] + self.n])) if len(hits) else None


def texts_in(value: Any) -> Iterator[str]:
    """Every string inside a JSON value, keys not: an evaluation set's questions and answers wherever they stand."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for entry in value.values():
            yield from texts_in(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from texts_in(entry)
