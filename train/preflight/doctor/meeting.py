"""The ranks meet at rank 0's store before anything is asked of the network between the others.

All that is found out travels over this store, one connection a rank: so a rank that does not come, or two nodes that do not
reach each other, are named instead of waited for. Under torchrun the store is its agent's.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
import time
import traceback
from pathlib import Path
from typing import Any

import torch.distributed as dist

from train.world.environment import own_address
from train.world.launchers import WorldError
from train.world.ranks import World

KNOCK_SECONDS = 2  # between looks whether a rank that is waited for still lives
LAST = "go"  # the one thing rank 0 says after it has failed
ROOT = Path(__file__).resolve().parents[3]


def door_at(address: str) -> socket.socket:
    """A socket that listens there, IPv4 or IPv6, at a port of the system's choice."""
    return socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET, backlog=1024)


def said(error: BaseException) -> str:
    """An exception in one line: what it says, its kind, and where in this program it came up."""
    ours = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(ROOT) and ".venv" not in f.filename]
    where = f", {Path(ours[-1].filename).relative_to(ROOT)}:{ours[-1].lineno}" if ours else ""
    first = (str(error).splitlines() or [""])[0][:200]
    return f"{first} ({type(error).__name__}{where})" if first else f"{type(error).__name__}{where}"


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
        self.lost: dict[int, str] = {}  # on rank 0: ranks nobody waits for any more → why
        # never answered: the kernel takes calls for as long as this process lives, and refuses them afterwards
        self._door = None
        with contextlib.suppress(OSError):
            self._door = door_at(address := own_address(os.environ))
            self.store.set(f"door/{world.rank}", json.dumps([address, self._door.getsockname()[1]]))

    def fail(self, why: str) -> None:
        """Tell rank 0 that this rank takes no further part; what it waits for from this rank it gets at once, as None."""
        with contextlib.suppress(dist.DistError, RuntimeError):  # rank 0 has gone itself
            self.store.set(f"failed/{self.world.rank}", json.dumps(why))

    def gather(self, key: str, value: Any, seconds: float | None = None) -> list[Any]:
        """Each rank's JSON value on rank 0 in rank order, None for one that did not come in time; an empty list on the others."""
        world, deadline = self.world, time.monotonic() + (self.wait if seconds is None else seconds)
        self.store.set(f"{key}/{world.rank}", json.dumps(value))
        if world.rank != 0:
            return []
        values: list[Any] = [None] * world.size
        left, knock = set(range(world.size)) - self.lost.keys(), time.monotonic() + KNOCK_SECONDS
        while left:
            for rank in sorted(left):
                if self.store.check([f"{key}/{rank}"]):
                    values[rank] = json.loads(self.store.get(f"{key}/{rank}"))
                    left.discard(rank)
                elif self.store.check([f"failed/{rank}"]):
                    self.lost[rank] = json.loads(self.store.get(f"failed/{rank}"))
                    left.discard(rank)
            if not left or time.monotonic() > deadline:
                break
            if time.monotonic() > knock:
                left -= self._dead(left)
                knock = time.monotonic() + KNOCK_SECONDS
            time.sleep(0.02)
        for rank in left:
            self.lost[rank] = "came and then said nothing more: see what its launcher says there"
        return values

    def _dead(self, ranks: set[int]) -> set[int]:
        """Those whose process has ended without a word: their host refuses a call at their door."""
        dead = set()
        for rank in sorted(ranks)[:8]:  # a call that nobody answers takes its time; the next look has others
            if not self.store.check([f"door/{rank}"]):
                continue
            try:
                socket.create_connection(json.loads(self.store.get(f"door/{rank}")), 0.5).close()
            except ConnectionRefusedError:
                if not self.store.check([f"failed/{rank}"]):
                    self.lost[rank] = "its process ended without a word (killed?): see what its launcher says there, and dmesg for memory"
                    dead.add(rank)
            except OSError:
                pass  # a firewall, or a cut link: waited for
        return dead

    def broadcast(self, key: str, value: Any, seconds: float) -> Any:
        """Rank 0's JSON value on every rank. Raises WorldError where rank 0 has gone."""
        if self.world.rank == 0:
            self.store.set(key, json.dumps(value))
            return value
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                self.store.wait([key], datetime.timedelta(seconds=min(KNOCK_SECONDS, left)))
                return json.loads(self.store.get(key))
            except (dist.DistError, RuntimeError):  # not yet, or never
                try:
                    if key != LAST and self.store.check(["failed/0"]):
                        break
                except (dist.DistError, RuntimeError):
                    break
        raise WorldError(f"rank {self.world.rank}: rank 0 does not answer (waited up to {seconds:g} s); see what it said") from None

    def part(self) -> None:
        """Rank 0 hosts the store and leaves last."""
        with contextlib.suppress(dist.DistError, RuntimeError):
            self.gather("gone", True, seconds=5)
        if self._door:
            self._door.close()
