"""The quickstart abstracts are large enough, well formed, and held out honestly; another text costs nothing that was made."""

import json
import re
import subprocess

import pytest
import torch

from launch import quickstart
from launch.quickstart import CHATS, prepare, warn_of_many_passes
from tests.made import tiny
from tests.made.chat_tokenizers import write_chatml
from tests.made.where import ROOT
from train.guard import run_lock
from train.recipe.vocabulary import Data, Model, Recipe
from train.world.file_lock import hold
from train.world.ranks import World

ABSTRACTS = ROOT / "launch" / "recipes" / "quickstart_abstracts.jsonl"


def records() -> list[dict]:
    return [json.loads(line) for line in ABSTRACTS.read_text(encoding="utf-8").splitlines()]


def texts(split: str) -> list[str]:
    return [record["text"] for record in records() if record.get("split") == split]


def runs(text: str, length: int) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}


def test_header_comes_first_and_carries_no_text() -> None:
    header = records()[0]
    assert header["id"] == "header"
    assert header["license"] == "Apache-2.0"
    assert "text" not in header


def test_every_line_after_the_header_is_a_whole_abstract_record() -> None:
    for record in records()[1:]:
        assert set(record) == {"id", "split", "topic", "title", "text"}
        assert record["split"] in ("train", "heldout")
        assert record["id"].startswith(record["split"] + "-")
        assert all(record.values())


def test_both_splits_are_large_enough() -> None:
    assert len(texts("train")) >= 120
    assert len(texts("heldout")) >= 30


def test_every_text_is_as_long_as_an_abstract() -> None:
    lengths = {record["id"]: len(record["text"].split()) for record in records()[1:]}
    assert {name: n for name, n in lengths.items() if not 90 <= n <= 280} == {}


def test_ids_are_unique() -> None:
    ids = [record["id"] for record in records()]
    assert len(ids) == len(set(ids))


def test_titles_are_unique() -> None:
    titles = [record["title"] for record in records()[1:]]
    assert len(titles) == len(set(titles))


def test_mathematics_is_closed() -> None:
    assert [record["id"] for record in records()[1:] if record["text"].count("$") % 2] == []


def test_no_twelve_words_in_a_row_are_shared_between_training_and_heldout_texts() -> None:
    train = set().union(*(runs(text, 12) for text in texts("train")))
    heldout = set().union(*(runs(text, 12) for text in texts("heldout")))
    assert train and heldout
    assert train & heldout == set()


@pytest.mark.slow
def test_another_text_keeps_what_was_made_of_the_one_before_and_a_bad_one_touches_nothing(tmp_path, capfd):
    tiny.write_tokenizer(tmp_path / "model")
    data, run = tmp_path / "quickstart-data", tmp_path / "quickstart"

    def text(name: str, count: int = 30):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps({"id": f"{name}-{k}", "text": f"A star of {name}, number {k}."}) + "\n" for k in range(count)))
        return file

    def made(file) -> list[str]:
        prepare(data, run, tmp_path / "model", file, ["text"])
        run.mkdir(exist_ok=True)
        (run / "metrics.jsonl").write_text(file.stem)
        return sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("quickstart"))

    assert made(text("a")) == ["quickstart", "quickstart-data"] == made(text("a"))
    assert made(text("b")) == ["quickstart", "quickstart-data", "quickstart-data.1", "quickstart.1"]
    assert made(text("c"))[-1] == "quickstart.2" and (tmp_path / "quickstart.1" / "metrics.jsonl").read_text() == "a"
    kept = {p: p.read_bytes() for p in data.rglob("*") if p.is_file()}
    (tmp_path / "broken.jsonl").write_text("{no json\n" * 5)
    with pytest.raises(subprocess.CalledProcessError):
        made(tmp_path / "broken.jsonl")
    assert {p: p.read_bytes() for p in data.rglob("*") if p.is_file()} == kept and (run / "metrics.jsonl").read_text() == "c"
    capfd.readouterr()
    warn_of_many_passes(data)
    assert "passes over the same" in capfd.readouterr().err


def test_two_quickstarts_do_not_share_a_folder_and_the_run_within_one_takes_its_own_lock(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = Recipe(name="quickstart", model=Model(path="m"), data=Data(sources={}), tokens_per_step=1).run_dir
    with hold(quickstart.LOCK):
        held = run_lock.take(run, World(0, 1, 0, torch.device("cpu")))
        assert held is not None
        held.close()
        assert quickstart.main([]) == 1 and "another quickstart is at work in this folder" in capsys.readouterr().err
    assert list((tmp_path / "runs").iterdir()) == []


# -- chat


def chats() -> list[dict]:
    return [json.loads(line) for line in CHATS.text.read_text(encoding="utf-8").splitlines()]


def test_the_embedded_conversations_are_well_formed_short_and_various() -> None:
    records = chats()
    assert len(records) >= 230 and sum(len(r["messages"]) > 2 for r in records) >= 30
    assert [r["id"] for r in records] == [f"chat-{n:03d}" for n in range(1, len(records) + 1)]
    firsts = [r["messages"][0]["content"] for r in records]
    assert len(set(firsts)) == len(firsts)
    for record in records:
        assert set(record) == {"id", "messages"} and all(set(m) == {"role", "content"} for m in record["messages"])
        roles = [m["role"] for m in record["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2) and roles, record["id"]
        for message in record["messages"]:
            text = message["content"]
            assert text == text.strip() and text[-1] in ".?!" and 1 <= len(text.split()) <= 60, (record["id"], text)


@pytest.mark.slow
def test_conversations_are_prepared_with_the_same_care_as_texts(tmp_path, capfd):
    model = tmp_path / "model"
    write_chatml(model)
    data, run = tmp_path / "quickstart-chat-data", tmp_path / "quickstart-chat"

    def made(name: str, lines: list[str]) -> list[str]:
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))
        prepare(data, run, model, tmp_path / f"{name}.jsonl", ["text"], CHATS)
        run.mkdir(exist_ok=True)
        return sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("quickstart"))

    def talk(k: int) -> str:
        return json.dumps({"messages": [{"role": "user", "content": f"What is {k}?"}, {"role": "assistant", "content": f"It is {k}."}]})

    assert made("a", [talk(k) for k in range(60)]) == ["quickstart-chat", "quickstart-chat-data"]
    assert json.loads((data / "heldout" / "manifest.json").read_text())["counts"]["documents"] > 0
    both = ["quickstart-chat", "quickstart-chat-data", "quickstart-chat-data.1", "quickstart-chat.1"]
    assert made("b", [talk(k) for k in range(100, 160)]) == both
    kept = {p: p.read_bytes() for p in data.rglob("*") if p.is_file()}
    for name, lines in (("broken", ["{no json"] * 30), ("texts", ['{"text": "no conversation"}'] * 30), ("two", [talk(1), talk(2)])):
        with pytest.raises((subprocess.CalledProcessError, SystemExit)):
            made(name, lines)
    assert {p: p.read_bytes() for p in data.rglob("*") if p.is_file()} == kept


def test_the_table_has_named_rows_rounded_figures_and_paths_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = {
        "loss_before": 3.1246123, "loss_after": 1.98765, "perplexity_before": 22.754321, "perplexity_after": 7.3, "asked": 12, "ended_before": 2,
        "ended_after": 12, "tokens": 24576, "steps": 24, "tokens_per_second": 98.7654, "text": str(CHATS.text), "base_model": str(tmp_path / "models" / "m"),
        "hf_model": str(tmp_path / "runs" / "q" / "step_000024"),
    }  # fmt: skip
    rows = quickstart._rows(report)
    assert rows["held-out perplexity"] == "22.75 → 7.30" and rows["held-out loss"] == "3.125 → 1.988 nats a token"
    assert rows["answers that end by themselves"] == "2 of 12 → 12 of 12, within 96 tokens"
    assert rows["model"] == "runs/q/step_000024" and rows["base model"] == "models/m" and rows["speed"] == "99 tokens a second"
    assert quickstart.next_command(tmp_path / "runs" / "q").endswith("chat.py runs/q")
