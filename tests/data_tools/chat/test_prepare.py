"""`data_tools.prepare chat`: files of chats → shards; what is dropped is counted, and too much of it stops the work."""

import contextlib
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_tools import prepare
from data_tools.shards.fingerprint import tokenizer_fingerprint
from data_tools.shards.reader import Shards
from tests.data_tools.chat.test_conversations import REAL, REAL_FILES
from tests.made import processes
from tests.made.chat_tokenizers import write_chatml, write_llama2

MISTRAL = REAL.parent / "tokenizers" / "mistral_v1"


@pytest.fixture(scope="session")
def llama2(tmp_path_factory) -> Path:
    return write_llama2(tmp_path_factory.mktemp("llama2"))


def chat(question: str, *more: str, **fields) -> dict:
    return {"messages": [{"role": ("user", "assistant")[k % 2], "content": text} for k, text in enumerate([question, *more])]} | fields


def write(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(*words: object) -> int:
    return prepare.main(["chat", *map(str, words), "--workers", "1"])


def trained(shards: Shards, i: int) -> list[int]:
    return shards.tokens(i)[shards.mask(i) == 1].tolist()


def answers(shards: Shards, i: int) -> list[list[int]]:
    """What is trained on, cut at the end tokens, without them."""
    ids = trained(shards, i)
    ends = [k for k, id in enumerate(ids) if id == 2]
    assert ends[-1] == len(ids) - 1
    return [ids[start:end] for start, end in zip([0, *(end + 1 for end in ends)], ends)]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_chats_become_verified_shards_with_masks_ids_and_counts(llama2, tmp_path, capsys):
    import sentencepiece

    rows = [chat("What is a blazar?", "A galaxy.", id="p1"), chat("a", "b", "c", "d"), {"question": "Who?", "answer": "Me."}]
    assert run(write(tmp_path / "mine.jsonl", rows), "--tokenizer", llama2, "--out", tmp_path / "out") == 0
    shards = Shards.open(tmp_path / "out", verify="hash")
    decode = sentencepiece.SentencePieceProcessor(model_file=str(llama2 / "tokenizer.model")).decode
    assert [shards.id(i) for i in range(len(shards))] == ["mine/0:p1", "mine/1", "mine/2"]
    assert [[decode(ids) for ids in answers(shards, i)] for i in range(3)] == [["A galaxy. "], ["b ", "d "], ["Me. "]]
    manifest, counts = shards.manifest, shards.manifest["counts"]
    assert (manifest["kind"], counts["documents"], counts["tokens"]) == ("chat", 3, int(shards.lengths.sum()))
    assert counts["supervised_tokens"] == sum(len(trained(shards, i)) for i in range(3))
    assert manifest["chat"]["sources"] == {"mine": {"samples": 3, "turns": 8, "cut": 0, "longest": int(shards.lengths.max())}}
    assert manifest["turns"] == {"mine": 8} and manifest["dropped"] == {}
    rule = manifest["tokenizer"]
    assert (rule["fingerprint"], rule["add_bos"], rule["add_eos"]) == (tokenizer_fingerprint(llama2), True, True)
    assert rule["template"]["name"] == "llama2" and "[INST]" in rule["template"]["jinja"]
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{tmp_path / 'out'}: 3 conversations")


def test_dropped_rows_are_counted_by_source_and_reason_and_named(llama2, tmp_path):
    good = [chat(f"question {k}", "answer") for k in range(30)]
    bad = [chat("only a question"), chat("a", " "), {"prompt": "x", "chosen": "y", "rejected": "z"}]
    inputs = [write(tmp_path / "one.jsonl", good + bad), write(tmp_path / "two.jsonl", good[:5])]
    assert run(*inputs, "--tokenizer", llama2, "--out", tmp_path / "out", "--max-dropped", "0.1") == 0
    manifest = Shards.open(tmp_path / "out").manifest
    reasons = {"empty assistant turn": 1, "no assistant turn": 1, "unknown fields: chosen, prompt, rejected": 1}
    assert manifest["dropped"] == {"one": reasons}
    assert {name: counts["documents"] for name, counts in manifest["counts"]["sources"].items()} == {"one": 30, "two": 5}
    named = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    assert [row["id"] for row in named] == ["one/30", "one/31", "one/32"] and named[0]["reason"] == "no assistant turn"


def test_two_files_of_one_source_never_share_an_id(llama2, tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        write(tmp_path / name, [chat("a", "b"), chat("c", "d")])
    assert run(tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--source", "s", "--tokenizer", llama2, "--out", tmp_path / "out") == 0
    shards = Shards.open(tmp_path / "out")
    assert [shards.id(i) for i in range(4)] == ["s/0", "s/1", "s/2", "s/3"] and shards.sources == ["s"]


def test_too_many_unusable_rows_stop_the_work_before_a_shard_is_written(llama2, tmp_path, capsys):
    rows = [chat("a", "b")] * 18 + [chat("a")] * 2
    inputs = [write(tmp_path / "weak.jsonl", rows), write(tmp_path / "good.jsonl", [chat("a", "b")] * 500)]
    assert run(*inputs, "--tokenizer", llama2, "--out", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert "weak: 2 of 20 conversations cannot be used, more than --max-dropped 0.05: no assistant turn (2)" in error
    assert "dropped.jsonl" in error and "good" not in error and not list((tmp_path / "out").glob("*.arrow"))
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert run(*inputs, "--tokenizer", llama2, "--out", tmp_path / "out", "--max-dropped", 0.1) == 0


def untrained(k: int) -> dict:
    row = chat(f"question {k}", "answer")
    row["messages"][1]["weight"] = 0
    return row


def test_rows_without_a_supervised_token_are_dropped_and_counted(llama2, tmp_path):
    rows = [chat(f"q{k}", "a") for k in range(2000)] + [untrained(0), untrained(1)]  # 0.0999 %
    assert run(write(tmp_path / "mine.jsonl", rows), "--tokenizer", llama2, "--out", tmp_path / "out") == 0
    shards = Shards.open(tmp_path / "out")
    assert len(shards) == 2000 and shards.manifest["dropped"] == {"mine": {"no supervised token": 2}}
    assert all(shards.mask(i).any() for i in range(len(shards)))


def test_more_than_a_thousandth_without_a_supervised_token_stops_the_work_unless_allowed(llama2, tmp_path, capsys):
    path = write(tmp_path / "mine.jsonl", [chat(f"q{k}", "a") for k in range(1997)] + [untrained(k) for k in range(2)])  # 0.1001 %
    assert run(path, "--tokenizer", llama2, "--out", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert "mine: 2 of 1,999 conversations have no supervised token, more than 0.1%" in error and "--allow-unsupervised" in error
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert run(path, "--tokenizer", llama2, "--out", tmp_path / "out", "--allow-unsupervised") == 0
    assert len(Shards.open(tmp_path / "out")) == 1997


def test_long_conversations_are_cut_after_an_answer_or_dropped_and_counted(llama2, tmp_path):
    rows = [chat("a", "b", "c", "d", "e", "f"), chat("a", "b"), chat("long " * 200, "b")]
    path = write(tmp_path / "mine.jsonl", rows)
    for rule, kept, turns, cut in (("truncate", 2, 4 + 2, 1), ("drop", 1, 2, 0)):  # the first keeps two of its three answers
        out = tmp_path / rule
        assert run(path, "--tokenizer", llama2, "--out", out, "--seq-len", 30, "--long", rule) == 0
        shards = Shards.open(out)
        assert len(shards) == kept and shards.lengths.max() <= 30 and all(trained(shards, i)[-1] == 2 for i in range(kept))
        assert shards.manifest["dropped"] == {"mine": {"longer than --seq-len": 3 - kept}}
        facts = shards.manifest["chat"]["sources"]["mine"]
        assert (facts["turns"], facts["cut"]) == (turns, cut)


def test_a_split_keeps_equal_questions_together_and_loses_nothing(llama2, tmp_path):
    rows = [chat(f"{space}Question {k // 2}", f"answer {k}") for k in range(400) for space in ("", " ")]
    path = write(tmp_path / "mine.jsonl", rows)
    assert run(path, "--tokenizer", llama2, "--out", tmp_path / "out", "--split", "heldout=0.1") == 0
    assert run(path, "--tokenizer", llama2, "--out", tmp_path / "all") == 0
    sides = {name: Shards.open(tmp_path / "out" / name) for name in ("heldout", "train")}
    ids = {name: [side.id(i) for i in range(len(side))] for name, side in sides.items()}
    questions = {name: {int(id.split("/")[1]) // 4 for id in ids[name]} for name in ids}
    assert not questions["heldout"] & questions["train"] and len(ids["heldout"]) + len(ids["train"]) == 800
    assert 40 < len(ids["heldout"]) < 140
    whole = Shards.open(tmp_path / "all")
    place = {whole.id(i): i for i in range(len(whole))}
    for name, side in sides.items():
        assert all(np.array_equal(side.tokens(i), whole.tokens(place[id])) for i, id in enumerate(ids[name]))


def big(path: Path) -> Path:
    return write(path, [chat(f"question {k} " * (k % 7 + 1), f"answer {k}") for k in range(12000)])


@pytest.mark.slow
def test_any_number_of_workers_gives_the_same_bytes(llama2, tmp_path):
    path = big(tmp_path / "mine.jsonl")
    for workers in ("1", "3"):
        words = ["chat", str(path), "--tokenizer", str(llama2), "--out", str(tmp_path / workers), "--workers", workers]
        processes.run([sys.executable, "-m", "data_tools.prepare", *words], check=True)
    shards = Shards.open(tmp_path / "1")
    assert bytes_of(tmp_path / "1") == bytes_of(tmp_path / "3")
    assert [shards.id(i) for i in range(len(shards))] == [f"mine/{k}" for k in range(12000)]


@pytest.mark.slow
def test_a_killed_run_leaves_nothing_that_looks_finished_and_goes_on(llama2, tmp_path):
    path = big(tmp_path / "mine.jsonl")
    words = [sys.executable, "-m", "data_tools.prepare", "chat", str(path), "--tokenizer", str(llama2), "--workers", "1", "--out"]
    processes.run([*words, str(tmp_path / "uncut")], check=True)
    out = tmp_path / "out"
    process = processes.start([*words, str(out)], **processes.QUIET)
    processes.wait_until(lambda: list(out.glob(".work/*/tasks/completions/*")), process)
    processes.end(process)
    assert not (out / "manifest.json").exists()
    first = {path: path.stat().st_mtime_ns for path in out.glob(".work/*/00000.npz")}
    assert len(first) == 1
    process = processes.start([*words, str(out)], **processes.QUIET)
    [(kept, made)] = first.items()

    def ended() -> bool:
        with contextlib.suppress(FileNotFoundError):  # all parts are gone at the end
            assert kept.stat().st_mtime_ns == made, "a finished task was done again"
        return process.poll() is not None

    processes.wait_until(ended)
    assert process.returncode == 0 and bytes_of(out) == bytes_of(tmp_path / "uncut")


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGCONT, signal.SIGKILL])
def test_a_second_command_into_the_same_folder_is_refused_until_the_first_ends_or_is_killed(end, llama2, tmp_path):
    path, out = write(tmp_path / "mine.jsonl", [chat(f"question {k}", f"answer {k}") for k in range(100)]), tmp_path / "out"
    words = [sys.executable, "-m", "data_tools.prepare", "chat", str(path), "--tokenizer", str(llama2), "--workers", "1", "--out"]
    processes.run([*words, str(tmp_path / "alone")], check=True)
    first = processes.start([*words, str(out)], **processes.QUIET)
    processes.wait_until(lambda: list(out.glob(".work/*/tasks/tasks.json")), first)
    first.send_signal(signal.SIGSTOP)
    try:
        second = processes.run([*words, str(out)])
    finally:
        os.killpg(first.pid, end)
    first.wait(processes.SECONDS)
    assert second.returncode == 1 and f"process {first.pid} on " in second.stderr and "is writing here; wait for it" in second.stderr
    if end == signal.SIGKILL:
        assert not (out / "manifest.json").exists()
        processes.run([*words, str(out)], check=True)
    else:
        assert first.returncode == 0
    assert bytes_of(out) == bytes_of(tmp_path / "alone")


def test_a_second_run_does_nothing_and_another_one_is_refused(llama2, tmp_path, capsys):
    path = write(tmp_path / "mine.jsonl", [chat("a", "b")])
    assert run(path, "--tokenizer", llama2, "--out", tmp_path / "out") == 0
    before = bytes_of(tmp_path / "out")
    assert run(path, "--tokenizer", llama2, "--out", tmp_path / "out") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert run(path, "--tokenizer", llama2, "--out", tmp_path / "out", "--template", "chatml") == 1
    assert "made with other arguments and tokenizer; give another --out" in capsys.readouterr().err
    write(path, [chat("a", "c")])
    assert run(path, "--tokenizer", llama2, "--out", tmp_path / "out") == 1
    assert "made with other inputs" in capsys.readouterr().err
    assert bytes_of(tmp_path / "out") == before


MISTAKES = {
    "no such file; give a file, a folder, or a Hub name": ["nothing.jsonl"],
    "--seq-len 1: give the row length": ["--seq-len", "1"],
    "write NAME=FRACTION": ["--split", "heldout"],
    "the fraction between 0 and 1": ["--split", "heldout=10"],
    "no conversation is left for it": ["--split", "heldout=0.0001"],
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_ends_in_one_message_with_its_remedy(message, llama2, tmp_path, capsys):
    path = write(tmp_path / "mine.jsonl", [chat("a", "b")])
    assert run(path, *MISTAKES[message], "--tokenizer", llama2, "--out", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_bare_text_is_refused_with_the_way_to_read_it(llama2, tmp_path, capsys):
    path = write(tmp_path / "papers.jsonl", [{"text": "Abstract"}] * 3)
    assert run(path, "--tokenizer", llama2, "--out", tmp_path / "out") == 1
    assert "bare text without roles; data_tools.prepare corpus reads it (3)" in capsys.readouterr().err


def test_marks_written_as_text_are_said(llama2, tmp_path, capsys):
    path = write(tmp_path / "mine.jsonl", [chat("a", "b")])
    assert run(path, "--tokenizer", llama2, "--out", tmp_path / "text", "--template", "chatml") == 0
    assert "template chatml: marks are plain text; answers end with </s>" in capsys.readouterr().err
    assert run(path, "--tokenizer", write_chatml(tmp_path / "t"), "--out", tmp_path / "ids", "--template", "chatml") == 0
    assert "template chatml: marks are control tokens" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason="the real chat files are not beside this checkout")
def test_real_files_give_as_many_conversations_as_they_hold(tmp_path, capsys):
    good = {name: rows for name, (rows, reason) in REAL_FILES.items() if reason is None}
    inputs = [REAL / name for name in good]
    assert run(*inputs, "--tokenizer", MISTRAL, "--out", tmp_path / "out") == 0
    assert "kept without what no template has a place for: reasoning (50 conversations)" in capsys.readouterr().out
    shards = Shards.open(tmp_path / "out", verify="hash")
    found = Counter(shards.source(i) for i in range(len(shards)))
    assert found == {name.partition(".")[0]: rows for name, rows in good.items()} and len(shards) == 4593
    assert shards.manifest["chat"]["left_out"] == {"llamafactory_reason_tool_use_demo_50": {"reasoning": 50}}


def test_the_show_command_reads_chat_shards(llama2, tmp_path, capsys):
    from data_tools import show

    path = write(tmp_path / "mine.jsonl", [chat("What?", "Stars.", id="p1")] * 20 + [chat("a")])
    assert run(path, "--tokenizer", llama2, "--out", tmp_path / "out") == 0
    assert show.main([str(tmp_path / "out"), "--tokenizer", str(llama2), "--table"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| mine"))
    assert "20" in line and "40" in line and "no assistant turn" in line
    assert show.main([str(tmp_path / "out"), "--tokenizer", str(llama2), "--document", "mine/0:p1"]) == 0
    assert "⟦Stars. </s>⟧" in capsys.readouterr().out


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as exit:
        prepare.main(["chat", "--help"])
    assert exit.value.code == 0 and "example: python -m data_tools.prepare chat" in capsys.readouterr().out
