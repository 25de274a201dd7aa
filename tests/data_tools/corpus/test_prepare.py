"""Text files in, shards out: through the door, with real processes, kills and full disks."""

import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import sentencepiece

from data_tools.corpus import tasks as corpus_tasks
from data_tools.corpus.document import split_of
from data_tools.corpus.records import PART_BYTES, find_inputs, first_line_number, read_records, split_inputs
from data_tools.corpus.stages import cut_into_shards
from data_tools.corpus.tasks import read_part
from data_tools.files.atomic import sha256_file
from data_tools.prepare import main
from data_tools.shards.reader import Shards
from tests.made import processes
from tests.made.where import ROOT

WORDS = "the galaxy cluster redshift star black hole of a in we observe spectra mass dark matter halo é 日本 $z=0.5$ emission".split()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("tokenizer"), WORDS)


def train(folder: Path, words: list[str]) -> Path:
    (folder / "text").write_text((" ".join(words) + "\n") * 50)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=360,
        byte_fallback=True,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return folder


def rows(count: int = 60) -> list[dict[str, Any]]:
    draw = random.Random(3)
    return [{"id": f"p{k}", "text": " ".join(draw.choices(WORDS, k=draw.randint(1, 80))), "year": 2000 + k % 3} for k in range(count)]


def write_lines(path: Path, rows: list[Any]) -> Path:
    data = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def prepare(tokenizer: Path, out: Path, *words: object, status: int = 0) -> Path:
    command = ["corpus", *map(str, words), "--tokenizer", str(tokenizer), "--out", str(out)]
    assert main(command + ([] if "--workers" in words else ["--workers", "1"])) == status
    return out


def files_of(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def shards_of(folder: Path) -> dict[str, str]:
    return {name: sha for name, sha in files_of(folder).items() if name.endswith(".arrow")}


def test_each_document_is_bos_text_eos_in_the_order_of_the_input(tmp_path: Path, tokenizer: Path) -> None:
    shards = Shards.open(prepare(tokenizer, tmp_path / "out", write_lines(tmp_path / "a.jsonl", rows()), "--source", "astro"))
    reference = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer / "tokenizer.model"))
    assert [shards.id(i) for i in range(len(shards))] == [row["id"] for row in rows()]
    assert [shards.tokens(i).tolist() for i in range(len(shards))] == [[1, *reference.encode(row["text"]), 2] for row in rows()]
    assert shards.sources == ["astro"] and shards.tokenizer["encoder"] == shards.tokenizer["backend"]
    assert not (tmp_path / "out" / ".work").exists()


def test_bos_and_eos_can_be_left_out(tmp_path: Path, tokenizer: Path) -> None:
    shards = Shards.open(prepare(tokenizer, tmp_path / "out", write_lines(tmp_path / "a.jsonl", rows(3)), "--no-bos", "--no-eos"))
    assert all(not {1, 2} & set(shards.tokens(i).tolist()) for i in range(3))
    assert (shards.tokenizer["add_bos"], shards.tokenizer["add_eos"]) == (False, False)


@pytest.mark.slow
def test_workers_and_the_cut_of_the_input_into_files_change_no_byte(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_tasks, "CHUNK_BYTES", 2000)  # several chunks where tasks run in this process
    more = ["--shard-tokens", "600", "--split", "heldout=0.2"]
    one = prepare(tokenizer, tmp_path / "one", write_lines(tmp_path / "all.jsonl", rows()), *more)
    again = prepare(tokenizer, tmp_path / "again", tmp_path / "all.jsonl", *more, "--workers", 3)
    assert files_of(again) == files_of(one) and len(shards_of(one / "train")) > 3
    pieces = [write_lines(tmp_path / f"{k}.jsonl.gz", rows()[a:b]) for k, (a, b) in enumerate([(0, 7), (7, 8), (8, 60)])]
    split = prepare(tokenizer, tmp_path / "split", *pieces, *more, "--workers", 2)
    assert shards_of(split) == shards_of(one)


def test_the_held_out_documents_are_chosen_by_id_alone(tmp_path: Path, tokenizer: Path) -> None:
    def ids(folder: Path) -> set[str]:
        shards = Shards.open(folder)
        return {shards.id(i) for i in range(len(shards))}

    backwards = rows(200)[::-1]
    one = prepare(tokenizer, tmp_path / "one", write_lines(tmp_path / "a.jsonl", rows(200)), "--split", "heldout=0.1")
    other = prepare(tokenizer, tmp_path / "other", write_lines(tmp_path / "b.jsonl", backwards[:150]), "--split", "heldout=0.1")
    assert ids(one / "train") | ids(one / "heldout") == {f"p{k}" for k in range(200)}
    assert not ids(one / "train") & (ids(one / "heldout") | ids(other / "heldout"))
    assert 8 <= len(ids(one / "heldout")) <= 35


def test_splits_are_as_large_as_asked() -> None:
    counts = np.bincount([split_of(str(k), [("a", 0.1), ("b", 0.25)]) for k in range(20_000)])
    np.testing.assert_allclose(counts / 20_000, [0.65, 0.1, 0.25], atol=0.01)


def test_rows_without_an_id_are_named_by_their_text(tmp_path: Path, tokenizer: Path) -> None:
    texts = [{"text": row["text"]} for row in rows(5)]
    one = Shards.open(prepare(tokenizer, tmp_path / "one", write_lines(tmp_path / "a.jsonl", texts)))
    other = Shards.open(prepare(tokenizer, tmp_path / "other", write_lines(tmp_path / "b.jsonl", texts[::-1])))
    assert [one.id(i) for i in range(5)] == [other.id(i) for i in range(5)][::-1] and one.id(0).startswith("sha256:")


@pytest.mark.slow
def test_the_same_rows_come_from_every_kind_of_file(tmp_path: Path, tokenizer: Path) -> None:
    table = rows(20)
    write_lines(tmp_path / "a.jsonl", table)
    write_lines(tmp_path / "a.jsonl.gz", table)
    (tmp_path / "a.json").write_text(json.dumps(table))
    write_lines(tmp_path / "lines.json", table)
    pa.parquet.write_table(pa.Table.from_pylist(table), tmp_path / "a.parquet")
    pa.csv.write_csv(pa.Table.from_pylist(table), tmp_path / "a.csv")
    lines = [json.dumps({"id": row["id"], "text": row["text"], "meta": {"year": row["year"]}}) + "\n" for row in table]
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress("".join(lines).encode()))
    made = {}
    for name in ("a.jsonl", "a.jsonl.gz", "a.json", "lines.json", "a.parquet", "a.csv", "d.jsonl.gz"):
        made[name] = shards_of(prepare(tokenizer, tmp_path / f"out-{name}", tmp_path / name))
    assert all(shards == made["a.jsonl"] for shards in made.values()) and len(made) == 7


def test_a_text_file_is_one_document(tmp_path: Path, tokenizer: Path) -> None:
    (tmp_path / "texts").mkdir()
    for k in range(3):
        (tmp_path / "texts" / f"{k}.txt").write_text(f"paper {k}\n\nsecond paragraph")
    assert len(Shards.open(prepare(tokenizer, tmp_path / "out", tmp_path / "texts"))) == 3


def test_fields_are_joined_and_rows_chosen(tmp_path: Path, tokenizer: Path) -> None:
    table = [{"key": k, "title": f"title {k}", "abstract": "dark matter", "meta": {"year": 2000 + k % 2}} for k in range(6)]
    words = ["--text-field", "title", "--text-field", "abstract", "--id-field", "key", "--where", "meta.year=2001"]
    shards = Shards.open(prepare(tokenizer, tmp_path / "out", write_lines(tmp_path / "a.jsonl", table), *words))
    reference = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer / "tokenizer.model"))
    assert [shards.id(i) for i in range(len(shards))] == ["1", "3", "5"]
    assert shards.tokens(0).tolist() == [1, *reference.encode("title 1\n\ndark matter"), 2]
    assert shards.manifest["dropped"] == {"not meta.year=2001": 3} and shards.manifest["rows"] == 6


def test_rows_without_text_are_skipped_and_counted(tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = [*rows(4), {"id": "x"}, {"id": "y", "text": None}, {"id": "z", "text": " \n"}]
    shards = Shards.open(prepare(tokenizer, tmp_path / "out", write_lines(tmp_path / "a.jsonl", table)))
    assert len(shards) == 4 and shards.manifest["dropped"] == {"empty text": 1, "no field text": 1, "no text": 1}
    assert "dropped: 1 empty text, 1 no field text, 1 no text" in capsys.readouterr().out


def test_a_field_that_no_row_has_is_an_error_that_names_the_fields(
    tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(tokenizer, tmp_path / "out", write_lines(tmp_path / "a.jsonl", [{"id": "1", "abstract": "a"}]), status=1)
    assert "no document in 1 inputs (1 no field text); fields there are abstract, id; see --text-field" in capsys.readouterr().err


BAD = {
    "not JSON": b'{"id": "a", "text": "cut',
    "not UTF-8": b'{"id": "a", "text": "caf\xe9"}',
    "not a JSON object": b'["a"]',
    "the text is not a string (text is int)": b'{"id": "a", "text": 7}',
    "broken Unicode": b'{"id": "a", "text": "\\ud800"}',
}


@pytest.mark.parametrize(("reason", "line"), BAD.items(), ids=list(BAD))
def test_a_bad_row_is_counted_and_too_many_are_named_by_line(
    tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str], reason: str, line: bytes
) -> None:
    path = write_lines(tmp_path / "a.jsonl", rows(3))
    path.write_bytes(path.read_bytes() + line + b"\n" + path.read_bytes())
    prepare(tokenizer, tmp_path / "out", path, status=1)
    message = capsys.readouterr().err
    assert f"a.jsonl:4: {reason}" in message and "1 of 7 rows cannot be read; mend them, or allow more with --bad-rows" in message
    shards = Shards.open(prepare(tokenizer, tmp_path / "out", path, "--bad-rows", "0.5"))
    assert len(shards) == 6 and [name.startswith(reason) for name in shards.manifest["dropped"]] == [True]


def test_byte_ranges_of_a_file_give_each_line_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_lines(tmp_path / "a.jsonl", rows(50))
    ends = np.cumsum([len(line) for line in path.read_bytes().splitlines(keepends=True)]).tolist()
    for size in (1, 7, 100, 5000, PART_BYTES, ends[0] - 1, ends[0], ends[0] + 1, ends[20]):
        monkeypatch.setattr("data_tools.corpus.records.PART_BYTES", size)
        parts = split_inputs(find_inputs([str(path)]))
        assert [row["id"] for part in parts for _, row in read_records(part)] == [f"p{k}" for k in range(50)], size
        assert sum(part.bytes for part in parts) == path.stat().st_size
        lines = path.read_bytes().splitlines(keepends=True)
        for part in parts:
            for number, row in read_records(part):
                assert json.loads(lines[first_line_number(part) + number - 2]) == row


def test_shards_are_cut_by_where_documents_begin() -> None:
    lengths = np.array([5, 5, 5, 40, 3, 3])
    assert cut_into_shards([lengths], 10) == [[(0, 0, 2)], [(0, 2, 4)], [(0, 4, 6)]]
    for cut in range(7):
        pieces = cut_into_shards([lengths[:cut], lengths[cut:]], 10)
        documents = [[k + cut * chunk for chunk, first, last in shard for k in range(first, last)] for shard in pieces]
        assert documents == [[0, 1], [2, 3], [4, 5]]


def test_the_same_command_again_does_nothing(tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = write_lines(tmp_path / "a.jsonl", rows()), tmp_path / "out"
    before = {file: file.stat().st_mtime_ns for file in prepare(tokenizer, out, path).iterdir()}
    prepare(tokenizer, out, path, "--workers", 2)
    assert "already made from this input" in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in out.iterdir()} == before


def test_another_command_into_the_same_folder_is_refused_with_the_difference(
    tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = write_lines(tmp_path / "a.jsonl", rows()), tmp_path / "out"
    before = files_of(prepare(tokenizer, out, path))
    prepare(tokenizer, out, path, "--source", "other", status=1)
    assert 'arguments.source: "corpus" there, "other" here' in capsys.readouterr().err
    prepare(tokenizer, out, path, "--split", "heldout=0.1", status=1)
    assert "other splits" in capsys.readouterr().err
    prepare(tokenizer, out, path, "--no-eos", status=1)
    assert "tokenizer.add_eos: true there, false here" in capsys.readouterr().err
    path.write_bytes(path.read_bytes().replace(b"galaxy", b"GALAXY"))
    prepare(tokenizer, out, path, status=1)
    assert "inputs[0].sha256" in capsys.readouterr().err
    assert files_of(out) == before


def test_unfinished_work_of_another_command_is_kept_and_named(tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = write_lines(tmp_path / "a.jsonl", rows()), tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data_tools.corpus.prepare.write_manifest", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt()))
        prepare(tokenizer, out, path, status=130)
    before = files_of(out)
    prepare(tokenizer, out, path, "--text-field", "year", status=1)
    message = capsys.readouterr().err
    assert "unfinished work of another command" in message and 'arguments.text_fields[0]: "text" there, "year" here' in message
    assert {name: sha for name, sha in files_of(out).items() if not name.endswith("lock")}.items() <= before.items()
    prepare(tokenizer, out, path)
    assert "going on with unfinished work" in capsys.readouterr().err


def test_a_cut_input_copied_again_is_read_anew(tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, other = write_lines(tmp_path / "a.jsonl.gz", rows(500)), write_lines(tmp_path / "b.jsonl", rows(3))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    prepare(tokenizer, tmp_path / "out", other, path, status=1)
    assert "a.jsonl.gz: cut short or damaged" in capsys.readouterr().err
    path.write_bytes(whole)
    prepare(tokenizer, tmp_path / "out", other, path, "--source", "other", status=1)
    assert 'arguments.source: "corpus" there, "other" here' in capsys.readouterr().err
    shards = Shards.open(prepare(tokenizer, tmp_path / "out", other, path))
    assert capsys.readouterr().err.count(f"inputs changed since this work was begun ({path}): what was made of them is made anew") == 1
    assert len(shards) == 503


def test_strange_shards_are_not_deleted(tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.arrow").write_bytes(b"precious")
    for _ in range(2):
        prepare(tokenizer, tmp_path / "out", write_lines(tmp_path / "a.jsonl", rows(3)), status=1)
        assert "mine.arrow: not of an unfinished run" in capsys.readouterr().err
    assert (tmp_path / "out" / "mine.arrow").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.jsonl"], "nothing.jsonl: no such file"),
        (["a.docx"], "a.docx: unknown kind of file; readable are .jsonl"),
        (["a.jsonl", "a.jsonl"], "a.jsonl: named twice"),
        (["a.jsonl", "--where", "year"], "--where year: write FIELD=VALUE"),
        (["a.jsonl", "--split", "heldout"], "--split heldout: write NAME=SHARE"),
        (["a.jsonl", "--split", "train=0.1"], "needs a plain name other than train"),
        (["a.jsonl", "--split", "a=0.6", "--split", "b=0.6"], "leave something for train"),
        (["a.jsonl", "--split", "heldout=0.0001"], "none of 3 documents falls to heldout"),
        (["a.jsonl", "--workers", "0"], "--workers 0: at least 1 is needed"),
        (["papers"], "holds heldout and train files; name those of one side"),
        (["cut.jsonl.gz"], "cut.jsonl.gz: cut short or damaged"),
        (["cut.parquet"], "cut.parquet: cannot be read as parquet"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_users_mistake_is_one_message(
    tmp_path: Path, tokenizer: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "a.jsonl", rows(3))
    (tmp_path / "a.docx").touch()
    (tmp_path / "papers").mkdir()
    for side in ("train", "heldout"):
        write_lines(tmp_path / "papers" / f"{side}-000.jsonl.gz", rows(3))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(json.dumps(rows()).encode())[:200])
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    prepare(tokenizer, tmp_path / "out", *words, status=1)
    error = capfd.readouterr().err.strip().splitlines()
    assert message in error[-1] and error[-1].startswith("error: ") and not any("Traceback" in line for line in error)


# ---- kills, two at a time, a full disk ----


def start(tokenizer: Path, out: Path, path: Path, **more: Any) -> subprocess.Popen:
    words = ["corpus", str(path), "--tokenizer", str(tokenizer), "--out", str(out), "--split", "heldout=0.2", "--shard-tokens", "4000"]
    command = [sys.executable, "-m", "data_tools.prepare", *words, "--workers", "2"]
    return processes.start(command, **more)


def some_files(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for k in range(4):
        write_lines(tmp_path / "in" / f"{k}.jsonl", [row | {"id": f"{k}-{row['id']}"} for row in rows(150)])
    return tmp_path / "in"


def finished_tasks(out: Path) -> int:
    return len(list(out.glob(".work/*/completions/*")))


def kill_and_go_on(tmp_path: Path, tokenizer: Path, kills: int) -> None:
    path, draw = some_files(tmp_path), random.Random(kills)
    calm = start(tokenizer, tmp_path / "calm", path)
    assert calm.wait(processes.SECONDS) == 0, calm.stderr.read()
    wanted, shards = files_of(tmp_path / "calm"), len(shards_of(tmp_path / "calm"))
    for attempt in range(kills):
        out, moment = tmp_path / f"out{attempt}", draw.randrange(8 + shards)  # 4 tasks read, 4 encode, then the shards
        process = start(tokenizer, out, path)
        processes.wait_until(lambda out=out, moment=moment, process=process: finished_tasks(out) >= moment or process.poll() is not None)
        time.sleep(draw.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        assert process.wait(processes.SECONDS) != 0 or moment > 6, f"kill {attempt} came too late"
        for folder in (out / "train", out / "heldout"):
            if (folder / "manifest.json").exists():  # what looks complete is
                Shards.open(folder)
        process = start(tokenizer, out, path)
        assert process.wait(processes.SECONDS) == 0, process.stderr.read()
        assert files_of(out) == wanted, f"kill {attempt}"
        shutil.rmtree(out)


@pytest.mark.slow
def test_after_a_kill_the_same_command_makes_the_same_bytes(tmp_path: Path, tokenizer: Path) -> None:
    kill_and_go_on(tmp_path, tokenizer, kills=2)


@pytest.mark.soak
def test_after_50_kills_the_same_command_makes_the_same_bytes(tmp_path: Path, tokenizer: Path) -> None:
    kill_and_go_on(tmp_path, tokenizer, kills=50)


@pytest.mark.slow
def test_a_second_command_into_the_same_folder_is_refused_while_the_first_works(tmp_path: Path, tokenizer: Path) -> None:
    path = some_files(tmp_path)
    first = start(tokenizer, tmp_path / "out", path)
    processes.wait_until((tmp_path / "out" / ".work" / "plan.json").exists, first)
    first.send_signal(signal.SIGSTOP)
    try:
        second = start(tokenizer, tmp_path / "out", path)
        assert second.wait(60) == 1
        assert f"process {first.pid} on " in (message := second.stderr.read()) and "is writing here; wait for it" in message
    finally:
        first.send_signal(signal.SIGCONT)
    assert first.wait(60) == 0, first.stderr.read()


@pytest.mark.slow
def test_a_full_disk_is_one_message_and_the_work_goes_on_after_it(tmp_path: Path, tokenizer: Path) -> None:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a small file system can be mounted by root only")
    small = tmp_path / "small"
    small.mkdir()
    if processes.run(["mount", "-t", "tmpfs", "-o", "size=800k", "tmpfs", str(small)]).returncode != 0:
        pytest.skip("this machine does not let a test mount a small file system")
    try:
        path = some_files(tmp_path)
        process = start(tokenizer, small / "out", path)
        assert process.wait(60) == 1
        message = process.stderr.read().strip().splitlines()[-1]
        assert message.startswith("error: ") and "o space left on" in message and "make room" in message, message
        processes.run(["mount", "-o", "remount,size=50m", str(small)], check=True)
        process = start(tokenizer, small / "out", path)
        assert process.wait(60) == 0, process.stderr.read()
        Shards.open(small / "out" / "train")
    finally:
        processes.run(["umount", "-l", str(small)], check=True)


def test_an_input_changed_meanwhile_is_found(tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    path = write_lines(tmp_path / "a.jsonl", rows())

    def read_then_change(task: dict[str, Any]) -> dict[str, Any]:
        result = read_part(task)
        write_lines(path, rows()[::-1])
        return result

    read_then_change.__module__, read_then_change.__qualname__ = "data_tools.corpus.tasks", "read_part"
    monkeypatch.setattr(corpus_tasks, "read_part", read_then_change)  # stands for another process that writes the file
    prepare(tokenizer, tmp_path / "out", path, status=1)
    assert "the input changed meanwhile (" in capsys.readouterr().err and not (tmp_path / "out" / "manifest.json").exists()


# ---- the fast path ----


def long_rows(count: int) -> list[dict[str, Any]]:
    draw = random.Random(5)
    return [{"id": f"p{k}", "text": " ".join(draw.choices(WORDS, k=900))} for k in range(count)]


def test_the_fast_path_makes_the_same_tokens_and_is_told(tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gigatoken")
    path = write_lines(tmp_path / "a.jsonl", long_rows(1000))
    fast = prepare(tokenizer, tmp_path / "fast", path)
    assert "gave the ids of sentencepiece" in capsys.readouterr().err
    slow = prepare(tokenizer, tmp_path / "slow", path, "--reference")
    assert shards_of(fast) == shards_of(slow)
    assert Shards.open(fast).tokenizer["encoder"].startswith("gigatoken") and "for all of" in Shards.open(fast).tokenizer["fast_path"]
    assert Shards.open(slow).tokenizer["encoder"].startswith("sentencepiece")


def test_a_doubt_about_the_fast_path_sends_all_back_to_the_reference(
    tmp_path: Path, tokenizer: Path, monkeypatch: Any, capsys: Any
) -> None:
    pytest.importorskip("gigatoken")
    path = write_lines(tmp_path / "a.jsonl", long_rows(1000))
    (tmp_path / "wrong").mkdir()
    wrong = train(tmp_path / "wrong", [word[::-1] for word in WORDS])
    reference = corpus_tasks.load_tokenizer(str(tokenizer), False)[0]
    other = corpus_tasks.load_tokenizer(str(wrong), False)[0]
    monkeypatch.setattr(corpus_tasks, "load_tokenizer", lambda folder, fast: (reference, other if fast else reference))
    doubted = prepare(tokenizer, tmp_path / "doubted", path)
    assert "otherwise: all is encoded again by the reference" in capsys.readouterr().err
    monkeypatch.undo()
    assert shards_of(doubted) == shards_of(prepare(tokenizer, tmp_path / "slow", path, "--reference"))
    assert Shards.open(doubted).tokenizer["fast_path"].startswith("given up")


@pytest.mark.slow
def test_preparing_loads_no_torch_and_writes_nothing_outside(tmp_path: Path, tokenizer: Path) -> None:
    pa.parquet.write_table(pa.Table.from_pylist(rows(5)), tmp_path / "a.parquet")
    code = "import sys; from data_tools.prepare import main; status = main(sys.argv[1:]); sys.exit(status or 7 * ('torch' in sys.modules))"
    words = ["corpus", str(tmp_path / "a.parquet"), "--tokenizer", str(tokenizer), "--out", str(tmp_path / "out"), "--workers", "1"]
    home = tmp_path / "home"
    environment = os.environ | {"HOME": str(home), "HF_HOME": str(home / "hf"), "PYTHONPATH": str(ROOT)}
    result = processes.run([sys.executable, "-c", code, *words], cwd=tmp_path, env=environment, seconds=60)
    assert result.returncode == 0, result.stderr
    assert [path for path in home.rglob("*") if path.is_file()] == []
