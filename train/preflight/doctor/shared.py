"""Whether a folder that all nodes are told to share is one folder, and whether their clocks agree."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from pathlib import Path

from train.preflight.doctor.meeting import Meeting

SEEN_SECONDS = 5  # NFS shows another node's new file after its attribute cache has aged


def examine(meeting: Meeting, folder: Path, leader: bool) -> dict[str, object]:
    """What this rank sees: every node's first rank writes a file, each looks for all.

    Args:
        leader: whether this rank writes and looks.
    Returns:
        wrong: why the folder cannot be written; unseen: ranks whose file is not there; clock: seconds since the epoch by this node's
        clock; file_clock: by the file system's.
    """
    mark = meeting.broadcast("mark", f".doctor-{uuid.uuid4().hex[:12]}", meeting.wait)
    answer: dict[str, object] = {"wrong": None, "unseen": [], "clock": 0.0, "file_clock": None}
    rank = meeting.world.rank
    own = folder / f"{mark}.{rank}"
    if leader:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            before = time.time()
            own.write_text(mark)
            answer["file_clock"] = own.stat().st_mtime - before
        except OSError as error:
            answer["wrong"] = f"{folder} cannot be written: {error.strerror}"
    written = meeting.gather("written", [leader, answer["wrong"] is None])
    ranks = meeting.broadcast("writers", [r for r, w in enumerate(written) if w and all(w)], meeting.wait)
    answer["clock"] = time.time()
    if leader and answer["wrong"] is None:
        deadline = time.monotonic() + SEEN_SECONDS
        while unseen := [r for r in ranks if not _is(folder / f"{mark}.{r}", mark)]:
            if time.monotonic() > deadline:
                break
            with contextlib.suppress(OSError):
                os.listdir(folder)  # asks the server anew
            time.sleep(0.1)
        answer["unseen"] = unseen
    meeting.gather("looked", True, SEEN_SECONDS + meeting.wait)
    meeting.broadcast("all looked", True, SEEN_SECONDS + meeting.wait)
    if leader:
        with contextlib.suppress(OSError):  # never written, or said already
            own.unlink()
    return answer


def _is(path: Path, content: str) -> bool:
    try:
        return path.read_text() == content
    except OSError:
        return False
