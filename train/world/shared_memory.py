"""DeepSpeed's buffers in shared memory, through which the ranks of one CPU node reduce: taken out of the folder once all have them open.

DeepSpeed 0.19 makes one of 66 MiB a rank and never removes it (csrc/cpu/comm/shm.cpp): every start, whatever ended it, would keep that
much of the machine's memory until it is started anew. An open buffer works on without its name, and ends with its last process.
"""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path("/dev/shm")


def buffer_of(rank: int, address: str, port: str) -> Path:
    """The file of a rank that met the others at that address."""
    return FOLDER / f"deepspeed_allreduce_buffer_{os.getuid()}_{address}_{port}_{rank}"


def unname(buffer: Path) -> None:
    """Remove the name; for use when every rank has opened it, after their first collective."""
    buffer.unlink(missing_ok=True)
