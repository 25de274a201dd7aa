import json

import numpy as np
import pytest

from data_tools.shards.writer import ShardWriter
from launch.benchmark import main


def test_a_report_has_its_command_commit_machine_and_date_beside_the_figures(tmp_path, capsys):
    assert main(["packing", "--documents", "2000", "--seq-len", "512", "--repeats", "1", "--json", str(tmp_path / "f.json")]) == 0
    report = json.loads((tmp_path / "f.json").read_text())
    assert report["command"].startswith("python launch/benchmark.py packing --documents 2000")
    assert report["commit"] and "cores" in report["machine"] and report["date"].startswith("20")
    packers = {row["packer"]: row for row in report["rows"]}
    assert packers["ours, split"]["fill %"] > packers["next-fit in order"]["fill %"]
    assert "ours, whole" in capsys.readouterr().out


def test_the_loader_is_measured_on_shards_one_names(tmp_path, capsys):
    writer = ShardWriter(tmp_path / "s", kind="corpus", vocab_size=100, tokenizer={"fingerprint": "f"})
    for i in range(200):
        writer.add(str(i), "s", np.full(30, i % 100))
    writer.finish()
    assert main(["loader", "--shards", str(tmp_path / "s"), "--seq-len", "64", "--seek-tokens", "1e5"]) == 0
    assert "s, whole" in capsys.readouterr().out


def test_a_folder_without_shards_ends_in_one_message(tmp_path, capsys):
    assert main(["packing", "--shards", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}")


def test_an_unknown_part_is_refused_with_the_known_ones(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["pakcing"])
    assert stopped.value.code == 2 and "packing" in capsys.readouterr().err
