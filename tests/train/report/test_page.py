"""A run's page: from any state of its folder one file that loads nothing, with what the records hold and nothing that runs."""

import json
import math
import os
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml

from launch import report as door
from tests.made import tiny
from train.report.best import best
from train.report.figures import thinned
from train.report.records import ReportError, read_run
from train.report.write import write_report

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> & \"quoted\" 'too'"


class Elements(HTMLParser):
    """Every tag with its attributes, and that they close as they open."""

    def __init__(self, text: str):
        super().__init__()
        self.found, self._open = [], []
        self.feed(text)
        assert self._open == [], self._open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "link"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag


def checked(page: Path) -> str:
    """The page's text, once nothing in it loads or runs anything."""
    text = page.read_text(encoding="utf-8")
    for tag, given in Elements(text.removeprefix("<!doctype html>")).found:
        assert tag not in ("script", "iframe", "object", "form"), tag
        assert not [name for name in given if name.startswith("on")], given
        for name in ("src", "href"):
            assert given.get(name, "data:").startswith(("data:", "#")), given
    assert not re.search(r"url\(|@import", text)
    return text


def folder_of(root: Path, steps: int = 8, general: float = 0.01, **recipe) -> Path:
    """A run's folder by hand: `steps` steps, an evaluation every two on two sources, a checkpoint at each."""
    run = root / "runs" / "one"
    run.mkdir(parents=True)
    heldout = {"sources": {"astro": {"path": "x"}, "general": {"path": "y"}}, **recipe.pop("heldout", {})}
    content = {
        "name": "one",
        "steps": steps,
        "tokens_per_step": 256,
        "data": {"sources": {"papers": {"path": str(root / "shards"), "weight": 1.0}}},
    }
    (run / "recipe.yaml").write_text(yaml.safe_dump(content | {"heldout": heldout} | recipe))
    lines = []
    for step in range(steps + 1):
        if step:
            lines.append(
                {
                    "step": step,
                    "loss": 3 - 0.1 * step,
                    "lr": 1e-4,
                    "grad_norm": 1.0,
                    "tokens": 256 * step,
                    "tokens_per_second": 100.0 + step,
                }
            )
        if step % 2 == 0:
            one = {"astro": 3.0 - 0.05 * step, "general": 2.5 + general * step}
            lines.append(
                {"step": step, "tokens": 256 * step}
                | {f"heldout/{n}/{k}": v for n, x in one.items() for k, v in (("loss", x), ("loss_error", 0.02))}
            )
            if step:
                (run / "checkpoints" / f"step_{step:06d}").mkdir(parents=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def outcome(run: Path, **changes) -> None:
    told = {
        "ended": "finished",
        "exit_code": 0,
        "step": 8,
        "checkpoint": None,
        "cause": "",
        "attempt": 1,
        "started": 0.0,
        "time": "2026-01-01",
    }
    (run / "outcome.json").write_text(json.dumps(told | changes))


def test_the_page_has_the_records_figures_and_loads_nothing(tmp_path):
    tiny.save_tiny(tmp_path / "model")
    tiny.write_shards(tmp_path / "shards", tmp_path / "model", tiny.random_documents(np.random.default_rng(1), [30, 40]))
    run = folder_of(tmp_path)
    outcome(run)
    text = checked(write_report(run))
    checksum = json.loads((tmp_path / "shards" / "manifest.json").read_text())["checksum"]
    before, after = math.exp(3.0), math.exp(2.6)
    for wanted in (
        checksum,
        f"{before:.2f} → {after:.2f}",
        f"{100 * (after / before - 1):+.1f}%",
        "step 8 of 8; finished",
        "104 tokens/s",
        "2,048 tokens",
    ):
        assert wanted in text, wanted
    low, high = math.exp(2.6 - 1.96 * 0.02), math.exp(2.6 + 1.96 * 0.02)
    assert f"{after:.2f} [{low:.2f}, {high:.2f}]" in text
    drawn = {p.name for p in (run / "figures").iterdir()}
    assert drawn == {f"{name}.{kind}" for name in ("loss", "heldout", "forgetting", "speed", "updates") for kind in ("png", "svg")}
    assert all((run / "figures" / n).read_bytes()[:4] == b"\x89PNG" for n in drawn if n.endswith("png"))
    assert text.count("data:image/svg+xml") == 5


def test_what_others_wrote_is_text_and_secrets_are_struck_out(tmp_path):
    run = folder_of(tmp_path, name=HOSTILE, model={"path": "https://me:hunter2-secret@host/m"})
    outcome(run, ended="failed", cause=HOSTILE)
    (run / "answers.jsonl").write_text(json.dumps({"step": 0, "prompt": HOSTILE, "answer": HOSTILE}) + "\n")
    (run / "report.json").write_text(json.dumps({"prompt": HOSTILE, "completion_before": "\x00\ud800", "completion_after": HOSTILE}))
    (run / "eval" / HOSTILE.replace("/", "")).mkdir(parents=True)
    (run / "eval" / "other.json").write_text(json.dumps({HOSTILE: {HOSTILE: {HOSTILE: HOSTILE}}, "list": [{HOSTILE: 1}]}))
    text = checked(write_report(run))
    assert "hunter2" not in text and "&lt;script&gt;" in text and "<script" not in text


@pytest.mark.parametrize(
    "ended, alive, said",
    [
        ("running", True, "step 8 of 8; running"),
        ("running", False, "died without a word"),
        ("preempted", False, "stopped before its end: SIGTERM"),
        ("failed", False, "failed: SIGTERM"),
    ],
)
def test_a_run_is_told_as_it_stands(tmp_path, ended, alive, said):
    run = folder_of(tmp_path)
    outcome(run, ended=ended, cause="SIGTERM")
    (run / "heartbeats").mkdir()
    beat = run / "heartbeats" / "rank_00000.json"
    beat.write_text("{}")
    if not alive:
        os.utime(beat, (time.time() - 3600,) * 2)
    assert said in checked(write_report(run))


RUBBISH = b'{"step": 3, "lo\n\xff\xfe\x00\n[1]\n{"step": "x", "loss": 1}\n{"step": true}\nnull\n{"step": -4, "loss": 2}\n{"step": 9, "loss": NaN, "tokens_per_second": "fast"}\n'


def test_any_state_of_a_folder_makes_a_page(tmp_path):
    """Half lines, rubbish, no held-out sources, rewound, damaged side files; each alone and all together."""
    looked = 0
    for number in (1, 2, 4, 8, 9, 16, 21, 32, 40, 63):
        run = folder_of(tmp_path / str(number))
        if number & 1:
            (run / "metrics.jsonl").write_bytes(RUBBISH + (run / "metrics.jsonl").read_bytes() + b'{"step": 5, "los')
        if number & 2:  # without held-out sources
            kept = [line for line in (run / "metrics.jsonl").read_bytes().split(b"\n") if b"heldout" not in line]
            (run / "metrics.jsonl").write_bytes(b"\n".join(kept))
        if number & 4:
            rewind = {"step": 2, "event": "rewind", "rewind": 1, "from_step": 6, "skipped_in_a_row": 2}
            again = [rewind, {"step": 3, "loss": None, "skipped": True, "why": "spike", "spike/loss": 9.0, "grad_norm": None}]
            (run / "metrics.jsonl").open("a").writelines("\n" + json.dumps(line) for line in again)
        if number & 8:
            for name in (
                "outcome.json",
                "goodput.json",
                "base_model.json",
                "report.json",
                "recipe.yaml",
                "answers.jsonl",
                "deepspeed.json",
            ):
                (run / name).write_bytes(b"{: \xff[" if number % 3 else b"[]")
        if number & 16:
            (run / "faults").mkdir()
            (run / "faults" / "1.json").write_text(
                json.dumps({"rank": 3, "host": "n1", "step": 4, "phase": "step", "kind": "killed", "cause": "SIGKILL"})
            )
            (run / "goodput.json").write_text(json.dumps({"goodput": 0.5, "seconds": {"useful": 5.0, "down": 5.0, "bad": "x"}}))
        if number & 32:
            (run / "metrics.jsonl").unlink()
            (run / "checkpoints").rename(run / "gone")
        text = checked(write_report(run))
        looked += 1
        if number == 1:
            assert "7 lines could not be read" in text
        if number == 4:
            assert "back to step 2" in text and "9.0 deviations" in text
        if number == 16:
            assert "rank 3 on n1" in text and "SIGKILL" in text and "50%" in text
    assert looked == 10


def test_a_folder_that_is_no_run_is_refused_with_a_remedy_and_nothing_is_made(tmp_path, capsys):
    run = folder_of(tmp_path)
    assert door.main([str(tmp_path / "runs")]) == 1
    assert f"did you mean {run}?" in capsys.readouterr().err
    assert door.main([str(tmp_path / "none")]) == 1 and "no such folder" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["one"]
    with pytest.raises(ReportError):
        read_run(tmp_path)
    assert door.main([str(run), "--out", str(tmp_path / "pages" / "one.html")]) == 0
    assert not (run / "report.html").exists() and checked(tmp_path / "pages" / "one.html")


def test_the_best_checkpoint_learned_most_among_those_that_break_no_rule(tmp_path):
    free, ruled = folder_of(tmp_path / "a", general=0.02), folder_of(tmp_path / "b", general=0.02, heldout={"stop_if": ["general > 1.1x"]})
    assert (best(read_run(free)).step, best(read_run(free)).saved) == (8, True)  # the mean over both falls to the end
    found = best(read_run(ruled))  # general: 1.083 times at step 4, 1.127 at step 6
    assert found.step == 4 and "over astro, none of general > 1.1x broken" in found.rule
    (ruled / "checkpoints" / "step_000004").rename(ruled / "checkpoints" / "taken")
    assert best(read_run(ruled)).step == 2
    none = folder_of(tmp_path / "c", general=0.2, heldout={"warn_if": ["general > 1.1x"]})
    assert best(read_run(none)).step is None and "Best checkpoint: none" in checked(write_report(none))


def test_a_thinned_curve_keeps_its_peaks():
    ys = np.sin(np.arange(100_000) / 50.0)
    ys[77_777], ys[3] = 40.0, -40.0
    xs, kept = thinned(range(100_000), ys.tolist(), 1000)
    assert len(xs) <= 1000 and max(kept) == 40 and min(kept) == -40 and xs == sorted(xs) and xs[kept.index(40.0)] == 77_777
