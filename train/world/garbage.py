"""Python's garbage collector, at fixed steps on all ranks alike: by itself it comes to each rank at another time, and all wait for each."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

EVERY_STEPS = 50


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
