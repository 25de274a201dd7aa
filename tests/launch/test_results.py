"""Results kept in the repository: one JSON and one line of the table each, and nothing that cannot be traced."""

import json

import pytest

from launch.benchmark import main
from train.benchmark import circumstances
from train.benchmark.circumstances import NEEDED, RESULTS, UNCOMMITTED, ResultError, keep, kept, require_keepable

REPORT = {
    "command": "python launch/benchmark.py x",
    "commit": "abc",
    "machine": "m",
    "date": "2026-11-26T20:00:00+00:00",
    "versions": {"torch": "2"},
}


def test_every_result_has_its_line_and_every_line_its_result():
    lines, files = kept(), {path.stem for path in RESULTS.glob("*.json")}
    assert set(lines) == files
    for name, cells in lines.items():
        report = json.loads((RESULTS / f"{name}.json").read_text())
        assert all(report.get(key) for key in NEEDED), name
        assert [cells["commit"], cells["machine"]] == [report["commit"], report["machine"]], name
        assert report["date"].startswith(cells["date"]) and UNCOMMITTED not in report["commit"], name
        assert report["command"].startswith("python ") and "/tmp" not in report["command"], name
    assert {p.suffix for p in RESULTS.iterdir()} <= {".json", ".md"}


def test_a_result_is_kept_with_its_line_and_replaces_one_of_its_name(tmp_path):
    (tmp_path / "README.md").write_text("# x\n\n| result | part | figure | machine | commit | date |\n|---|---|---|---|---|---|\n")
    keep(REPORT | {"rows": [{"packer": "a|b", "seconds": 0.25}]}, "packing", "one", tmp_path)
    keep(REPORT | {"figure": "said"}, "train", "two", tmp_path)
    keep(REPORT | {"rows": [{"packer": "c", "seconds": 0.5}]}, "packing", "one", tmp_path)
    lines = kept(tmp_path)
    assert list(lines) == ["one", "two"] and lines["one"]["figure"] == "packer c, seconds 0.5" and lines["two"]["figure"] == "said"
    assert json.loads((tmp_path / "one.json").read_text())["rows"] == [{"packer": "c", "seconds": 0.5}]


def test_what_could_not_be_traced_is_refused_before_it_is_measured(tmp_path, capsys):
    assert main(["packing", "--keep", "Two words"]) == 1
    assert "it names the file" in capsys.readouterr().err
    with pytest.raises(ResultError, match="elsewhere use --json"):
        require_keepable("x", tmp_path)
    with pytest.raises(ResultError, match="commit them first"):
        require_keepable("x", of=f"abc{UNCOMMITTED}")


def test_what_joins_nodes_is_told(tmp_path):
    for file, text in (
        ("infiniband/mlx5_0/ports/1/rate", "400 Gb/sec (4X NDR)"),
        ("net/eth0/speed", "25000"),
        ("net/lo/speed", "1"),
        ("net/x/speed", "-1"),
    ):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text(f"{text}\n")
    assert circumstances.interconnect(tmp_path).endswith("mlx5_0 400 Gb/sec (4X NDR); eth0 25 Gb/s")
