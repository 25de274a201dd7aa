"""The load benchmark, small: its figures hang together."""

import json
import sys
from pathlib import Path

import pytest

from tests.made import processes


def measured(folder: Path, *words: str, seconds: float = processes.SECONDS) -> dict:
    command = [sys.executable, "launch/benchmark.py", "load", "--ranks", "2", "--dtype", "fp32", "--files-dtype", "fp32", *words]
    command += ["--scratch", str(folder), "--json", str(folder / "f.json")]
    done = processes.run(command, seconds=seconds)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [p.name for p in folder.iterdir()] == ["f.json"], "the made model is not left behind"
    return json.loads((folder / "f.json").read_text())


@pytest.mark.slow
def test_two_ranks_read_the_files_once_by_their_own_count_and_by_the_kernels(tmp_path):
    report = measured(tmp_path, "--parameters", "5e6")
    [ours] = report["rows"]
    assert 1 <= ours["read / file"] <= 1.05 and 1 <= ours["by the kernel"] <= 1.05
    assert report["a rank's share MiB"] < ours["largest MiB"] <= report["bar: share + 1.5 largest tensors + 256 MiB"]
    assert ours["s cold"] > 0 and ours["GB/s warm"] > 0 and "GB/s warm" in report["disk, one reader"]


@pytest.mark.soak
def test_the_training_state_is_what_was_planned_and_from_pretrained_takes_more_memory(tmp_path):
    report = measured(tmp_path, "--parameters", "1e8", "--start", "--compare", "from_pretrained", seconds=900)
    ours, theirs, _ = report["rows"]
    assert ours["ranks / model"] <= 1.25 and theirs["rank 0 MiB"] > 2 * ours["rank 0 MiB"]
    assert report["planned / measured state"] == pytest.approx(1, abs=0.1)


def test_what_cannot_be_measured_is_named(capsys):
    from launch.benchmark import main

    with pytest.raises(SystemExit) as ended:
        main(["load", "--ranks", "0"])
    assert ended.value.code == 2 and "--ranks: 0 is not above 0" in capsys.readouterr().err
