"""What one node raises is a finding with its name, whatever it is and wherever, and no rank waits for it."""

from __future__ import annotations

import os
from unittest.mock import patch

import pytest

from tests.made import processes
from tests.made.ranks import run_ranks
from train.preflight.doctor import examine, rules
from train.preflight.doctor.report import Asked

LONG = 3600.0  # seconds a rank that says nothing would be waited for: longer than any test may take


def examined(world, ports: list[int], folder) -> list:
    """(go, findings) of an examination a port; on rank 1, the second node, something fails in each."""
    found = []
    raised = [OSError("disk gone"), SystemExit(3), KeyError("x")]
    places = ["hardware.of_rank", "hardware.of_node", "shared.examine"]
    for port, error, place in zip(ports, [None, *raised], [None, *places], strict=True):
        os.environ["MASTER_PORT"] = str(port)

        def boom(*_, error=error, **__):
            raise error

        target = f"train.preflight.doctor.{place}" if place and world.rank == 1 else "train.preflight.doctor.examine.NOTHING"
        with (
            patch("train.preflight.doctor.examine.node_of_process", lambda: (f"n{world.rank}", "")),
            patch(target, boom, create=target.endswith("NOTHING")),
        ):
            fault = "no yaml here (ImportError)" if place is None and world.rank == 1 else None
            report = examine.examine(world, Asked(None, [], folder, None, None, LONG), fault)
        found.append((report.go, [(f.check, f.nodes, f.text) for f in report.findings]))
    return found


@pytest.mark.slow
def test_what_a_node_raises_is_named_and_nobody_waits(tmp_path):
    first, *others = run_ranks(examined, 3, [processes.free_port() for _ in range(4)], tmp_path)
    for (go, findings), said in zip(first, ["no yaml here", "disk gone", "SystemExit", "KeyError"], strict=True):
        mine = [f for f in findings if f[0] == "examination"]
        assert not go and [f[1] for f in mine] == [("n1",)] and said in mine[0][2] and "n1, rank 1" in mine[0][2], findings
        assert {f[1] for f in findings} == {("n1",)}, findings
    assert all(not go for rank in others for go, _ in rank)


def facts(**more) -> dict:
    return {"versions": {}, "code": {}, "environment": {}, "inputs": {"recipe": "r", "model config": "c"}, "wrong": [], "faults": []} | more


def test_an_input_that_is_missing_is_said_once():
    lacks = facts(inputs={"recipe": "r"}, wrong=["model.path=m: no such folder here"])
    [found] = rules.software({"n0": facts(), "n1": lacks, "n2": facts()})
    assert found.nodes == ("n1",) and "no such folder" in found.text
    [found] = rules.software({"n0": facts(), "n1": facts(inputs={"recipe": "r"}), "n2": facts()})  # the node does not know why
    assert found.nodes == ("n1",) and "not set on n1" in found.text
