"""Inputs and shards that lie elsewhere, by fsspec: in memory, and in a folder treated as remote."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from data_tools.prepare import main
from data_tools.shards.reader import Shards
from tests.data_tools.corpus.test_prepare import WORDS, files_of, rows, train, write_lines
from tests.made import processes
from tests.made.papers import make, record

SPLIT = ["--split", "heldout=0.2", "--shard-tokens", "600"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("tokenizer"), WORDS)


@pytest.fixture
def memory() -> Iterator[Any]:
    fs = fsspec.filesystem("memory")
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


def prepare(tokenizer: Path, out: object, *words: object, status: int = 0) -> None:
    assert main(["corpus", *map(str, words), "--tokenizer", str(tokenizer), "--out", str(out), "--workers", "1"]) == status


def below(fs: Any, folder: str) -> dict[str, bytes]:
    return {name.removeprefix(f"/{folder}/"): fs.cat_file(name) for name in fs.find(f"/{folder}")}


def test_a_remote_folder_in_and_a_remote_folder_out_make_the_bytes_of_local_ones(tmp_path: Path, tokenizer: Path, memory: Any) -> None:
    for name, some in (("a.jsonl.gz", rows()[:30]), ("b.jsonl", rows()[30:])):
        memory.pipe_file(f"/in/{name}", write_lines(tmp_path / name, some).read_bytes())
    memory.pipe_file("/in/README.md", b"not data")
    prepare(tokenizer, tmp_path / "local", tmp_path / "a.jsonl.gz", tmp_path / "b.jsonl", *SPLIT)
    prepare(tokenizer, "memory://out", "memory://in", *SPLIT, "--work", tmp_path / "work")
    here = {name: (tmp_path / "local" / name).read_bytes() for name in files_of(tmp_path / "local")}
    there = below(memory, "out")
    assert there.keys() == here.keys() and len(there) > 6
    assert all(there[name] == here[name] for name in here if name.endswith(".arrow"))
    for name in ("train/manifest.json", "heldout/manifest.json"):
        ours, theirs = json.loads(there[name]), json.loads(here[name])
        assert [row.pop("path") for row in ours["inputs"]] == ["memory:///in/a.jsonl.gz", "memory:///in/b.jsonl"]
        assert [row.pop("path") for row in theirs["inputs"]] == [str(tmp_path / "a.jsonl.gz"), str(tmp_path / "b.jsonl")]
        assert ours["inputs"] == theirs["inputs"] and ours["counts"] == theirs["counts"]  # with the hashes
    assert not any((tmp_path / "work").iterdir())


def test_remote_patterns_and_parquet_files_are_read(tmp_path: Path, tokenizer: Path, memory: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    pa.parquet.write_table(pa.Table.from_pylist(rows(10)), tmp_path / "a.parquet")
    memory.pipe_file("/in/a.parquet", (tmp_path / "a.parquet").read_bytes())
    memory.pipe_file("/in/b.jsonl", b"{}")
    prepare(tokenizer, tmp_path / "out", "memory://in/*.parquet")
    assert len(Shards.open(tmp_path / "out")) == 10


def test_a_file_url_is_the_local_file(tmp_path: Path, tokenizer: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", rows(5))
    prepare(tokenizer, tmp_path / "out", f"file://{path}")
    assert Shards.open(tmp_path / "out").manifest["inputs"][0]["path"] == str(path)


def test_the_record_of_a_remote_preparation_comes_along(tmp_path: Path, tokenizer: Path, memory: Any) -> None:
    raw = write_lines(tmp_path / "arxiv.json", [record(k) for k in range(6)])
    words = ["--metadata", raw, "--filters", "none", "--heldout", "0", "--out", "memory://papers", "--work", tmp_path / "work"]
    assert make(*words) == 0
    prepare(tokenizer, tmp_path / "out", "memory://papers/documents")
    [origin] = Shards.open(tmp_path / "out").manifest["provenance"]
    assert origin["inputs"][0]["path"] == str(raw) and origin["record"] == "memory:///papers/provenance.json"
    memory.rm("/papers/provenance.json")
    prepare(tokenizer, tmp_path / "other", "memory://papers/documents", status=1)


def test_the_manifests_come_behind_all_shards(
    tmp_path: Path, tokenizer: Path, memory: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    order: list[str] = []
    put = MemoryFileSystem.put_file

    def noted(self: Any, source: str, target: str, **more: Any) -> None:
        put(self, source, target, **more)
        order.append(target)
        if len(order) == 3:
            raise OSError("the line is cut")

    monkeypatch.setattr(MemoryFileSystem, "put_file", noted)
    words = [write_lines(tmp_path / "a.jsonl", rows()), *SPLIT, "--work", tmp_path / "work"]
    prepare(tokenizer, "memory://out", *words, status=1)
    assert "cannot be written (the line is cut); put that right and start the same command again" in capsys.readouterr().err
    prepare(tokenizer, "memory://out", *words)
    assert [name.rpartition("/")[2] for name in order[-2:]] == ["manifest.json"] * 2
    assert sum(name.endswith("manifest.json") for name in order) == 2
    assert len(order) == len(set(order)) + 1  # only the one that was cut is sent twice


def test_a_finished_remote_folder_is_known_again_and_another_one_refused(
    tmp_path: Path, tokenizer: Path, memory: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path, work = write_lines(tmp_path / "a.jsonl", rows(20)), ["--work", tmp_path / "work"]
    prepare(tokenizer, "memory://out", path, *work)
    before = below(memory, "out")
    (tmp_path / "work/memory-out.upload").mkdir()  # a kill came when all was there
    prepare(tokenizer, "memory://out", path, *work)
    assert "memory://out: already made" in capsys.readouterr().out and not any((tmp_path / "work").iterdir())
    prepare(tokenizer, "memory://out", path, *work, "--no-bos", status=1)
    assert "memory://out: was made otherwise (tokenizer.add_bos: true there, false here)" in capsys.readouterr().err
    prepare(tokenizer, "memory://out", path, *work, "--source", "other", status=1)
    assert "memory://out: was made otherwise (arguments.source" in capsys.readouterr().err and below(memory, "out") == before
    memory.pipe_file("/out/00000.arrow", b"short")
    prepare(tokenizer, "memory://out", path, *work, status=1)
    assert "00000.arrow is not as its manifest says; delete memory://out" in capsys.readouterr().err
    memory.rm("/out/manifest.json")
    prepare(tokenizer, "memory://out", path, *work, status=1)
    assert "not of an unfinished run of this command; name another --out, or delete it" in capsys.readouterr().err


def test_what_is_missing_is_one_message(tmp_path: Path, tokenizer: Path, memory: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_lines(tmp_path / "a.jsonl", rows(5))
    for out, words, message in (
        ("memory://out", [path], "--out memory://out: a remote folder needs --work DIR"),
        (tmp_path / "out", [path, "--work", tmp_path], "is for a remote --out"),
        (tmp_path / "out", ["memory://nothing"], "memory://nothing: no such file"),
        (tmp_path / "out", ["nosuch://bucket/a.jsonl"], "nosuch://bucket/a.jsonl: Protocol not known: nosuch"),
    ):
        prepare(tokenizer, out, *words, status=1)
        assert message in capsys.readouterr().err


def test_a_missing_package_is_named_before_any_work(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as if it were not installed
    monkeypatch.delitem(_registry, "s3", raising=False)  # nor ever used before
    path = write_lines(tmp_path / "a.jsonl", rows(5))
    prepare(tokenizer, "s3://bucket/out", path, "--work", tmp_path / "work", status=1)
    prepare(tokenizer, tmp_path / "out", "s3://bucket/a.jsonl", status=1)
    message = capsys.readouterr().err
    assert "s3://bucket/out: Install s3fs to access S3" in message and "s3://bucket/a.jsonl: Install s3fs to access S3" in message
    assert not (tmp_path / "work").exists() and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_after_a_kill_in_the_upload_the_same_command_goes_on(tmp_path: Path, tokenizer: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", rows(600))
    prepare(tokenizer, tmp_path / "calm", path, "--shard-tokens", "400")
    words = ["corpus", str(path), "--tokenizer", str(tokenizer), "--shard-tokens", "400", "--workers", "1"]
    words += ["--out", f"file://{tmp_path}/out", "--work", str(tmp_path / "work")]
    command = [sys.executable, "-m", "data_tools.prepare", *words]
    process = processes.start(command, **processes.QUIET)
    processes.wait_until(lambda: len(list((tmp_path / "out").glob("*.arrow"))) >= 20, process)
    processes.end(process)
    assert not (tmp_path / "out/manifest.json").exists()
    assert main(words) == 0
    assert files_of(tmp_path / "out") == files_of(tmp_path / "calm") and not any((tmp_path / "work").iterdir())
