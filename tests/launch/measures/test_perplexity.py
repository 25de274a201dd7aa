"""`evaluate.py perplexity` as its user calls it: two models, real files, a stop in between, faulty records."""

import gzip
import json
import sys
from pathlib import Path

import pytest

from launch.evaluate import main
from tests.made import processes
from tests.made.papers import sentences
from tests.made.tiny import save_tiny
from tests.made.where import ROOT

pytestmark = pytest.mark.timeout(300)  # several models are loaded in one test, which takes a while on a loaded machine


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("perplexity")
    for seed in (0, 1):
        save_tiny(folder / f"model{seed}", seed)
    rows = [{"id": f"p{n}", "section": ("abstract", "introduction")[n % 2], "text": sentences(("door", n), 1)[:120]} for n in range(12)]
    with gzip.open(folder / "texts.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
        file.write("not json\n" + json.dumps({"id": "e", "text": " "}) + "\n" + json.dumps({"id": "m"}) + "\n")
        file.write(json.dumps(rows[0]) + "\n" + json.dumps({"id": "p1", "text": "another text of this paper"}) + "\n")
    return folder


def run(ground: Path, out: Path, *more: object) -> int:
    words = ["perplexity", "--model", ground / "model0", ground / "model1", "--data", ground / "texts.jsonl.gz", "--out", out, *more]
    return main([str(word) for word in words])


def test_two_models_side_by_side_with_groups_and_a_paired_test(ground, tmp_path, capsys):
    assert run(ground, tmp_path) == 0
    told, said = json.loads((tmp_path / "perplexity.json").read_text()), capsys.readouterr().out
    first, second = (told["models"][str(ground / f"model{k}")] for k in (0, 1))
    assert first["documents"] == 14 and first["interval"][0] < first["perplexity"] < first["interval"][1]
    assert set(first["by"]["section"]) == {"abstract", "introduction"}
    rows = [json.loads(line) for line in (tmp_path / "perplexity_documents.jsonl").read_text().splitlines()]
    assert abs(sum(r["models"][str(ground / "model0")]["nats"] for r in rows) / first["tokens"] - first["loss"]) < 1e-9
    assert abs(first["bits_per_byte"] * first["bytes"] - first["loss"] * first["tokens"] / 0.6931471805599453) < 1e-6
    [paired] = told["paired"]
    assert abs(paired["bits_per_byte"] - (second["bits_per_byte"] - first["bits_per_byte"])) < 1e-9
    assert abs(paired["perplexity_percent"] - 100 * (second["perplexity"] / first["perplexity"] - 1)) < 1e-6
    assert told["left_out"] == {"not JSON": 1, "empty text": 1, "no field text": 1}
    for fact in ("1 faulty records left out: not JSON", "more than once", "different texts", "against"):
        assert fact in said, said


def test_a_journal_cut_anywhere_gives_the_same_result(ground, tmp_path, capsys):
    assert run(ground, tmp_path / "whole", "--batch-tokens", 130) == 0
    whole = (tmp_path / "whole" / "perplexity.json").read_bytes()
    journal = sorted((tmp_path / "whole" / "journal").iterdir())
    assert len(journal) == 2
    for k, cut in enumerate((0, 1, 57, -3)):
        out = tmp_path / f"cut{k}"
        (out / "journal").mkdir(parents=True)
        (out / "journal" / journal[0].name).write_bytes(journal[0].read_bytes()[:cut])
        (out / "journal" / journal[1].name).write_bytes(b"\x00rubbish\n[1,\n" + journal[1].read_bytes()[:200])
        capsys.readouterr()
        assert run(ground, out, "--batch-tokens", 130) == 0
        assert (out / "perplexity.json").read_bytes() == whole
        assert "are there from before" in capsys.readouterr().out
    assert run(ground, tmp_path / "whole", "--batch-tokens", 130, "--window", 50) == 0  # another rule reads none of these lines
    assert (tmp_path / "whole" / "perplexity.json").read_bytes() != whole


def test_parts_of_a_record_are_texts_of_one_paper(ground, tmp_path):
    rows = [{"abstract": sentences(n, 1)[:80], "introduction": sentences(n + 50, 1)[:90], "conclusion": ""} for n in range(5)]
    (tmp_path / "latex.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["perplexity", "--model", ground / "model0", "--data", tmp_path / "latex.jsonl", "--out", tmp_path / "out"]
    assert main([str(word) for word in (*words, "--part", "abstract", "--part", "introduction", "--part", "conclusion")]) == 0
    told = json.loads((tmp_path / "out" / "perplexity.json").read_text())
    assert told["papers"] == 5 and told["texts"] == 10 and told["left_out"] == {"empty text": 5}
    assert set(told["models"][str(ground / "model0")]["by"]["section"]) == {"abstract", "introduction"}


@pytest.mark.slow
def test_two_processes_killed_and_started_again_give_what_one_gives(ground, tmp_path):
    texts = tmp_path / "many.jsonl"
    texts.write_text("".join(json.dumps({"id": str(n), "text": sentences(n, 1)[:100]}) + "\n" for n in range(160)))
    command = [ROOT / "launch" / "evaluate.py", "perplexity", "--model", ground / "model0", "--data", texts, "--batch-tokens", 100, "--out"]
    assert main([str(word) for word in (*command[1:], tmp_path / "one")]) == 0
    started = processes.start([sys.executable, *command, tmp_path / "two", "--processes", 2])

    def begun() -> bool:
        return sum(path.stat().st_size > 0 for path in (tmp_path / "two").glob("journal/*")) == 2

    processes.wait_until(begun, started, seconds=150)
    processes.end(started)
    processes.run([sys.executable, *command, tmp_path / "two", "--processes", 2], check=True, seconds=150)
    one, two = (json.loads((tmp_path / name / "perplexity.json").read_text())["models"][str(ground / "model0")] for name in ("one", "two"))
    assert two["documents"] == 160 and abs(one["loss"] - two["loss"]) < 1e-6
