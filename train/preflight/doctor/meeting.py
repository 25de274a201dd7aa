"""The ranks meet at rank 0's store before anything is asked of the network between the others.

All that is found out travels over this store, one connection a rank: so a rank that does not come, or two nodes that do not
reach each other, are named instead of waited for. Under torchrun the store is its agent's.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import time
from typing import Any

import torch.distributed as dist

from train.world.launchers import WorldError
from train.world.ranks import World


class Meeting:
    """A store all ranks reach; every method is called by every rank with the same key."""

    def __init__(self, world: World, wait_seconds: float) -> None:
        """Raises WorldError: this rank does not reach rank 0."""
        self.world, self.wait = world, wait_seconds
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        try:
            store = dist.TCPStore(
                host, 0 if world.size == 1 and not hosted else port, None, world.rank == 0 and not hosted,
                datetime.timedelta(seconds=wait_seconds), wait_for_workers=False,
            )  # fmt: skip
        except (dist.DistError, RuntimeError) as error:
            raise WorldError(
                f"rank {world.rank}: {host}:{port} is not reached within {wait_seconds:g} s ({str(error).splitlines()[0][:120]}); check the name, "
                "the firewall, and that rank 0 runs there; where another run has the port, give another (deepspeed --master_port PORT)"
            ) from None
        self.store = dist.PrefixStore(f"doctor {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)

    def gather(self, key: str, value: Any, seconds: float | None = None) -> list[Any]:
        """Each rank's JSON value on rank 0 in rank order, None for one that did not come in time; an empty list on the others."""
        world, deadline = self.world, time.monotonic() + (self.wait if seconds is None else seconds)
        self.store.set(f"{key}/{world.rank}", json.dumps(value))
        if world.rank != 0:
            return []
        values: list[Any] = [None] * world.size
        left = set(range(world.size))
        while left:
            for rank in sorted(left):
                if self.store.check([f"{key}/{rank}"]):
                    values[rank] = json.loads(self.store.get(f"{key}/{rank}"))
                    left.discard(rank)
            if not left or time.monotonic() > deadline:
                break
            time.sleep(0.02)
        return values

    def broadcast(self, key: str, value: Any, seconds: float) -> Any:
        """Rank 0's JSON value on every rank. Raises WorldError where rank 0 has gone."""
        if self.world.rank == 0:
            self.store.set(key, json.dumps(value))
            return value
        try:
            self.store.wait([key], datetime.timedelta(seconds=seconds))
            return json.loads(self.store.get(key))
        except (dist.DistError, RuntimeError):
            raise WorldError(f"rank {self.world.rank}: rank 0 has not answered within {seconds:g} s; see what it said") from None

    def part(self) -> None:
        """Rank 0 hosts the store and leaves last."""
        with contextlib.suppress(dist.DistError, RuntimeError):
            self.gather("gone", True, seconds=5)
