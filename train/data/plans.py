"""The plans of an endless run, epoch by epoch, and what they depend on.

shards' lengths and fingerprints, the recipe's data settings → `Plans.rows(epoch)`, made once, the next one ahead of need; and
`Plans.fingerprint(epoch)`, by which a resume knows that its rows are those of the saved run.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal

import numpy as np

from data_tools.shards.reader import Shards
from train.data import mixture, packing
from train.data.mixture import SourceSpec
from train.data.packing import Rows

PLANNED = 32  # epochs that are planned to know their rows
KEPT = 3  # plans: of the caller's epoch, the builder's, the next


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """How documents become rows and rows become steps; all but the last three decide what a step holds, whatever the ranks."""

    specs: Sequence[SourceSpec]  # in the order of the shards
    seq_len: int
    packing: Literal["split", "whole"]
    long_documents: Literal["cut", "drop"] = "cut"  # those longer than a row, in whole packing
    seed: int
    rows_per_step: int
    micro_batch_rows: int = 1
    prefetch_steps: int = 2
    workers: int = 1


class Plans:
    """Makes a plan in a thread of its own when it is asked for, or before; keeps the last few."""

    def __init__(self, shards: Sequence[Shards], settings: DataSettings) -> None:
        self.settings, seq_len = settings, settings.seq_len
        lengths = [s.lengths for s in shards]
        self.dropped_documents = 0  # longer than a row, by the recipe's rule
        if settings.packing == "whole" and settings.long_documents == "drop":
            # taken out before the mixture, so that weights and token counts are of what is trained on
            self.dropped_documents = sum(int((n > seq_len).sum()) for n in lengths)
            lengths = [np.where(n > seq_len, 0, n) for n in lengths]
        self._lengths = lengths
        self._all_lengths = lengths[0] if len(lengths) == 1 else np.concatenate(lengths)
        self._depends_on = {key: getattr(settings, key) for key in ("seed", "seq_len", "packing", "long_documents")}
        self._depends_on |= {f"shards of {spec.name}": s.fingerprint for spec, s in zip(settings.specs, shards, strict=True)}
        self._depends_on |= {f"{key} of {spec.name}": getattr(spec, key) for spec in settings.specs for key in ("weight", "max_repeats")}
        self._planner = ThreadPoolExecutor(1, "planner")
        self._plans: dict[int, Future[Rows]] = {}
        self._digests: dict[int, str] = {}
        self._lock = Lock()

    def rows(self, epoch: int) -> Rows:
        """Raises MixtureError when every source is used up before the epoch."""
        return self.prepare(epoch).result()

    def prepare(self, epoch: int) -> Future[Rows]:
        """Begin to make a plan, unless it is there."""
        with self._lock:
            if epoch not in self._plans:
                self._plans[epoch] = self._planner.submit(self._make, epoch)
                for old in list(self._plans)[:-KEPT]:
                    del self._plans[old]
            return self._plans[epoch]

    def _make(self, epoch: int) -> Rows:
        s = self.settings
        order = mixture.epoch_documents(self._lengths, s.specs, s.seed, epoch)
        plan = {"split": packing.plan_split, "whole": packing.plan_whole}[s.packing]
        rows = plan(self._all_lengths, s.seq_len, mixture.generator(s.seed, "rows", epoch), order=order)
        self._digests[epoch] = rows.digest()
        return rows

    def fingerprint(self, epoch: int) -> dict[str, Any]:
        """Everything the order of an epoch depends on, and the digest of the order itself: plain values."""
        if epoch not in self._digests:
            self.rows(epoch)
        return self._depends_on | {"rows": self._digests[epoch]}

    def rows_of_passes(self, passes: float) -> int:
        """Rows until the source with the largest weight, without weights every source, has been read `passes` times. Raises MixtureError."""
        whole, part = mixture.end_of_passes([int(n.sum()) for n in self._lengths], self.settings.specs, passes)
        planned = [len(self.rows(epoch)) for epoch in range(min(whole, PLANNED))]
        rows = sum(planned) * whole / max(1, len(planned))  # of more epochs than that the later ones are as long as those on average
        return math.ceil(rows + (part * len(self.rows(min(whole, PLANNED))) if part else 0))

    def digest(self, epoch: int) -> str:
        """A word for the fingerprint: rows counted in a plan of another word are other rows."""
        return hashlib.sha256(json.dumps(self.fingerprint(epoch), sort_keys=True).encode()).hexdigest()[:16]

    def require_tokens(self, tokens: int) -> None:
        """Raises MixtureError when the sources cannot fill the rows of that many tokens; whole packing leaves some of each row empty."""
        totals = [int(n.sum()) for n in self._lengths]
        there = mixture.tokens_available(totals, self.settings.specs)
        if there is not None and there < tokens:
            mixture.require_tokens(totals, self.settings.specs, math.floor(tokens * self.rows(0).fill))

    def close(self) -> None:
        self._planner.shutdown()


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two plan fingerprints; the digest of the rows speaks only when nothing else explains it."""
    found = [f"{key} was {then.get(key)}, is {now.get(key)}" for key in {**then, **now} if key != "rows" and then.get(key) != now.get(key)]
    if found:
        return [*found, "restore it, or start a new run"]
    here, there = now["rows"][:12], then["rows"][:12]
    return [f"same shards and settings, but the rows hash to {here}, not {there}", "resume with the numpy and program of the saved run"]
