"""What one paper may cost, and the error that says why it was refused."""

import time

MAX_FILE_BYTES = 4 << 20
MAX_PAPER_CHARS = 4 << 20
MAX_INPUTS = 400
MAX_INPUT_DEPTH = 16
MAX_BRACE_DEPTH = 2_000
MAX_FORMULAS = 100_000
MAX_MACRO_DEPTH = 200
MAX_SECTIONS = 2_000
MAX_MACRO_CALLS = 300_000
SECONDS_PER_PAPER = 5.0


class PaperError(ValueError):
    """A paper that cannot be read: `reason` is a short phrase to count by, `detail` says where and what."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Deadline:
    """A cooperative limit in seconds of processor time, so that a busy machine drops no paper: loops call `check`, which raises PaperError."""

    def __init__(self, seconds: float = SECONDS_PER_PAPER) -> None:
        # a margin, because one linear regex over a capped paper runs between two checks
        self._seconds = seconds
        self._end = time.thread_time() + seconds * 0.8
        self._spent = 0.0

    def check(self, every: int = 1) -> None:
        """Look at the clock about each `every`-th call."""
        self._spent += 1 / every
        if self._spent < 1:
            return
        # counted in shares, not calls: loops that take turns with different `every` must not step over each other's turn
        self._spent = 0.0
        if time.thread_time() > self._end:
            raise PaperError("too slow", f"not read in {self._seconds:g} s of processor time; it is nested or repeated beyond reason")
