"""Who did not arrive, and why: pure rules over what the watchers of all ranks know.

conditions of the ranks, None for one that cannot be reached → `judge` → Finding: the guilty ranks, a kind, a cause in words.

Evidence comes before effects: a dead rank is a cause, the broken connections it leaves on all others are not.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# what torch, gloo and NCCL raise on the ranks that waited for one that is gone
_OF_A_PEER = re.compile(
    r"gloo|nccl|connection (closed|reset|refused|was)|timed out|broken pipe|socket|peer|heartbeat|store\b|collective|process group", re.I
)
SILENT_SECONDS = 10.0  # of a heartbeat that is written every two; clocks of hosts may differ by five
_NETWORK_TYPES = {"DistBackendError", "DistNetworkError", "DistStoreError", "DistError"}


@dataclass(frozen=True)
class Condition:
    """What a watcher knows of its rank."""

    rank: int
    host: str
    state: str  # running, stalled, stopped, gone, raised, interrupted, done
    step: int = 0
    phase: str = "starting"
    at: float = 0.0  # when the state was seen, seconds since 1970 on its host
    cause: str = ""  # of gone and raised, in words
    error_type: str = ""  # of raised
    users_fault: bool = False  # of raised: a message for the user, not a fault of the program
    named_ranks: tuple[int, ...] = ()  # of raised on all ranks alike: the ranks it came from
    meetings: int = 0  # words among all ranks it has come to
    waits: bool = False  # in such a word, as far as is known
    place: str = ""  # where its main thread stands, from its stack
    idle_seconds: float = 0.0  # without a sign of progress
    link_down: bool = False  # the host's own network has no carrier
    details: dict[str, Any] = field(default_factory=dict)  # documents, checkpoint
    ready: bool = False  # an alarm has been heard, and all of this is final

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Condition:
        known = {f.name for f in dataclasses.fields(cls)}
        kept = {k: v for k, v in values.items() if k in known}
        return cls(**kept | {"named_ranks": tuple(kept.get("named_ranks", ()))})


@dataclass(frozen=True)
class Finding:
    """kind: killed, exited, raised, refused, stopped, unreachable, stuck, network, interrupted."""

    ranks: tuple[int, ...]
    kind: str
    cause: str


def cut_off(own: Mapping[str, Any], theirs: Mapping[str, Any], now: float) -> bool:
    """Whether a rank out of reach is known to be the one at fault, by the heartbeats on the disk that the ranks share.

    Args:
        own, theirs: what the watchers wrote last; empty where it cannot be read. now: seconds since 1970.
    """
    if theirs.get("link_down"):
        return True
    if not own.get("time") or not theirs.get("time"):
        return False
    return now - own["time"] < SILENT_SECONDS / 2 and now - theirs["time"] > SILENT_SECONDS


def is_of_a_peer(error_type: str, message: str) -> bool:
    """Whether an error is what a rank sees of another's end."""
    return error_type in _NETWORK_TYPES or error_type == "RuntimeError" and bool(_OF_A_PEER.search(message))


def judge(conditions: Mapping[int, Condition | None], cut_off: frozenset[int] = frozenset()) -> Finding:
    """The one finding; conditions of all ranks, as they are when an alarm has settled.

    Args:
        cut_off: of ranks that cannot be reached, those that have written down themselves that their network is gone, or write no more.
    """
    known = [c for c in conditions.values() if c]
    effects = [c for c in known if c.state == "raised" and not c.users_fault and is_of_a_peer(c.error_type, c.cause)]
    causes = sorted((c for c in known if c.state in ("gone", "raised") and c not in effects), key=lambda c: (c.at, c.rank))
    if causes:
        return _first(causes, conditions)
    if stopped := [c for c in known if c.state == "stopped"]:
        return Finding(
            tuple(c.rank for c in stopped), "stopped", "stopped by a signal (SIGSTOP or a debugger) while the others waited; ended"
        )
    if lost := sorted(r for r, c in conditions.items() if c is None):
        return _cut(lost, sorted(c.rank for c in known), bool(cut_off & set(lost)), any(c.link_down for c in known))
    if interrupted := [c for c in known if c.state == "interrupted"]:
        return Finding(tuple(c.rank for c in interrupted), "interrupted", "interrupted by a second Ctrl-C")
    if effects:
        first = min(effects, key=lambda c: (c.at, c.rank))
        return Finding((first.rank,), "network", f"the connection to another rank failed, and no rank is dead or silent: {first.cause}")
    return _late([c for c in known if c.state != "done"] or known)


def _first(causes: list[Condition], conditions: Mapping[int, Condition | None]) -> Finding:
    first = causes[0]
    alike = [c for c in causes if (c.state, c.cause) == (first.state, first.cause)]
    if first.state == "gone":
        same_host = [c for c in alike if c.host == first.host and abs(c.at - first.at) < 1]
        kind = "exited" if "exit code" in first.cause else "killed"
        return Finding(tuple(c.rank for c in same_host), kind, first.cause)
    kind = "refused" if first.users_fault and first.step == 0 else "raised"
    if first.named_ranks:
        return Finding(tuple(r for r in first.named_ranks if r in conditions) or (first.rank,), kind, first.cause)
    if first.users_fault and len(alike) > 1:  # agreed on by all: the ranks whose loss it was, else one voice, the lowest
        began = tuple(sorted(c.rank for c in alike if c.details.get("not_finite")))
        return Finding(began or (min(c.rank for c in alike),), kind, first.cause)
    return Finding((first.rank,), kind, first.cause)


def _cut(lost: list[int], reached: list[int], theirs_down: bool, ours_down: bool) -> Finding:
    """Of a run that has fallen into two, the part whose own network is down, or that is silent on the disk they share, is the lost one;
    else the smaller one, of equal ones that without rank 0. Both parts judge alike."""
    theirs = theirs_down or not ours_down and (len(lost) < len(reached) or len(lost) == len(reached) and 0 not in lost)
    if theirs:
        return Finding(tuple(lost), "unreachable", "cannot be reached over the network: the host is down, or its link is cut")
    down = "its own link is down" if ours_down else "its link is cut, or they are down"
    cause = f"this host lost {ranks_in_words(lost)}, which cannot be reached over the network: {down}"
    return Finding(tuple(reached), "unreachable", cause)


def _late(waiting: list[Condition]) -> Finding:
    """No rank is dead, stopped or silent, and none goes on."""
    seconds = f"{min(c.idle_seconds for c in waiting):.0f} s without a sign of progress"
    fewest = min(c.meetings for c in waiting)
    behind = [c for c in waiting if c.meetings == fewest]
    if len(behind) == len(waiting):
        behind = [c for c in waiting if not c.waits]
        if len(behind) == len(waiting) > 1:  # what differs from the most is what is late
            places = [c.place for c in waiting]
            behind = [c for c in waiting if places.count(c.place) * 2 < len(waiting)]
    if not behind:
        where = waiting[0].place or "a collective"
        return Finding(
            (waiting[0].rank,), "stuck", f"all ranks wait in {where}, none is late: the network among them, or a deadlock ({seconds})"
        )
    return Finding(tuple(c.rank for c in behind), "stuck", f"stuck in {behind[0].place or 'code that says nothing'}, {seconds}")


def ranks_in_words(ranks: list[int] | tuple[int, ...]) -> str:
    """`rank 3`, `ranks 0-2, 5`."""
    runs: list[list[int]] = []
    for r in sorted(ranks):
        if runs and runs[-1][1] == r - 1:
            runs[-1][1] = r
        else:
            runs.append([r, r])
    return f"rank{'s' if len(ranks) > 1 else ''} " + ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)


def limit_seconds(hang: float, timeout: float, longest: float | None, quiet: float, at_disk: bool = False) -> float:
    """How long a rank may go without a sign of progress.

    Args:
        hang: guard.hang_seconds. timeout: guard.timeout_seconds.
        longest: the longest it has gone so in this phase and gone on; None: it is in this phase for the first time.
        quiet: seconds in which it has not computed either, and not waited for a disk.
        at_disk: whether it waits for a disk, or reads or writes; a file system that changes servers takes minutes.
    """
    if not hang:
        return timeout
    if at_disk:
        return max(timeout, 3 * (longest or 0.0))
    if longest is None:  # loading, compiling and the first of everything take what they take, as long as something is done
        return hang if quiet >= hang else timeout
    return max(hang, 3 * longest)
