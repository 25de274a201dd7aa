"""launch/benchmark.py checkpoint: real ranks, a small made model."""

import json

import pytest

from launch.benchmark import main

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("ranks", ["1", pytest.param("2", marks=pytest.mark.soak)])  # two go through a launcher
def test_saves_of_both_kinds_are_measured_beside_the_disk(tmp_path, capfd, ranks):
    words = [
        "checkpoint",
        "--ranks",
        ranks,
        "--parameters",
        "1e6",
        "--repeats",
        "1",
        "--scratch",
        str(tmp_path),
        "--json",
        str(tmp_path / "f.json"),
    ]
    assert main(words) == 0
    report = json.loads((tmp_path / "f.json").read_text())
    rows = {row["what"]: row for row in report["rows"]}
    assert set(rows) == {"disk, write and sync", "save, foreground", "save, behind the steps", "read back and hash"}
    parameters, nbytes = report["parameters"], rows["save, foreground"]["GB"] * 1e9
    assert 16 * parameters <= nbytes <= 16 * parameters + 1e6, "fp32 weights, masters and two moments, and small files"
    assert all(row["seconds"] > 0 for row in rows.values())
    assert rows["save, behind the steps"]["stalled s"] <= rows["save, behind the steps"]["seconds"]
    assert [p.name for p in tmp_path.iterdir()] == ["f.json"]
