"""`torchrun --logs-specs astrollama …`: what torchrun says of ranks that failed, in a line instead of a screen.

It is torchrun's own place for plug-ins (entry point `torchrun.logs_specs`, setup.py): how logs are kept stays as it is, the exit code
too. Without it torchrun says every failed rank in six lines below a traceback of its own: 31 lines for two ranks of a node, 70 for eight.
What happened is in the fault report.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError

LONGEST = 300  # characters
Hook = Callable[[type[BaseException], BaseException, TracebackType | None], object]


class Brief(DefaultLogsSpecs):
    """Made once by torchrun, in its own process."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        sys.excepthook = _short(sys.excepthook)
        logging.getLogger("torch.distributed.elastic.multiprocessing.api").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Not that each rank left is told to end."""
    return "closing signal" not in record.msg


def _short(usual: Hook) -> Hook:
    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        said = in_a_line(error)
        if said is None:
            usual(kind, error, trace)
        else:
            print(f"torchrun: {said}", file=sys.stderr, flush=True)

    return hook


def in_a_line(error: BaseException) -> str | None:
    """What ends torchrun, where that is no fault of its own; None: show all of it."""
    if isinstance(error, ChildFailedError):
        rank, first = error.get_first_failure()
        names = {int(s): s.name for s in signal.Signals}
        how = f"killed by {names.get(-first.exitcode, -first.exitcode)}" if first.exitcode < 0 else f"exit code {first.exitcode}"
        others = f"; failed on this node: {len(error.failures)} ranks" if len(error.failures) > 1 else ""
        return f"rank {rank} failed first here ({how}){others}"
    if isinstance(error, SignalException):
        return f"ended by {error.sigval.name}"
    if isinstance(error, (RendezvousError, DistError)):
        text = " ".join(str(error).split())
        return f"{type(error).__name__}: {text if len(text) <= LONGEST else text[:LONGEST] + ' …'}"
    return None
