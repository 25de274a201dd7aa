"""The C library's memory on a CPU: what a step gives back it takes again in the next, so it is kept, not returned to the system page by page."""

from __future__ import annotations

import ctypes

# of glibc's malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
NEVER, PAD = 2**31 - 1, 64 << 20


def keep_freed() -> bool:
    """From now on freed memory stays with the process: big buffers are no mappings of their own, and the heap's end is not cut.

    A mapping made anew is zeroed by the system a page at a time on first touch, which cost a fifth of a step's processor time.
    Returns whether the C library took it; other libraries than glibc have other ways, and are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([mallopt(M_TRIM_THRESHOLD, NEVER), mallopt(M_TOP_PAD, PAD), mallopt(M_MMAP_MAX, 0)])
