"""Which documents an epoch holds, and in what order: pure numpy, the same on every rank.

document lengths and weights per source → `epoch_shares`, tokens of each source → `epoch_documents`, numbers for `batches.plan_…`.

Without weights an epoch is every document once. With weights each source is an endless stream of passes over its documents,
each pass shuffled anew; an epoch takes the next tokens of every stream in proportion to the weights, as many as fit
without any source needing more than one pass, so that the next epoch goes on where this one stopped.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_REMEDY = "raise or drop max_repeats, add data, or shorten the run"


class MixtureError(ValueError):
    """The sources cannot give what the run asks for."""


@dataclass(frozen=True)
class SourceSpec:
    """weight: share of tokens, all sources have one or none has; max_repeats: passes over the source in all, 1.5 for one and a half."""

    name: str
    weight: float | None = None
    max_repeats: float | None = None


def generator(seed: int, *words: str | int) -> np.random.Generator:
    """The same stream for the same seed and words, on any machine and in any process."""
    digest = hashlib.sha256(json.dumps([seed, *words]).encode()).digest()
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(np.frombuffer(digest, "<u4").tolist())))


def epoch_documents(lengths: Sequence[np.ndarray], specs: Sequence[SourceSpec], seed: int, epoch: int) -> np.ndarray:
    """The documents of an epoch, shuffled: (documents,) numbers over all sources, one may come twice.

    lengths: per source (documents,) tokens of each; 0 leaves a document out. Raises MixtureError when every source is used up.
    """
    totals = [int(n.sum()) for n in lengths]
    begins, shares = epoch_shares(totals, specs, epoch)
    if not any(shares):
        raise MixtureError(f"the sources are used up after {sum(begins):,} tokens ({_limits_text(totals, specs)}); {_REMEDY}")
    first_document = [0, *itertools.accumulate(len(n) for n in lengths)]
    narrow = np.int32 if first_document[-1] < 1 << 31 else np.int64  # half the memory where it does
    parts = []
    for k, spec in enumerate(specs):
        if shares[k]:
            parts.append(_stream(lengths[k], begins[k], begins[k] + shares[k], seed, spec.name).astype(narrow, copy=False))
            parts[-1] += first_document[k]
    if len(parts) == 1:
        return parts[0]
    documents = np.concatenate(parts)
    generator(seed, "order", epoch).shuffle(documents)
    return documents


def _stream(lengths: np.ndarray, begin: int, stop: int, seed: int, name: str) -> np.ndarray:
    """Documents of a source's endless stream that start at token begin:stop of it; every pass is a permutation."""
    total = int(lengths.sum())
    taken = []
    for number in range(begin // total, -(-stop // total)):
        order = np.flatnonzero(lengths)
        order = order.astype(np.int32) if len(lengths) < 1 << 31 else order
        generator(seed, "pass", name, number).shuffle(order)
        if begin <= number * total and (number + 1) * total <= stop:
            taken.append(order)
            continue
        sizes = lengths[order]
        at = number * total + np.cumsum(sizes) - sizes
        taken.append(order[np.searchsorted(at, begin) : np.searchsorted(at, stop)])
    return taken[0] if len(taken) == 1 else np.concatenate(taken)


def epoch_shares(totals: Sequence[int], specs: Sequence[SourceSpec], epoch: int) -> tuple[list[int], list[int]]:
    """Tokens of each source before an epoch and in it. totals: tokens of one pass over each source.

    A source that is used up has no share, and its weight goes to the others in proportion. An epoch ends where the
    first source ends its pass or is used up, hence the walk over epochs: a few scalars each.
    """
    limits = [_limit(total, spec) for total, spec in zip(totals, specs, strict=True)]
    used = [0] * len(specs)
    for _ in range(epoch):
        shares = _shares(totals, specs, limits, used)
        if not any(shares):
            break
        used = [u + s for u, s in zip(used, shares, strict=True)]
    return used, _shares(totals, specs, limits, used)


def _shares(totals: Sequence[int], specs: Sequence[SourceSpec], limits: Sequence[int | None], used: Sequence[int]) -> list[int]:
    """Tokens of each source in the epoch that starts after `used` tokens of each."""
    most = [t if limit is None else min(t, limit - u) for t, limit, u in zip(totals, limits, used, strict=True)]
    if specs[0].weight is None:
        return most
    active = [k for k, m in enumerate(most) if m > 0]
    if not active:
        return most
    per_weight = min(most[k] / specs[k].weight for k in active)  # the source that ends first sets the epoch's length
    return [min(m, round(per_weight * spec.weight)) for m, spec in zip(most, specs, strict=True)]


def end_of_passes(totals: Sequence[int], specs: Sequence[SourceSpec], passes: float) -> tuple[int, float]:
    """Whole epochs, and the part of the next, in which the source with the largest weight is read `passes` times; without weights: all are.

    Raises:
        MixtureError: weights that name no such source, or one that may not be read so often.
    """
    if specs[0].weight is None:
        return math.floor(passes), passes - math.floor(passes)
    largest = max(spec.weight for spec in specs)
    first, *others = [k for k, spec in enumerate(specs) if spec.weight == largest]
    if others:
        names = ", ".join(specs[k].name for k in (first, *others))
        raise MixtureError(f"epochs={passes:g}: of which source? {names} have the same weight; make one larger, or give tokens= or steps=")
    limits = [_limit(total, spec) for total, spec in zip(totals, specs, strict=True)]
    used, epoch, wanted = [0] * len(specs), 0, passes * totals[first]
    if limits[first] is not None and limits[first] < wanted or not totals[first]:
        raise MixtureError(f"epochs={passes:g}: the sources give fewer ({_limits_text(totals, specs)}); {_REMEDY}")
    while True:
        shares = _shares(totals, specs, limits, used)
        if used[first] + shares[first] >= wanted:
            return epoch, (wanted - used[first]) / shares[first]
        used, epoch = [u + s for u, s in zip(used, shares, strict=True)], epoch + 1


def _limit(total: int, spec: SourceSpec) -> int | None:
    """Tokens a source may give in all; None for any number."""
    return None if spec.max_repeats is None else int(total * spec.max_repeats)


def tokens_available(totals: Sequence[int], specs: Sequence[SourceSpec]) -> int | None:
    """Tokens all sources can give together under their max_repeats; None when one of them has no limit."""
    limits = [_limit(total, spec) for total, spec in zip(totals, specs, strict=True)]
    return None if None in limits else sum(limits)


def require_tokens(totals: Sequence[int], specs: Sequence[SourceSpec], tokens: int) -> None:
    """Raises MixtureError when a run of `tokens` would use up every source before its end."""
    there = tokens_available(totals, specs)
    if there is not None and there < tokens:
        raise MixtureError(f"the sources give {there:,} tokens ({_limits_text(totals, specs)}), the run asks for {tokens:,}; {_REMEDY}")


def _limits_text(totals: Sequence[int], specs: Sequence[SourceSpec]) -> str:
    caps = ["" if spec.max_repeats is None else f" x {spec.max_repeats:g}" for spec in specs]
    return ", ".join(f"{spec.name} {total:,}{cap}" for spec, total, cap in zip(specs, totals, caps, strict=True))
