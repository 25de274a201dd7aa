"""Python's garbage collector, at fixed steps on all ranks alike: by itself it comes to each rank at another time, and all wait for each.

And the C library's memory: what a step on a CPU gives back it takes again in the next.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterator

EVERY_STEPS = 50
# of glibc's malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
NEVER, PAD = 2**31 - 1, 64 << 20


@contextlib.contextmanager
def collected_by_hand() -> Iterator[None]:
    """Within: nothing is collected but by `collect`; what a start has made is never looked at."""
    by_itself = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if by_itself:
            gc.enable()


def collect(step: int) -> None:
    """Called after every step, on every rank."""
    if step % EVERY_STEPS == 0:
        gc.collect()


def keep_freed() -> bool:
    """From now on freed memory stays with the process: big buffers are no mappings of their own, and the heap's end is not cut.

    A mapping made anew is zeroed by the system a page at a time on first touch, which cost a fifth of a step's processor time.
    Returns whether the C library took it; other libraries than glibc have other ways, and are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([mallopt(M_TRIM_THRESHOLD, NEVER), mallopt(M_TOP_PAD, PAD), mallopt(M_MMAP_MAX, 0)])
