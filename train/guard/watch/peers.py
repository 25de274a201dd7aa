"""The watchers of all ranks, asking and telling each other over TCP: a question, an answer, a connection closed.

A rank's watcher listens at an address that its rank has given to all others when they met. Nothing is sent while a run is well;
who is stuck asks, who has found something tells all at once. Neither rank 0 nor a shared folder is needed for it. A word that
does not carry the run's own secret is not answered.
"""

from __future__ import annotations

import hmac
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from train.world.environment import address_of_interface

ANSWER_SECONDS = 3.0  # a host that does not answer within these is not reached
LONGEST = 1 << 20  # bytes of a word: documents of a batch have long names
Address = tuple[str, int]


class Unreachable(OSError):
    """A watcher that does not answer."""


def listen(address: str) -> socket.socket:
    """A socket on a free port of this address of ours; of all addresses, where it is none."""
    for host in (address, ""):
        try:
            return socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=256)
        except OSError:
            continue
    raise OSError(f"no port of {address} or of any other address can be listened on")


def link_is_down(address: str) -> bool:
    """Whether the interface that has this address of ours is without a carrier: the cable, not the other end."""
    for _, name in socket.if_nameindex():
        if address_of_interface(name) == address:
            try:
                import fcntl

                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                    [flags] = struct.unpack("16xH", fcntl.ioctl(s, 0x8913, struct.pack("256s", name.encode()[:15]))[:18])  # SIOCGIFFLAGS
                return not flags & 0x40  # IFF_RUNNING
            except OSError:
                return False
    return False


class Peers:
    """The other watchers of a run."""

    def __init__(self, rank: int, addresses: list[Address], secret: str) -> None:
        self.rank, self.addresses, self._secret = rank, addresses, secret
        self._pool = ThreadPoolExecutor(min(64, max(1, len(addresses) - 1)), "asking")

    @property
    def others(self) -> list[int]:
        return [r for r in range(len(self.addresses)) if r != self.rank]

    def ask(self, ranks: Iterable[int]) -> dict[int, dict[str, Any] | None]:
        """The answers of these ranks' watchers; None of those that gave none."""
        return self.say(ranks, {"ask": True})

    def say(self, ranks: Iterable[int], word: dict[str, Any]) -> dict[int, dict[str, Any] | None]:
        """Tell these ranks' watchers something; their answers."""
        ranks = list(ranks)
        return dict(zip(ranks, self._pool.map(lambda r: self._one(self.addresses[r], word), ranks), strict=True))

    def _one(self, address: Address, word: dict[str, Any]) -> dict[str, Any] | None:
        try:
            with socket.create_connection(address, ANSWER_SECONDS) as s:
                s.settimeout(ANSWER_SECONDS)
                s.sendall(json.dumps(word | {"secret": self._secret, "from": self.rank}).encode() + b"\n")
                return _read(s)
        except (OSError, ValueError):
            return None

    def serve(self, listener: socket.socket, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Answer for ever, in threads of their own."""

        def one(s: socket.socket) -> None:
            try:
                with s:
                    s.settimeout(ANSWER_SECONDS)
                    word = _read(s)
                    if hmac.compare_digest(str(word.pop("secret", "")).encode(), self._secret.encode()):
                        s.sendall(json.dumps(answer(word)).encode() + b"\n")
            except (OSError, ValueError):
                return  # a stranger, or a peer that went away

        def accept() -> None:
            listener.settimeout(None)
            while True:
                try:
                    s, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=one, args=(s,), daemon=True).start()

        threading.Thread(target=accept, name="listening", daemon=True).start()


def _read(s: socket.socket) -> dict[str, Any]:
    """One line of JSON. Raises ValueError for anything else."""
    got = b""
    while not got.endswith(b"\n"):
        part = s.recv(65536)
        if not part or len(got) > LONGEST:
            raise ValueError("no whole line")
        got += part
    value = json.loads(got)
    if not isinstance(value, dict):
        raise ValueError("no object")
    return value
