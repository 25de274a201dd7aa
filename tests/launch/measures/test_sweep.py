"""`evaluate.py sweep` as its user calls it: each blend scores as the export of it does, and the best point is the one that the rule says."""

import json
from pathlib import Path

import pytest

from launch import export_hf
from launch.evaluate import main
from tests.made.papers import sentences
from tests.made.tiny import save_tiny
from train.evaluation.perplexity.verdict import perplexity
from train.evaluation.sweep import best


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    for name, seed in (("base", 0), ("ours", 1)):
        save_tiny(folder / name, seed)
    save_tiny(folder / "other", 2, hidden_size=24)
    for name in ("astro", "general"):
        rows = [{"id": f"{name}{n}", "text": sentences((name, n), 1)[:100]} for n in range(6)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def run(ground: Path, out: Path, *more: object, model: str = "ours") -> int:
    words = [
        "sweep",
        "--model",
        ground / model,
        "--base",
        ground / "base",
        "--data",
        ground / "astro.jsonl",
        "--general",
        ground / "general.jsonl",
    ]
    return main([str(word) for word in (*words, "--out", out, *more)])


def test_each_weight_scores_as_its_export_does_and_the_best_is_exported(ground, tmp_path, capsys):
    out = tmp_path / "sweep"
    assert run(ground, out, "--weights", "0", "0.25", "0.5", "--allowed", "1000", "--export", tmp_path / "best") == 0
    found = json.loads((out / "sweep.json").read_text())
    points = {p["weight"]: p for p in found["points"]}
    assert list(points) == [0, 0.25, 0.5, 1]
    merged = tmp_path / "merged"
    words = [str(ground / "ours"), str(merged), "--merge", f"{ground / 'base'}:0.25", "--dtype", "fp32"]
    assert export_hf.main(words) == 0
    for side in ("astro", "general"):
        to = tmp_path / side
        assert (
            main(["perplexity", "--model", str(merged), str(ground / "base"), "--data", str(ground / f"{side}.jsonl"), "--out", str(to)])
            == 0
        )
        alone = json.loads((to / "perplexity.json").read_text())["models"]
        key = "learned" if side == "astro" else "kept"
        for folder, weight in ((merged, 0.25), (ground / "base", 1)):
            assert points[weight][f"{key}_perplexity"] == pytest.approx(alone[str(folder)]["perplexity"], rel=1e-5)
            assert points[weight][f"{key}_interval"] == pytest.approx(alone[str(folder)]["interval"], rel=1e-5)
    lowest = min(points, key=lambda w: points[w]["learned_perplexity"])
    assert found["best_weight"] == lowest and (tmp_path / "best" / "config.json").is_file()
    assert "learned_change_percent" not in points[1] and points[0.25]["learned_change_percent"] == pytest.approx(
        100 * (points[0.25]["learned_perplexity"] / points[1]["learned_perplexity"] - 1), rel=1e-6
    )
    assert (out / "sweep.png").read_bytes()[:4] == b"\x89PNG" and "<svg" in (out / "sweep.svg").read_text()
    assert (out / "sweep.md").read_text().count("\n| 0") == 3
    whole = (out / "sweep.json").read_bytes()
    capsys.readouterr()
    assert run(ground, out, "--weights", "0", "0.25", "0.5", "--allowed", "1000") == 0  # nothing is computed again
    assert (out / "sweep.json").read_bytes() == whole and capsys.readouterr().out.count("are there from before") == 8


def test_mistakes_are_told_before_anything_is_computed(ground, tmp_path, capsys):
    for more, model, said in (
        (["--weights", "0.5", "1.5"], "ours", "--weights 1.5: a share"), (["--allowed", "0"], "ours", "--allowed 0"),
        (["--export", str(ground)], "ours", "exists already"), ([], "other", "not made alike"),
    ):  # fmt: skip
        assert run(ground, tmp_path / "no", *more, model=model) == 1
        assert said in capsys.readouterr().err
    words = [
        "sweep",
        "--model",
        ground / "ours",
        "--data",
        ground / "astro.jsonl",
        "--general",
        ground / "general.jsonl",
        "--out",
        tmp_path / "no",
    ]
    assert main([str(word) for word in words]) == 1 and "--base: " in capsys.readouterr().err
    assert not (tmp_path / "no" / "sweep.json").exists()


def test_the_best_keeps_what_was_to_be_kept():
    class One:
        def __init__(self, weight: float, learned: float, kept: float):
            self.weight = weight
            self.verdicts = {side: type("V", (), {"loss": loss}) for side, loss in (("learned", learned), ("kept", kept))}

    points = [One(0, 2.0, 3.2), One(0.25, 2.1, 3.009), One(0.5, 2.2, 3.0), One(1, 2.5, 3.0)]
    assert [best(points, allowed).weight for allowed in (1.0, 1.005, 1.01, 1.3)] == [0.5, 0.5, 0.25, 0]
    assert best(points[:3]) is None and perplexity(0.0) == 1.0
