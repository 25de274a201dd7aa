"""A release folder has what its licence and the Hub ask for, figures of its own alone, and goes on after a kill."""

import json
import math
import os
import re
import sys

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from launch import publish
from tests.made import checkpoints, processes
from tests.made.hub import Hub, serving
from tests.made.where import ROOT
from train.export.licenses import TERMS, licensed, name_fault


@pytest.fixture
def run(tmp_path):
    """A checkpoint of a run on Llama-2, with held-out losses, shards, and evaluations beside it."""
    checkpoint = checkpoints.checkpoint(tmp_path / "runs" / "cpt" / "checkpoints", 500, seed=1)
    state = json.loads((checkpoint / "state.json").read_text())
    base = tmp_path / "models" / "base"
    base.mkdir(parents=True)
    (base / "LICENSE.txt").write_text("LLAMA 2 COMMUNITY LICENSE AGREEMENT")
    (base / "USE_POLICY.md").write_text("Acceptable use")
    (base / "README.md").write_text("---\nlicense: llama2\nbase_model: meta-llama/Llama-2-7b-hf\n---\n# Base\n")
    shards = tmp_path / "shards"
    shards.mkdir()
    manifest = {
        "counts": {"documents": 7, "tokens": 1234},
        "inputs": [{"path": "/home/me/papers.jsonl", "sha256": "ab" * 32}, {"path": "GAIR/lima"}],
    }
    (shards / "manifest.json").write_text(json.dumps(manifest))
    state["recipe"] = state["recipe"] | {
        "model": {"path": str(base)},
        "data": {"seq_len": 64, "sources": {"astro": {"path": str(shards), "weight": 0.9}}},
    }
    state |= {"heldout": {"astro": 2.0, "general": 2.5, "broken": math.inf}, "heldout_before": {"astro": 2.4, "general": 2.49}}
    (checkpoint / "state.json").write_text(json.dumps(state))
    checkpoints.write_manifest(checkpoint, 500)
    results = tmp_path / "runs" / "cpt" / "eval"
    results.mkdir()
    other = str(tmp_path / "elsewhere")
    (results / "perplexity.json").write_text(
        json.dumps(
            {"models": {str(checkpoint): {"perplexity": 9.5, "interval": [9.0, 10.0], "bits_per_byte": 0.8}, other: {"perplexity": 1.1}}}
        )
    )
    return checkpoint


def card(folder) -> tuple[dict, str]:
    _, matter, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(matter), text


def test_a_release_has_model_licence_card_and_its_own_figures(run, tmp_path, capsys):
    out = tmp_path / "release"
    assert publish.main([str(run), str(out), "--name", "astro-7b"]) == 0
    told = capsys.readouterr()
    assert "warning" not in told.err and str(out) in told.out
    front, text = card(out)
    assert front["license"] == "llama2" and front["base_model"] == ["meta-llama/Llama-2-7b-hf"] and front["datasets"] == ["GAIR/lima"]
    assert front["language"] == ["en"] and front["pipeline_tag"] == "text-generation"
    name, read = model_index_to_eval_results(front["model-index"])  # by the Hub's own client
    assert name == "astro-7b"
    found = {(r.dataset_name, r.metric_type, r.metric_value) for r in read}
    measured = {
        ("astro", "perplexity", 7.38906),
        ("general", "perplexity", 12.1825),
        ("perplexity", "perplexity", 9.5),
        ("perplexity", "bits_per_byte", 0.8),
    }
    assert found == measured
    assert ModelCard.load(out / "README.md", ignore_metadata_errors=False).data.license == "llama2"
    assert (
        "95% interval 9 to 10" in text
        and "before training 11.02" in text
        and "1,234 tokens" in text
        and "papers.jsonl, " + "ab" * 32 in text
    )
    assert "Llama 2 is licensed under the LLAMA 2 Community License" in (out / "Notice.txt").read_text()
    assert (
        (out / "LICENSE.txt").read_text().startswith("LLAMA 2")
        and (out / "USE_POLICY.md").is_file()
        and (out / "generation_config.json").is_file()
    )
    assert "launch/publish.py" in text and "/home/me" not in text
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert AutoModelForCausalLM.from_pretrained(out).config.vocab_size == len(AutoTokenizer.from_pretrained(out)) == 320
    again = tmp_path / "again"  # of the release itself: figures and words are carried on
    assert publish.main([str(out), str(again), "--name", "astro-7b"]) == 0
    assert card(again)[0]["model-index"] == front["model-index"] and "1,234 tokens" in card(again)[1]


def test_another_wish_for_the_same_folder_is_refused_and_the_same_one_keeps_the_card(run, tmp_path, capsys):
    out = tmp_path / "release"
    assert publish.main([str(run), str(out)]) == 0
    (out / "README.md").write_text((out / "README.md").read_text() + "\nBy hand.\n")
    assert publish.main([str(run), str(out)]) == 0 and "By hand." in card(out)[1] and "made before" in capsys.readouterr().out
    for words, said in (
        (["--license", "mit"], "license None, not mit"),
        (["--dtype", "fp32"], "was not made of this"),
        (["--name", "x"], "name"),
    ):
        assert publish.main([str(run), str(out), *words]) == 1 and said in capsys.readouterr().err
    assert publish.main([str(run), str(tmp_path / "new"), "--license-file", str(tmp_path / "none")]) == 1
    assert "no such file" in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_what_is_not_ready_is_listed_and_not_sent(run, tmp_path, capsys, monkeypatch):
    base = tmp_path / "models" / "base"
    (base / "LICENSE.txt").unlink()
    (base / "USE_POLICY.md").unlink()
    out = tmp_path / "release"
    assert publish.main([str(run), str(out), "--push", "my-org/astro"]) == 0
    told = capsys.readouterr()
    assert "nothing was sent" in told.out and "export.json" not in told.out and re.search(r"\d+  README.md", told.out)
    assert told.err.count("before it may be published") == 2 and "LLAMA 2 Community License" in told.err
    assert publish.main([str(run), str(out), "--push", "my-org/astro", "--yes"]) == 1 and "not sent" in capsys.readouterr().err
    (out / "LICENSE.txt").write_text("LLAMA 2")
    (out / "USE_POLICY.md").write_text("x")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert publish.main([str(run), str(out), "--push", "my-org/astro", "--yes"]) == 1 and "hf auth login" in capsys.readouterr().err


def test_each_licence_is_told_with_what_it_asks(tmp_path):
    (tmp_path / "LICENSE").write_text("its text")
    (tmp_path / "USE_POLICY.md").write_text("its policy")
    for id, terms in TERMS.items():
        found = licensed(id, [tmp_path])
        assert found.missing == () and "LICENSE" in found.files, id
        assert not terms.notice or any(terms.notice.encode() in content for content in found.files.values()), id
    assert b"Apache License" in licensed("apache-2.0", []).files["LICENSE"] and licensed("cc-by-4.0", []).missing == ()
    assert [bool(licensed(id, []).missing) for id in ("llama2", "mit", "other")] == [True] * 3
    assert "Llama-3-AstroSage" in name_fault("llama3", "org/AstroSage") and name_fault("llama3", "org/Llama-3-Astro") == ""
    assert name_fault("llama3.1", "org/llama3-astro") == "" and name_fault("llama2", "org/anything") == ""


@pytest.mark.slow
def test_a_push_that_was_killed_goes_on(run, tmp_path):
    """The command itself, by the client's own environment: cut off by SIGKILL between two files."""
    out, hub = tmp_path / "release", Hub()
    words = [sys.executable, str(ROOT / "launch" / "publish.py"), str(run), str(out), "--push", "my-org/astro", "--yes"]
    with serving(hub) as address:
        known = {
            "HF_ENDPOINT": address,
            "HF_TOKEN": hub.known,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path / "hf"),
        }
        hub.faults = [("POST .*commit/main", "500")] * 1000
        started = processes.start(words, env=os.environ | known)
        processes.wait_until(lambda: any("commit/main" in line for line in hub.asked))
        started.kill()
        started.wait(processes.SECONDS)
        assert hub.commits == []
        hub.faults.clear()
        sent = len(hub.objects)
        done = processes.run(words, env=os.environ | known)
    assert done.returncode == 0, done.stderr
    wanted = {p.name: p.read_bytes() for p in out.iterdir() if p.name != "export.json"}
    assert {n: c for n, (_, c) in hub.repositories["my-org/astro"].items()} == wanted and len(hub.commits) == 1 and len(hub.objects) == sent
    assert hub.known not in done.stdout + done.stderr + (out / "README.md").read_text()
