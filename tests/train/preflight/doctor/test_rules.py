"""Seeded differences and defects: each is found, and names its node; three healthy nodes are a go."""

from __future__ import annotations

import copy

import pytest

from train.preflight.doctor import hardware, measured, rules

GIB = 2**30
RANKS_A_NODE = 2


def healthy(nodes: int = 3, kind: str = "NVIDIA H100 80GB HBM3") -> list[dict]:
    """Facts as rank 0 gathers them, of nodes without a fault."""
    ranks = []
    for node in range(nodes):
        for local in range(RANKS_A_NODE):
            rank = node * RANKS_A_NODE + local
            facts = {
                "rank": rank, "node": f"n{node}", "host": f"n{node}", "leader": local == 0, "addresses": [f"10.0.0.{node}"],
                "device": {"device": kind, "uuid": f"GPU-{rank}", "free": 79 * GIB, "total": 80 * GIB, "tflops": 600.0 + rank},
                "shared": None, "network": {"error": None, "unreached": [], "pairs": {}},
            }  # fmt: skip
            if local == 0:
                others = [n * RANKS_A_NODE for n in range(nodes) if n != node]
                facts |= {
                    "versions": {"torch": "2.13.0", "deepspeed": "0.19.8"}, "code": {"program": "abc", "commit": "1"}, "inputs": {"recipe": "r", "tokenizer": "t"},
                    "environment": {"NCCL_ALGO": "Ring"}, "wrong": [], "faults": [], "shared": {"wrong": None, "unseen": [], "clock": 1e9 + node * 0.01},
                    "network": {"error": None, "unreached": [], "pairs": {str(o): [20e9 + o, 3e-5] for o in others}},
                    "hardware": {
                        "kernel": "6.1", "processor": "AMD EPYC", "cores": 96, "memory": 900.0 * GIB, "disk": 9e12, "inodes": 10**8, "shm": 400 * GIB,
                        "open files": 65536, "locked memory": -1, "infiniband": ["mlx5_0"], "g++": True, "ninja": True, "stale locks": [], "extensions": None,
                        "gpus": [card(i) for i in range(RANKS_A_NODE)], "interfaces": {},
                    },
                }  # fmt: skip
            ranks.append(facts)
    return ranks


def card(index: int) -> dict[str, str]:
    line = f"{index}, NVIDIA H100 80GB HBM3, GPU-{index}, 550.54.15, 81559, 4, 0, 1980, 1980, 35, 5, 16, 16\n"
    [fields] = hardware.parsed(line)
    return fields


def found_in(ranks: list[dict], hostfile: dict[str, int] | None = None, link: float | None = None) -> list[rules.Finding]:
    nodes = {f["node"]: f for f in ranks if f and f["leader"]}
    names = [f["node"] for f in ranks if f]
    there = [f for f in ranks if f]
    return [
        *rules.arrival(ranks, names, hostfile), *rules.software(nodes), *rules.hardware(nodes), *measured.devices(there),
        *measured.cards(nodes, {n: names.count(n) for n in nodes}), *measured.folder(there, "runs"), *measured.network(there, link),
    ]  # fmt: skip


def node(ranks: list[dict], number: int) -> dict:
    return ranks[number * RANKS_A_NODE]


def slow_both_ways(ranks: list[dict]) -> None:
    for f in ranks:
        for other in f["network"]["pairs"]:
            if f["node"] == "n1" or other == "2":
                f["network"]["pairs"][other][0] = 1e9


SEEDED = {
    "another version": (lambda r: node(r, 1)["versions"].update(torch="2.12.0"), "version", "no-go"),
    "a package missing": (lambda r: node(r, 1)["versions"].pop("deepspeed"), "version", "no-go"),
    "another program": (lambda r: node(r, 1)["code"].update(program="xyz"), "program", "no-go"),
    "another recipe": (lambda r: node(r, 1)["inputs"].update(recipe="x"), "input", "no-go"),
    "an input missing": (lambda r: node(r, 1)["wrong"].append("model.path=m: no such folder here"), "input", "no-go"),
    "a variable set": (lambda r: node(r, 1)["environment"].update(NCCL_P2P_DISABLE="1"), "environment", "no-go"),
    "less memory": (lambda r: node(r, 1)["hardware"].update(memory=300.0 * GIB), "memory", "warning"),
    "a full disk": (lambda r: node(r, 1)["hardware"].update(disk=1e9), "disk", "warning"),
    "no inodes": (lambda r: node(r, 1)["hardware"].update(inodes=12), "inodes", "no-go"),
    "few open files": (lambda r: node(r, 1)["hardware"].update({"open files": 1024}), "open files", "warning"),
    "limited locked memory": (lambda r: node(r, 1)["hardware"].update({"locked memory": 65536}), "locked memory", "warning"),
    "no compiler": (lambda r: node(r, 1)["hardware"].update({"g++": False}), "compiler", "no-go"),
    "a stale lock": (lambda r: node(r, 1)["hardware"].update({"stale locks": ["x/lock"]}), "build locks", "warning"),
    "another processor": (lambda r: node(r, 1)["hardware"].update(processor="Xeon"), "processor", "warning"),
    "another driver": (lambda r: [g.update(driver_version="535") for g in node(r, 1)["hardware"]["gpus"]], "driver", "no-go"),
    "a card missing": (lambda r: node(r, 1)["hardware"]["gpus"].pop(), "GPUs", "no-go"),
    "ECC errors": (lambda r: node(r, 1)["hardware"]["gpus"][0].update({"ecc.errors.uncorrected.volatile.total": "3"}), "ECC", "no-go"),
    "a hot card": (lambda r: node(r, 1)["hardware"]["gpus"][0].update({"temperature.gpu": "91"}), "heat", "warning"),
    "half the lanes": (lambda r: node(r, 1)["hardware"]["gpus"][0].update({"pcie.link.width.current": "8"}), "PCIe", "warning"),
    "a slow card": (lambda r: r[3]["device"].update(tflops=420.0), "matrix product", "no-go"),
    "a card in use": (lambda r: r[3]["device"].update(free=30 * GIB), "device memory", "warning"),
    "two ranks on a card": (lambda r: r[3]["device"].update(uuid="GPU-2"), "devices", "no-go"),
    "a folder not shared": (lambda r: [f["shared"].update(unseen=[o for o in (0, 2, 4) if (o == 2) != (f["rank"] == 2)]) for f in r if f["shared"]], "shared folder", "no-go"),
    "a folder not written": (lambda r: node(r, 1)["shared"].update(wrong="runs cannot be written: Read-only file system"), "shared folder", "no-go"),
    "a wrong clock": (lambda r: node(r, 1)["shared"].update(clock=1e9 - 5), "clock", "no-go"),
    "a slow link": (slow_both_ways, "network", "no-go"),
    "a late link": (lambda r: [p.__setitem__(1, 0.04) for f in r for o, p in f["network"]["pairs"].items() if "2" in (o, str(f["rank"]))], "network", "warning"),
    "a cut link": (lambda r: [f["network"].update(unreached=[2]) for f in r if f["rank"] in (0, 4)], "network", "no-go"),
    "a silent rank": (lambda r: r[3].update(network=None), "network", "no-go"),
}  # fmt: skip


def test_nothing_is_wrong_with_healthy_nodes():
    assert found_in(healthy()) == []
    assert found_in(healthy(), {"n0": 2, "n1.cluster": 2, "10.0.0.2": 2}, link=25e9) == []
    assert found_in(healthy(1)) == [] and found_in(healthy(2)) == []


@pytest.mark.parametrize("name", SEEDED)
def test_a_seeded_defect_is_found_and_names_its_node(name):
    ranks = healthy()
    damage, check, verdict = SEEDED[name]
    damage(ranks)
    found = found_in(ranks)
    assert [(f.check, f.verdict, f.nodes) for f in found] == [(check, verdict, ("n1",))], found
    assert "n1" in found[0].text and len(found[0].text) < 300


def test_ranks_that_did_not_arrive_are_named_by_the_hostfile():
    ranks = healthy()
    ranks[2] = ranks[3] = None
    [found] = rules.arrival(ranks, ["n0", "n0", "n2", "n2"], {"n0": 2, "n1": 2, "n2": 2})
    assert found.nodes == ("n1",) and "2 of 6 ranks did not arrive: 2-3, by the hostfile on n1" in found.text


def test_a_hostfile_is_held_against_who_came():
    found = list(rules.arrival(healthy(), [f["node"] for f in healthy()], {"n0": 2, "n1": 4, "n7": 2}))
    assert [f.nodes for f in found] == [("n1",), ("n7",), ("n2",)] and all(f.verdict == "no-go" for f in found)


def test_a_link_below_what_was_promised_is_named_though_all_are_alike():
    found = found_in(healthy(), link=100e9)
    assert [f.check for f in found] == ["network"] and "100 expected" in found[0].text


def test_two_nodes_that_differ_are_both_named():
    ranks = healthy(2)
    node(ranks, 0)["versions"]["torch"] = "2.12.0"
    [found] = found_in(ranks)
    assert found.nodes == ("n0", "n1")


def test_what_a_card_does_not_tell_is_no_fault():
    ranks = healthy()
    for f in ranks:
        for g in f.get("hardware", {}).get("gpus", []):
            for key in ("ecc.errors.uncorrected.volatile.total", "temperature.gpu", "pcie.link.width.current", "pcie.link.width.max"):
                del g[key]
    assert found_in(ranks) == []
    assert hardware.parsed("0, X, u, [N/A], 1, 1, [N/A], 1, 1, 30, 5, 16, 16\n")[0].keys() == set(hardware.QUERY) - {
        "driver_version",
        "ecc.errors.uncorrected.volatile.total",
    }
    assert hardware.parsed("No devices were found\n") == []


def test_the_facts_are_left_as_they_were():
    ranks = healthy()
    before = copy.deepcopy(ranks)
    found_in(ranks)
    assert ranks == before


@pytest.mark.parametrize("numbers, text", [([3], "3"), ([0, 1, 2, 3, 7], "0-3, 7"), ([5, 1, 2], "1-2, 5"), ([], "")])
def test_ranks_are_said_in_spans(numbers, text):
    assert rules.spans(numbers) == text
