"""A mistake of the user's ends in one message with its place and a remedy, the documented exit code, and nothing half made: at every door."""

import importlib
import json
import socket
from pathlib import Path

import pytest

from tests.made import tiny

PREPARE, SHOW, QUESTIONS, LATEX = "data_tools.prepare", "data_tools.show", "data_tools.questions.make", "data_tools.latex.paper"
TRAIN, SFT, EXPORT, META, CHAT, BENCH = (f"launch.{d}" for d in ("pretrain", "sft", "export_hf", "meta_to_hf", "chat", "benchmark"))
ASK = ("--out", "{new}", "--base-url", "http://127.0.0.1:9/v1", "--model", "m")

# door, exit code, what the message says, words; {g}: the ground, {new}: a place where nothing is
MISTAKES = [
    (TRAIN, 2, "required: recipe", ()),
    (TRAIN, 1, "nope.yaml", ("{g}/nope.yaml",)),
    (TRAIN, 1, "did you mean optim.lr", ("{g}/recipe.yaml", "optim.ler=1", "--dry-run")),
    (TRAIN, 1, "optim.lr='nan'", ("{g}/recipe.yaml", "optim.lr=nan", "--dry-run")),
    (TRAIN, 1, "micro_batch=5: a step has only 4 rows", ("{g}/recipe.yaml", "micro_batch=5", "--dry-run")),
    (TRAIN, 1, "steps=1" + "0" * 30, ("{g}/recipe.yaml", "steps=1" + "0" * 30, "--dry-run")),
    (TRAIN, 1, "checkpoint.allow=optim.ler: no such key", ("{g}/recipe.yaml", "checkpoint.allow=[optim.ler]", "--dry-run")),
    (TRAIN, 1, "manifest.json", ("{g}/recipe.yaml", "data.sources.a.path={g}/model", "--dry-run")),
    (SFT, 1, "packing", ("{g}/recipe.yaml", "--dry-run")),
    (PREPARE, 2, "arkiv", ("arkiv",)),
    (PREPARE, 1, "nope.json", ("arxiv", "--metadata", "{g}/nope.json", "--out", "{new}")),
    (PREPARE, 1, "--workers 0", ("arxiv", "--metadata", "{g}/meta.jsonl", "--out", "{new}", "--workers", "0")),
    (PREPARE, 1, "text.jsonl", ("corpus", "{g}/text.jsonl", "--tokenizer", "{g}/text.jsonl", "--out", "{new}")),
    (PREPARE, 1, "no field txt", ("corpus", "{g}/text.jsonl", "--tokenizer", "{g}/model", "--out", "{new}", "--text-field", "txt")),
    (PREPARE, 1, "note.txt", ("corpus", "{g}/text.jsonl", "--tokenizer", "{g}/model", "--out", "{g}/note.txt")),
    (PREPARE, 1, "--max-dropped nan", ("chat", "{g}/text.jsonl", "--tokenizer", "{g}/model", "--out", "{new}", "--max-dropped", "nan")),
    (PREPARE, 1, "model", ("report", "{g}/model")),
    (SHOW, 1, "nope", ("{g}/nope",)),
    (SHOW, 1, "no document", ("{g}/shards", "--document", "x")),
    (QUESTIONS, 1, "nope", ("{g}/nope", *ASK, "--dry-run")),
    (QUESTIONS, 1, "note.txt", ("{g}/text.jsonl", "--out", "{g}/note.txt/q", *ASK[2:], "--dry-run")),
    (QUESTIONS, 2, "nan", ("{g}/text.jsonl", *ASK, "--timeout", "nan")),
    (LATEX, 1, "nope.tex", ("{g}/nope.tex",)),
    (LATEX, 1, "weights.bin", ("{g}/weights.bin",)),
    (EXPORT, 1, "did you mean {g}/runs/one/checkpoints/step_000002", ("{g}/runs/one", "{new}")),
    (EXPORT, 1, "did you mean {g}/runs/one/checkpoints/step_000002", ("{g}/runs", "{new}")),
    (EXPORT, 1, "note.txt", ("{g}/model", "{g}/note.txt/x")),
    (EXPORT, 2, "MODEL:WEIGHT", ("{g}/model", "{new}", "--merge", "{g}/model")),
    (META, 1, "params.json", ("{g}/model", "{new}")),
    (CHAT, 1, "did you mean {g}/runs/one/checkpoints/step_000002", ("{g}/runs/one",)),
    (CHAT, 2, "80800", ("{g}/model", "--web", "--port", "80800")),
    (CHAT, 2, "nan", ("{g}/model", "--temperature", "nan")),
    (CHAT, 1, "--ratings {g}/runs", ("{g}/model", "--web", "--ratings", "{g}/runs")),
    (CHAT, 1, "--ratings {g}/note.txt/r", ("{g}/model", "--web", "--ratings", "{g}/note.txt/r")),
    (BENCH, 2, "pakcing", ("pakcing",)),
    (BENCH, 2, "above 0", ("packing", "--documents", "0")),
    (BENCH, 1, "too little text", ("tokenize", "{g}/text.jsonl", "--tokenizer", "{g}/model", "--megabytes", "2")),
    (BENCH, 1, "--text-field", ("tokenize", "{g}/text.jsonl", "--tokenizer", "{g}/model", "--text-field", "txt")),
    (BENCH, 1, "--json {g}/nope/x.json", ("packing", "--json", "{g}/nope/x.json")),
    (BENCH, 1, "--dir {g}/nope", ("export", "--dir", "{g}/nope")),
]


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Path:
    folder = tiny.ground(tmp_path_factory.mktemp("mistakes"))
    (folder / "text.jsonl").write_text(json.dumps({"id": "1", "text": "A star is a ball of gas. " * 20}) + "\n")
    (folder / "meta.jsonl").write_text(json.dumps({"id": "0704.0001", "categories": "astro-ph", "title": "x", "abstract": "y"}) + "\n")
    (folder / "note.txt").write_text("x")
    (folder / "weights.bin").write_bytes(bytes(range(256)) * 20)
    for step in (1, 2):
        (folder / f"runs/one/checkpoints/step_{step:06d}").mkdir(parents=True)
        (folder / f"runs/one/checkpoints/step_{step:06d}/config.json").write_text("{}")
    return folder


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(p): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("door, code, told, words", MISTAKES, ids=lambda value: value if isinstance(value, str) else None)
def test_a_mistake_is_one_message_and_leaves_nothing(door, code, told, words, ground, capsys, monkeypatch):
    monkeypatch.chdir(ground)
    before = tree(ground)
    put_in = {"g": ground, "new": ground / "new"}
    try:
        ended = importlib.import_module(door).main([word.format(**put_in) for word in words])
    except SystemExit as stopped:
        ended = stopped.code
    said = capsys.readouterr()
    assert ended == code and told.format(**put_in) in said.err and "Traceback" not in said.err, said.err
    left = {path for path in tree(ground) if path not in before}
    assert not left and all(tree(ground)[path] == content for path, content in before.items())


def test_a_port_in_use_is_named(ground, capsys):
    from launch.talk.web import serve

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert serve([], None, ground / "r.jsonl", "127.0.0.1", port) == 1
    assert f"--port {port}" in capsys.readouterr().err


def test_there_are_mistakes_at_every_door():
    assert len(MISTAKES) >= 40 and len({door for door, *_ in MISTAKES}) == 10
