"""`launch/benchmark.py train`: the real step is what is measured, and padded batches hold the very same documents."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from launch.benchmark import main
from tests.made import processes, tiny
from train.benchmark.train import MadeDocuments, _lengths, _padded


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> dict:
    """Two ranks by the deepspeed launcher, packed and padded."""
    folder = tmp_path_factory.mktemp("bench")
    tiny.save_tiny(folder / "model")
    words = "--ranks 2 --seq-len 64 --micro-batch 2 --mean-tokens 20 --steps 2 --warmup 0 --compare padded --peak-tflops 0.001".split()
    command = [sys.executable, "launch/benchmark.py", "train", "--model", str(folder / "model"), *words, "--json", str(folder / "f.json")]
    done = processes.run(command)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "f.json").read_text())


@pytest.mark.slow
def test_a_report_tells_speed_mfu_memory_and_where_they_come_from(report):
    assert report["command"].startswith("python launch/benchmark.py train") and report["commit"] and report["date"].startswith("20")
    packed = report["rows"][0]
    assert report["ranks"] == 2 and packed["useful tokens/s"] == pytest.approx(2 * packed["a rank"])
    assert packed["MFU %"] > packed["MFU attended %"] > 0 and report["peak memory GiB a rank"] > 0


@pytest.mark.slow
def test_padded_steps_have_the_losses_of_the_packed_ones_and_waste_more(report):
    packed, longest, whole = report["rows"]
    assert packed["useful %"] > longest["useful %"] > whole["useful %"]
    for row in (longest, whole):
        assert report[f"largest loss difference, {row['batches']}"] < 1e-5
        assert report[f"packed / {row['batches']}"] == pytest.approx(packed["useful tokens/s"] / row["useful tokens/s"], abs=0.01)


def test_padding_moves_every_document_and_label_and_adds_none():
    rng = np.random.default_rng(0)
    documents = tiny.random_documents(rng, [9, 4, 30, 7, 12])
    packed = tiny.pack_by_hand(documents, 70)
    alone = SimpleNamespace(max=lambda values: [values[0] + 1])  # another rank has one micro-batch more
    for row in (0, 40):
        batches = _padded([packed], 2, row, rng, alone)
        assert len(batches) == 4 and batches[-1].supervised == 0
        found = []
        for batch in batches:
            edges = batch.cu_seqlens.tolist()
            for a, b in zip(edges, edges[1:]):
                real = batch.source[a:b] >= 0
                tokens, labels = batch.tokens[0, a:b], batch.labels[0, a:b]
                assert row in (0, b - a) and (labels[~real] == -100).all()
                if real.any():
                    assert labels[real][:-1].equal(tokens[real][1:])
                    found.append(tokens[real].tolist())
        assert sorted(found) == sorted(d.tolist() for d in documents)


def test_made_documents_are_as_long_as_asked_for_and_alike_every_time():
    job = {"ranks": 1, "micro_batch": 8, "accumulation": 4, "seq_len": 4096, "steps": 40, "warmup": 0, "mean_tokens": 654}
    lengths = _lengths(job)
    assert 600 < lengths.mean() < 700 and lengths.max() <= 4096
    one = MadeDocuments(lengths, 1000)
    assert (one.tokens(3) == MadeDocuments(lengths, 1000).tokens(3)).all() and len(one.tokens(3)) == lengths[3]


def test_what_cannot_be_measured_is_named(capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        main(["train", "--steps", "0"])
    assert ended.value.code == 2 and "--steps: 0 is not above 0" in capsys.readouterr().err
