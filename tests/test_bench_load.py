"""The load benchmark, small: its figures hang together."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]


def measured(folder: Path, *words: str) -> dict:
    command = [
        sys.executable,
        "launch/benchmark.py",
        "load",
        "--parameters",
        "2e7",
        "--ranks",
        "2",
        "--dtype",
        "fp32",
        "--files-dtype",
        "fp32",
    ]
    command += [*words, "--scratch", str(folder), "--json", str(folder / "f.json")]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [p.name for p in folder.iterdir()] == ["f.json"], "the made model is not left behind"
    return json.loads((folder / "f.json").read_text())


def test_two_ranks_read_the_files_once_and_the_training_state_is_what_was_planned(tmp_path):
    report = measured(tmp_path, "--start")
    ours, start = report["rows"]
    assert 1 <= ours["read / file"] <= 1.05 and 1 <= ours["by the kernel"] <= 1.05
    assert report["a rank's share MiB"] < ours["largest MiB"] <= report["bar: share + 1.5 largest tensors + 256 MiB"]
    assert start["largest MiB"] > ours["largest MiB"]
    assert report["planned / measured state"] == pytest.approx(1, abs=0.2)  # within 10% from 100 million parameters on


@pytest.mark.soak
def test_from_pretrained_takes_more_memory_on_rank_0(tmp_path):
    report = measured(tmp_path, "--compare", "from_pretrained")
    ours, theirs = report["rows"]
    assert theirs["rank 0 MiB"] > ours["rank 0 MiB"] and report["rank 0's peak against from_pretrained"] < 1
    assert all(row["s cold"] > 0 and row["GB/s warm"] > 0 for row in (ours, theirs)) and "GB/s warm" in report["disk, one reader"]


def test_what_cannot_be_measured_is_named(capsys):
    from launch.benchmark import main

    assert main(["load", "--ranks", "0"]) == 1
    assert "--ranks 0" in capsys.readouterr().err
