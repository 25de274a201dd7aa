"""The examination, top to bottom: the ranks meet, each says what it found, rank 0 compares and all end alike.

1. meeting: who came, and whether the program can be imported there; 2. facts: software, inputs, hardware, a matrix product; 3. the
shared folder and the clocks; 4. the network; 5. the memory plan. A part that cannot be done is a finding of its own: whatever a rank raises
goes to rank 0, which names its node, and nobody waits for that rank any longer. So nothing is imported at the top that a node may lack.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

import torch

from train.preflight.doctor import network, rules, shared
from train.preflight.doctor.meeting import Meeting, said
from train.preflight.doctor.report import Asked, Report
from train.world.launchers import WorldError
from train.world.ranks import World, node_of_process

SLOW_SECONDS = 60  # over what the others are waited for: of rank 0, which waits for them


def arrived() -> tuple[World, str | None]:
    """This rank, and why it cannot be examined (its device is not there). Raises WorldError: no place among the ranks."""
    try:
        return World.from_env(), None
    except WorldError:
        raise
    except Exception as error:  # a driver's, or a library's that does not load: all of it is told
        place = [int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
        return World(*place, torch.device("cpu")), said(error)


def examine(world: World, asked: Asked, fault: str | None = None) -> Report:
    """Collective: every rank of the launch calls it, all return the same `go`.

    Args:
        fault: why this rank cannot be examined, if so.
    Raises:
        WorldError: this rank does not reach rank 0.
    """
    begun = time.monotonic()
    fault = fault or _cannot_import()
    meeting = Meeting(world, asked.wait)
    came = meeting.gather("came", {"host": socket.gethostname(), "node": list(node_of_process()), "fault": fault})
    names = _names(came)
    well = meeting.broadcast("well", all(came) and not any(c["fault"] for c in came), 2 * asked.wait)
    if not well:
        findings = list(rules.arrival(came, [n for n in names if n], asked.hostfile)) if not all(came) else []
        findings += rules.lost({r: c["fault"] for r, c in enumerate(came) if c and c["fault"]}, names)
        meeting.part()
        return Report(False, findings, [], {}, time.monotonic() - begun)
    names = meeting.broadcast("names", names, asked.wait)
    report = None
    try:
        ranks, folder = _gathered(meeting, asked, names)
        if world.rank == 0:
            from train.preflight.doctor import verdict

            report = verdict.of(world, asked, names, ranks, meeting.lost, folder, time.monotonic() - begun)
    except WorldError:  # rank 0 is gone
        raise
    except (Exception, SystemExit) as error:  # of any library, on this rank alone: the others need not wait
        meeting.fail(said(error))
        if world.rank == 0:
            report = Report(False, list(rules.lost({0: said(error)}, names)), [], {}, time.monotonic() - begun)
    go = meeting.broadcast("go", report.go if report else None, SLOW_SECONDS + 4 * asked.wait)
    meeting.part()
    return report or Report(go, [], [], {}, time.monotonic() - begun)


def _cannot_import() -> str | None:
    """Why what the examination needs cannot be imported here: a package that is missing, broken, or another's."""
    try:
        from train.preflight.doctor import node, verdict  # noqa: F401
    except Exception as error:  # a library that loads may raise anything
        return said(error)
    return None


def _names(came: list[dict[str, Any] | None]) -> list[str | None]:
    """A name a node: its host's, numbered where several nodes (containers) have the same."""
    nodes = list(dict.fromkeys(tuple(c["node"]) for c in came if c))
    hosts = [n[0] for n in nodes]
    named = {n: n[0] if hosts.count(n[0]) == 1 else f"{n[0]}#{hosts[: i + 1].count(n[0])}" for i, n in enumerate(nodes)}
    return [named[tuple(c["node"])] if c else None for c in came]


def _gathered(meeting: Meeting, asked: Asked, names: list[str]) -> tuple[list[dict[str, Any] | None], str | None]:
    """What every rank found, on rank 0 (None: nothing came from that rank), and the folder that was tried."""
    from train.preflight.doctor import node

    world, leaders = meeting.world, [names.index(n) for n in dict.fromkeys(names)]
    ranks = meeting.gather("facts", node.facts(world, asked, names, leaders))
    layer = next((f["layer"] for f in ranks if f and f["layer"]), node.LAYER_BYTES)
    folder = next((f["folder"] for f in ranks if f and f["folder"]), None)
    alike = len({f["device"]["device"] == "cpu" for f in ranks if f}) == 1 and not meeting.lost
    folder, layer, alike = meeting.broadcast("tried", [folder, layer, alike], SLOW_SECONDS + asked.wait)
    own = {
        "shared": shared.examine(meeting, Path(folder), world.rank in leaders) if folder else None,
        # ranks that talk in different ways, or not at all, would wait for each other
        "network": network.examine(meeting, layer, leaders) if world.size > 1 and alike else None,
    }
    measured = meeting.gather("measured", own, seconds=90)
    return [f | m if f and m else None for f, m in zip(ranks, measured, strict=True)], folder
