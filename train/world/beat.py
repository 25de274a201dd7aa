"""What a rank is doing, in memory that it shares with the process that watches it (train/guard/watch/watcher.py).

beat.at_step(7); beat.phase("forward"); beat.mark() …     the rank: a few bytes written, no system call, no word to other ranks
said(block)                                               its watcher, which still reads them when the rank is dead or stuck

    0  marks, meetings, step                u64 each; marks move with every sign of progress, meetings with every word among the ranks
   24  flags                                u8: 1 while the rank is in a collective of ours, 2 in a phase it has been in before
   25  phase                                31 bytes, filled up with zeros
   56  exit code                            u32: 1 more than the one the rank leaves with; 0 until it does
   60  meant                                u8: 1 when that end is the run's own, and no fault of the rank
   64  length, JSON                         u32 and text: documents of this rank's batch, newest checkpoint
"""

from __future__ import annotations

import contextlib
import json
import mmap
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

SIZE = 16384
_HEAD = struct.Struct("<QQQB31s")
_CODE, _CODE_AT = struct.Struct("<I"), 56
_MEANT_AT = 60
_TEXT_AT = 64
_LENGTH = struct.Struct("<I")
DOCUMENTS_TOLD = 64
COMPUTING = ("forward", "backward", "optimizer")
BESIDES = ("data", "agreement", "logging")  # what else a step consists of: waiting for its batch, the ranks' word, what is told of it


@dataclass(frozen=True)
class Said:
    """A rank's last words, as its watcher reads them."""

    marks: int = 0
    meetings: int = 0
    step: int = 0
    meeting: bool = False
    phase: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    code: int | None = None  # the exit code it left with, as far as it told
    again: bool = False  # it has been in this phase before, and has left it
    meant: bool = False  # it ends because the run does


class Beat:
    """The signs of life of one rank; without a block to write them to they cost nothing and go nowhere."""

    def __init__(self) -> None:
        self._block: mmap.mmap | None = None
        self.listener: Callable[[BaseException], None] | None = None  # hears of what ends the run before anything is closed
        self._marks = self._meetings = self._step = 0
        self._phase, self._entered = "starting", time.perf_counter()
        self._again = False
        self.spent: dict[str, float] = {}  # seconds of this process in each phase; a device may still be at work
        self._details: dict[str, Any] = {}

    @property
    def now(self) -> str:
        """The phase this rank is in."""
        return self._phase

    @property
    def step(self) -> int:
        """The step it is at; 0 before the first."""
        return self._step

    def tell(self, block: mmap.mmap | None) -> None:
        """Write to this block from now on; None: to none."""
        self._block = block
        self._write_details()
        self._write()

    def phase(self, name: str) -> None:
        """What the rank does from now on: loading, data, forward, backward, optimizer, evaluation, saving."""
        now = time.perf_counter()
        self._again = self._again if name == self._phase else name in self.spent
        self.spent[self._phase] = self.spent.get(self._phase, 0.0) + now - self._entered
        self._phase, self._entered = name, now
        self.mark()

    def of_steps(self) -> str:
        """Where the time of all steps went: `forward 48.21%, backward 49.90%, optimizer 1.83%, all else 0.06% (waiting for data 0.01%)`."""
        total = sum(self.spent.get(name, 0.0) for name in (*COMPUTING, *BESIDES))
        if not total:
            return ""
        share = {name: f"{self.spent.get(name, 0.0) / total:.2%}" for name in (*COMPUTING, "data")}
        besides = sum(self.spent.get(name, 0.0) for name in BESIDES) / total
        return f"{', '.join(f'{name} {share[name]}' for name in COMPUTING)}, all else {besides:.2%} (waiting for data {share['data']})"

    def mark(self) -> None:
        """A sign of progress within a phase."""
        self._marks += 1
        self._write()

    def at_step(self, step: int) -> None:
        """A step begins; the documents of the one before are no longer the rank's."""
        self._step = step
        for name in ("documents", "not_finite"):
            self._details.pop(name, None)
        self.phase("data")

    def documents(self, names: list[str], count: int) -> None:
        """What this rank's batch is made of: the first names, and how many there are."""
        self._details |= {"documents": names[:DOCUMENTS_TOLD], "document_count": count}
        self._write_details()

    def not_finite(self) -> None:
        """This rank's own part of the step's loss is NaN or infinite."""
        self._details |= {"not_finite": True}
        self._write_details()

    def checkpoint(self, path: str) -> None:
        """The newest complete checkpoint; may be told from the thread that saves."""
        self._details |= {"checkpoint": path}
        self._write_details()

    def means_to_end(self) -> None:
        """What follows is the run's own end, whatever its exit code, and nobody's fault."""
        if self._block is not None:
            self._block[_MEANT_AT] = 1

    def leaves(self, code: int) -> None:
        """This process ends now, by itself: where its launcher takes the exit status first, nothing else tells so."""
        if self._block is not None:
            _CODE.pack_into(self._block, _CODE_AT, (code & 0xFF) + 1)

    @contextlib.contextmanager
    def meeting(self) -> Iterator[None]:
        """Around a word that all ranks must say: who has said fewer than the others has not arrived."""
        self._meetings += 1
        self._marks += 1
        self._write(1)
        yield
        self._marks += 1
        self._write()

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """Around what may fail, within all that its end will close."""
        try:
            yield
        except BaseException as error:
            if self.listener:
                self.listener(error)
            raise

    def _write(self, meeting: int = 0) -> None:
        if self._block is not None:
            flags = meeting | 2 * self._again
            _HEAD.pack_into(self._block, 0, self._marks, self._meetings, self._step, flags, self._phase.encode()[:31])

    def _write_details(self) -> None:
        if self._block is None:
            return
        text = json.dumps(self._details).encode()
        if len(text) > SIZE - _TEXT_AT - _LENGTH.size:  # very long names
            text = json.dumps({k: v for k, v in self._details.items() if k != "documents"}).encode()
        _LENGTH.pack_into(self._block, _TEXT_AT, 0)  # who reads in between finds none, not half of them
        self._block[_TEXT_AT + _LENGTH.size : _TEXT_AT + _LENGTH.size + len(text)] = text
        _LENGTH.pack_into(self._block, _TEXT_AT, len(text))


def said(block: mmap.mmap) -> Said:
    """What stands in a block."""
    marks, meetings, step, flags, phase = _HEAD.unpack_from(block, 0)
    [length] = _LENGTH.unpack_from(block, _TEXT_AT)
    begin = _TEXT_AT + _LENGTH.size
    try:
        details = json.loads(block[begin : begin + min(length, SIZE - begin)]) if length else {}
    except ValueError:  # read while it was written
        details = {}
    [code] = _CODE.unpack_from(block, _CODE_AT)
    told = phase.rstrip(b"\0").decode(errors="replace")
    return Said(marks, meetings, step, bool(flags & 1), told, details, code - 1 if code else None, bool(flags & 2), bool(block[_MEANT_AT]))
