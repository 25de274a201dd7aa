"""How fast the ranks talk, by the collectives a step is made of; and each pair of nodes in turn, to find the slow one.

Bus bandwidth is NCCL-tests' measure: bytes x (n - 1) / n / seconds, of an all-gather or reduce-scatter of `bytes` in all over n ranks, so
that it can be compared with what a link carries, whatever the number of ranks.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import statistics
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torch.distributed as dist

from train.preflight.doctor.meeting import Meeting, door_at
from train.world.environment import own_address

PROBE_BYTES, MOST_BYTES = 1 << 18, 1 << 28
SECONDS, SENDS = 0.5, 3  # of one measurement; sends that share it
TIMEOUT = {
    "gloo": datetime.timedelta(seconds=30),
    "nccl": datetime.timedelta(seconds=90),
}  # of one operation; NCCL sets up its rings in the first
KNOCK_SECONDS = 4


def examine(meeting: Meeting, layer_bytes: int, leaders: list[int]) -> dict[str, Any]:
    """What this rank measured; `error` where the ranks could not talk, `unreached` where this node does not reach others.

    All ranks give the same arguments: operations of different sizes wait for each other.

    Args:
        layer_bytes: of a decoder layer, the unit ZeRO-3 gathers; leaders: first rank of each node.
    Returns:
        latency: seconds of an all-reduce of one number; all_gather, reduce_scatter: bytes and bytes/s (bus bandwidth); pairs: per
        other leader the bytes/s this rank sent to it, and the seconds of a round trip.
    """
    world, found = meeting.world, {"pairs": {}, "error": None, "unreached": []}
    found["unreached"] = reach(meeting, leaders)
    knocked = meeting.gather("knocked", found["unreached"])
    if meeting.broadcast("unreached", any(knocked) or None in knocked, meeting.wait + KNOCK_SECONDS):
        return found  # a process group over such a network only waits
    warnings.filterwarnings("ignore", message=".*torch.distributed.* is deprecated", category=FutureWarning)
    try:
        backend = "nccl" if world.device.type == "cuda" else "gloo"
        dist.init_process_group(
            backend, store=dist.PrefixStore("ranks", meeting.store), rank=world.rank, world_size=world.size, timeout=TIMEOUT[backend]
        )
        return found | collectives(world.device, world.size, layer_bytes) | {"pairs": _pairs(world.device, world.rank, leaders)}
    except RuntimeError as error:  # torch's of every backend
        with contextlib.suppress(RuntimeError, AssertionError):
            dist.destroy_process_group()  # the others' operations end now, not by their timeout
        return found | {"error": str(error).splitlines()[0][:160]}


def reach(meeting: Meeting, leaders: list[int]) -> list[int]:
    """Leaders whose node does not take a TCP connection from this one, on the address ranks use; empty on ranks that lead no node."""
    rank = meeting.world.rank
    leads = rank in leaders
    address = own_address(os.environ)
    with door_at(address) if leads else contextlib.nullcontext() as door:
        doors = meeting.gather("doors", [address, door.getsockname()[1] if door else 0])
        doors = meeting.broadcast("all doors", doors, meeting.wait)
        others = [r for r in leaders if r != rank and doors[r]] if leads else []
        with ThreadPoolExecutor(min(32, len(others) or 1)) as pool:
            opened = list(pool.map(lambda r: _opens(*doors[r]), others))
        meeting.gather("through", True, meeting.wait + KNOCK_SECONDS)
        meeting.broadcast("all through", True, meeting.wait + KNOCK_SECONDS)  # nobody shuts a door others still come to
    return [r for r, came in zip(others, opened, strict=True) if not came]


def _opens(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), KNOCK_SECONDS).close()
    except OSError:
        return False
    return True


def collectives(device: torch.device, ranks: int, layer_bytes: int) -> dict[str, Any]:
    one = torch.zeros(1, device=device)
    latency = statistics.median(_seconds(lambda: dist.all_reduce(one), device) for _ in range(21))

    def rate(operation: Callable[[torch.Tensor, torch.Tensor], Any], nbytes: int) -> tuple[int, float]:
        part = max(1, nbytes // ranks // 4)
        whole, own = torch.zeros(part * ranks, device=device), torch.zeros(part, device=device)
        operation(whole, own)
        seconds = statistics.median(_seconds(lambda: operation(whole, own), device) for _ in range(5))
        return 4 * part * ranks, 4 * part * (ranks - 1) / seconds

    found: dict[str, Any] = {"latency": latency}
    for name, operation in (
        ("all_gather", lambda whole, own: dist.all_gather_into_tensor(whole, own)),
        ("reduce_scatter", lambda whole, own: dist.reduce_scatter_tensor(own, whole)),
    ):
        _, probed = rate(operation, PROBE_BYTES)
        affordable = torch.tensor([probed * SECONDS / 6])
        affordable = affordable.to(device)
        dist.all_reduce(affordable, op=dist.ReduceOp.MIN)  # all ranks measure the same size
        nbytes = int(min(max(affordable.item(), PROBE_BYTES), layer_bytes, MOST_BYTES))
        found[name] = rate(operation, nbytes)
    return found


def _pairs(device: torch.device, rank: int, leaders: list[int]) -> dict[int, tuple[float, float]]:
    """Other leader → (bytes/s sent to it, seconds of a round trip): in each round every leader meets one other, all pairs in the end."""
    found = {}
    for pairs in tournament(leaders):
        for a, b in pairs:
            if rank in (a, b):
                other = b if rank == a else a
                trip = _round_trip(device, other, first=rank == a)
                for sender in (a, b):
                    sent = _send(device, other) if rank == sender else _receive(device, other)
                    if rank == sender:
                        found[other] = (sent, trip)
        dist.barrier(device_ids=[device.index] if device.type == "cuda" else None)  # the next round's pairs start together, on quiet links
    return found


def tournament(players: list[int]) -> list[list[tuple[int, int]]]:
    """Rounds in which each meets at most one other, each pair once (the circle method)."""
    ring: list[int | None] = [*players, None] if len(players) % 2 else [*players]
    rounds = []
    for _ in range(len(ring) - 1):
        met = [(ring[i], ring[-1 - i]) for i in range(len(ring) // 2)]
        rounds.append([(a, b) for a, b in met if a is not None and b is not None])
        ring = [ring[0], ring[-1], *ring[1:-1]]
    return rounds


def _round_trip(device: torch.device, other: int, first: bool) -> float:
    ball, times = torch.zeros(1, device=device), []
    for _ in range(11):
        begun = time.perf_counter()
        if first:
            dist.send(ball, other)
            dist.recv(ball, other)
        else:
            dist.recv(ball, other)
            dist.send(ball, other)
        _settle(device)
        times.append(time.perf_counter() - begun)
    return min(times[1:])  # what the link can do: a busy processor only adds


def _send(device: torch.device, other: int) -> float:
    """Bytes/s, the best of SENDS: a probe says how many bytes the time affords; the receiver acknowledges each."""
    ack = torch.zeros(1, device=device)
    nbytes, best = PROBE_BYTES, 0.0
    for _ in range(1 + SENDS):
        load = torch.zeros(nbytes // 4, device=device)
        dist.send(torch.tensor([load.numel()], device=device), other)
        dist.recv(ack, other)  # both are ready
        begun = time.perf_counter()
        dist.send(load, other)
        dist.recv(ack, other)
        _settle(device)
        best = max(best, nbytes / (time.perf_counter() - begun))
        nbytes = int(min(max(best * SECONDS / 2 / SENDS, PROBE_BYTES), MOST_BYTES))
    return best


def _receive(device: torch.device, other: int) -> None:
    ack = torch.zeros(1, device=device)
    for _ in range(1 + SENDS):
        size = torch.zeros(1, dtype=torch.int64, device=device)
        dist.recv(size, other)
        load = torch.empty(int(size.item()), device=device)
        dist.send(ack, other)
        dist.recv(load, other)
        dist.send(ack, other)


def _seconds(operation: Callable[[], Any], device: torch.device) -> float:
    _settle(device)
    begun = time.perf_counter()
    operation()
    _settle(device)
    return time.perf_counter() - begun


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
