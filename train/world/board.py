"""A few words among ranks that no collective carries: kept by the server at which they met, so that threads may say and read them.

board.tell("stop", {…})   board.told("stop") → {…} or None   board.meet("leaving") → how many have come so far
"""

from __future__ import annotations

import datetime
import json
import os
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch.distributed as dist

SECONDS = 10


class Board:
    """One connection of its own. Whatever cannot be said or read, since the server's process has ended, is left."""

    def __init__(self, store: dist.TCPStore | None, prefix: str):
        self._store, self._prefix = store, prefix

    @classmethod
    def open(cls) -> Board:
        """After the ranks have met."""
        import torch.distributed as dist

        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun's server outlives its ranks
        try:
            seconds = datetime.timedelta(seconds=SECONDS)
            address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            return cls(dist.TCPStore(address, port, None, False, seconds, wait_for_workers=False), f"astrollama/{attempt}/")
        except RuntimeError:  # torch's DistError is one
            return cls(None, "")

    def tell(self, key: str, value: Any) -> None:
        if self._store:
            try:
                self._store.set(self._prefix + key, json.dumps(value))
            except RuntimeError:
                self._store = None

    def told(self, key: str) -> Any:
        if not self._store:
            return None
        try:
            there = self._store.check([self._prefix + key])
            return json.loads(self._store.get(self._prefix + key)) if there else None
        except RuntimeError:
            self._store = None
            return None

    def meet(self, key: str, come: bool) -> int | None:
        """How many have come, this rank now among them if `come`; None when nobody keeps count any more."""
        if not self._store:
            return None
        try:
            return int(self._store.add(self._prefix + key, int(come)))
        except RuntimeError:
            self._store = None
            return None


class Arrivals:
    """Who has come to where the ranks meet, told by each before it waits for the others: who has not can then be named."""

    def __init__(self, rank: int, size: int, seconds: float):
        """Raises DistNetworkError: nothing listens there within the seconds, or, of rank 0, another has the port."""
        import torch.distributed as dist

        self._size = size
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        keeps = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        self._keys = [f"astrollama/{attempt}/arrived/{r}" for r in range(size)]
        address, port, wait = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), datetime.timedelta(seconds=seconds)
        self._store = dist.TCPStore(address, port, None, keeps, wait, wait_for_workers=False, multi_tenant=True)
        self._store.set(self._keys[rank], socket.gethostname())

    def missing(self) -> list[int] | None:
        """Ranks that have not come; None when nobody keeps count any more."""
        try:
            return [r for r in range(self._size) if not self._store.check([self._keys[r]])]
        except RuntimeError:
            return None
