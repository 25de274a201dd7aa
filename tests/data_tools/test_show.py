"""What a person sees of shards."""

import json
from pathlib import Path

import pytest
import sentencepiece

from data_tools.prepare import main as prepare
from data_tools.shards.writer import ShardWriter
from data_tools.show import main as show
from data_tools.tokens.tokenizer import Tokenizer
from tests.made.chat_tokenizers import write_llama2

PROSE = "We observe a distant galaxy cluster at high redshift.\nIts stars are old and its gas is hot.\n"


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "text").write_text(PROSE * 50)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=330,
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    rows = [{"id": f"p{k}", "text": f"Galaxy {k} is old. " * (k + 1), "path": f"latex/{k}/main.tex"} for k in range(5)] + [{"id": "none"}]
    (folder / "papers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["corpus", str(folder / "papers.jsonl"), "--tokenizer", str(tokenizer_folder), "--out", str(folder / "shards")]
    assert prepare([*words, "--source", "astro", "--workers", "1"]) == 0
    return folder / "shards"


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    folder, tokenizer = tmp_path_factory.mktemp("chat") / "shards", Tokenizer.load(tokenizer_folder)
    writer = ShardWriter(folder, kind="chat", vocab_size=tokenizer.vocab_size, tokenizer=tokenizer.rule())
    for source, count in (("alpaca", 3), ("sharegpt", 2)):
        for k in range(count):
            question, answer = tokenizer.encode("What is it?"), [*tokenizer.encode("A galaxy."), tokenizer.eos_id]
            writer.add(f"{source}-{k}", source, [1, *question, *answer], [0] * (1 + len(question)) + [1] * len(answer))
    writer.finish(dropped={"alpaca": {"no answer": 4}, "sharegpt": {}}, turns={"alpaca": 6, "sharegpt": 4})
    return folder


def test_the_overview_tells_counts_lengths_sources_and_what_was_dropped(
    corpus: Path, tokenizer_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show([str(corpus), "--tokenizer", str(tokenizer_folder)]) == 0
    out = capsys.readouterr().out
    assert "corpus shards, 5 documents" in out and "source      astro: 5 documents" in out and "(100.0%)" in out
    assert "papers.jsonl: 5 documents" in out and "dropped     1 no field text" in out and "BOS 1, EOS 2" in out
    assert "--- p0 (astro" in out and "<s>Galaxy 0 is old.</s>" in out.replace(" </s>", "</s>")


def test_a_document_is_shown_beside_its_origin(corpus: Path, tokenizer_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show([str(corpus), "--document", "p3", "--tokenizer", str(tokenizer_folder)]) == 0
    out = capsys.readouterr().out
    assert "p3: document 3 of 5, source astro" in out and "papers.jsonl, row 4" in out and '"path": "latex/3/main.tex"' in out
    assert "<s>Galaxy 3 is old. Galaxy 3 is old." in out


def test_a_conversations_origin_is_its_record_and_whether_it_changed(tmp_path: Path, capsys) -> None:
    write_llama2(tmp_path / "llama2")
    chats = [
        {"id": f"own/{n}", "messages": [{"role": "user", "content": f"Q{n}?"}, {"role": "assistant", "content": "A."}]} for n in range(4)
    ]
    for name, part in (("a", chats[:3]), ("b", chats[3:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in part))
    words = ["chat", str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"), "--source", "mine", "--tokenizer", str(tmp_path / "llama2")]
    assert prepare([*words, "--out", str(tmp_path / "shards"), "--workers", "1"]) == 0
    shown = lambda: (show([str(tmp_path / "shards"), "--document", "mine/3:own/3"]), capsys.readouterr().out)[1]  # noqa: E731
    assert f"from {tmp_path / 'b.jsonl'}, record 1\n" in shown()
    (tmp_path / "b.jsonl").write_text((tmp_path / "b.jsonl").read_text().replace("A.", "B."))
    assert f"from {tmp_path / 'b.jsonl'}, record 1 (changed since)" in shown()
    (tmp_path / "b.jsonl").unlink()
    assert "(not there any more)" in shown()


def test_an_unknown_document_is_one_message(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show([str(corpus), "--document", "p99"]) == 1
    assert "no document 'p99' among 5; the first is 'p0'" in capsys.readouterr().err


def test_what_is_trained_on_stands_in_brackets(chat: Path, tokenizer_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show([str(chat), "--document", "alpaca-1", "--tokenizer", str(tokenizer_folder)]) == 0
    assert "<s>What is it?⟦A galaxy.</s>⟧" in capsys.readouterr().out


def test_without_a_tokenizer_ids_are_shown(chat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show([str(chat), "--document", "sharegpt-0"]) == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("1 ") and last.endswith("2⟧")


def test_the_table_has_a_line_a_source(chat: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show([str(chat), "--table"]) == 0
    head, _, alpaca, sharegpt = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()]
    assert head == ["source", "samples", "turns", "tokens", "supervised", "median", "longest", "dropped"]
    assert alpaca[:3] == ["alpaca", "3", "6"] and alpaca[-1] == "4 no answer" and alpaca[4].endswith("%")
    assert sharegpt[:3] == ["sharegpt", "2", "4"] and sharegpt[-1] == "none"
    assert show([str(corpus), "--table"]) == 0
    assert "| astro  | 5       | -     |" in capsys.readouterr().out


def test_verify_reads_every_byte(chat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show([str(chat), "--verify"]) == 0
    assert "1 shards, 5 documents" in (out := capsys.readouterr().out) and "are as written" in out and "GB/s" in out
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in chat.iterdir():
        data = bytearray(path.read_bytes())
        if path.suffix == ".arrow":
            data[len(data) // 2] ^= 1
        (damaged / path.name).write_bytes(data)
    assert show([str(damaged), "--verify"]) == 1
    assert "error: " in (message := capsys.readouterr().err) and "00000.arrow" in message and "Traceback" not in message


def test_another_tokenizer_is_refused(chat: Path, tmp_path: Path, tokenizer_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "tokenizer.model"
    (tmp_path / "text").write_text(PROSE * 40 + "other words\n")
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"), model_prefix=str(model.with_suffix("")), vocab_size=60, hard_vocab_limit=False, minloglevel=2
    )
    assert show([str(chat), "--tokenizer", str(tmp_path)]) == 1
    assert "was made with" in capsys.readouterr().err
