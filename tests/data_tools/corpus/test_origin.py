"""From the raw metadata file to the shards: one record, and no documents that do not fit it."""

import gzip
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from data_tools.prepare import main as prepare
from data_tools.shards.reader import Shards
from data_tools.show import main as show
from tests.data_tools.corpus.test_prepare import WORDS, train
from tests.made.papers import make, paper, record, write_lines


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("tokenizer"), WORDS)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    rows = [record(k) for k in range(12)]
    sources = folder / "latex"
    sources.mkdir()
    (sources / f"{rows[0]['id']}.tex").write_bytes(paper(0))
    words = ["--metadata", write_lines(folder / "arxiv.json", rows), "--latex", sources, "--heldout", "0.3", "--filters", "none"]
    assert make(*words, "--out", folder / "papers") == 0
    return folder


@pytest.fixture
def papers(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made / "papers", tmp_path / "papers")


def corpus(tokenizer: Path, out: Path, *inputs: object, status: int = 0) -> dict[str, Any]:
    words = ["corpus", *map(str, inputs), "--tokenizer", str(tokenizer), "--out", str(out), "--workers", "1"]
    assert prepare(words) == status
    return Shards.open(out).manifest if status == 0 else {}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_shards_name_the_raw_files_with_their_hashes(made: Path, tokenizer: Path, tmp_path: Path) -> None:
    papers = made / "papers"
    manifest = corpus(tokenizer, tmp_path / "out", papers / "documents")
    [origin] = manifest["provenance"]
    source = next((made / "latex").iterdir())
    raw = {row["path"]: (row["bytes"], row["sha256"]) for row in origin["inputs"]}
    assert raw == {str(path): (path.stat().st_size, sha256(path)) for path in (made / "arxiv.json", source)}
    assert (origin["record"], origin["sha256"]) == (str(papers / "provenance.json"), sha256(papers / "provenance.json"))
    assert origin["documents"] == [row["path"] for row in manifest["inputs"]] and len(origin["documents"]) == 2
    assert all(row["sha256"] == sha256(Path(row["path"])) for row in manifest["inputs"])
    assert origin["counts"]["read"] == 12 and origin["counts"]["train"] == manifest["counts"]["documents"] > 0
    assert origin["arguments"]["heldout"] == 0.3 and origin["versions"].keys() >= {"numpy"} and len(origin["code"]) == 16


def test_the_same_documents_make_the_same_manifest_wherever_the_shards_lie(papers: Path, tokenizer: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        corpus(tokenizer, tmp_path / name, papers / "documents")
    assert (tmp_path / "one/manifest.json").read_bytes() == (tmp_path / "two/manifest.json").read_bytes()


def test_a_record_is_found_from_within_the_folder_and_beside_the_file(
    papers: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = min((papers / "documents").iterdir())
    monkeypatch.chdir(papers / "documents")
    assert corpus(tokenizer, tmp_path / "one", file.name)["provenance"][0]["record"] == "../provenance.json"
    shutil.copy(papers / "provenance.json", "provenance.json")
    assert corpus(tokenizer, tmp_path / "two", file.name)["provenance"][0]["record"] == "provenance.json"


def test_two_preparations_in_one_corpus_are_two_records(made: Path, papers: Path, tokenizer: Path, tmp_path: Path) -> None:
    other = write_lines(tmp_path / "other.json", [record(k) for k in range(50, 54)])
    assert make("--metadata", other, "--filters", "none", "--heldout", "0", "--out", tmp_path / "others") == 0
    plain = write_lines(tmp_path / "plain.jsonl", [{"id": "x", "text": "a black hole"}])
    manifest = corpus(tokenizer, tmp_path / "out", papers / "documents", tmp_path / "others/documents", plain)
    assert [Path(origin["inputs"][0]["path"]).name for origin in manifest["provenance"]] == ["arxiv.json", "other.json"]
    assert str(plain) not in sum((origin["documents"] for origin in manifest["provenance"]), [])
    assert "provenance" not in corpus(tokenizer, tmp_path / "plain", plain)


@pytest.mark.parametrize("longer", [False, True])
def test_a_changed_document_file_is_refused(
    papers: Path, tokenizer: Path, tmp_path: Path, longer: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    file = max((papers / "documents").iterdir())
    right, lines = sha256(file), gzip.decompress(file.read_bytes())
    file.write_bytes(gzip.compress(lines + b'{"id": "x", "text": "y"}\n' if longer else lines.replace(b"halo", b"HALO")))
    corpus(tokenizer, tmp_path / "out", papers / "documents", status=1)
    message = capsys.readouterr().err
    assert f"{file}: sha256 {sha256(file)[:16]}" in message and f"{papers}/provenance.json lists {right[:16]}" in message
    assert "copy it again, or run that prepare arxiv again" in message and not (tmp_path / "out").exists()


def test_an_unfinished_folder_is_refused(papers: Path, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (papers / "provenance.json").unlink()
    corpus(tokenizer, tmp_path / "out", papers / "documents/train-*.jsonl.gz", status=1)
    assert f"there is no {papers}/provenance.json" in (message := capsys.readouterr().err) and "has not finished there; run that" in message


def test_a_file_put_among_the_documents_is_refused(
    papers: Path, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = write_lines(papers / "documents" / "mine.jsonl", [{"id": "x", "text": "a black hole"}])
    corpus(tokenizer, tmp_path / "out", papers / "documents", status=1)
    assert f"{extra}: {papers}/provenance.json does not list this file; move it" in capsys.readouterr().err


@pytest.mark.parametrize(("data", "message"), [(b"{", "not JSON"), (b'{"kind": "documents", "format_version": 7}', "format_version 7")])
def test_a_record_that_cannot_be_read_is_one_message(
    papers: Path, tokenizer: Path, tmp_path: Path, data: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (papers / "provenance.json").write_bytes(data)
    corpus(tokenizer, tmp_path / "out", papers / "documents", status=1)
    assert f"{papers}/provenance.json: {message}" in capsys.readouterr().err


def test_the_record_of_another_program_is_none_of_ours(tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "provenance.json").write_text(json.dumps({"tool": "theirs"}))
    plain = write_lines(tmp_path / "plain.jsonl", [{"id": "x", "text": "a black hole"}])
    assert "provenance" not in corpus(tokenizer, tmp_path / "out", plain)


def test_show_tells_in_one_line_where_the_text_comes_from(
    made: Path, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus(tokenizer, tmp_path / "out", made / "papers/documents")
    capsys.readouterr()
    assert show([str(tmp_path / "out")]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("origin ")]
    raw = f"{made}/arxiv.json (sha256 {sha256(made / 'arxiv.json')[:16]}…) and 1 more; all in {made}/papers/provenance.json"
    assert line == f"origin      prepare arxiv kept 12 of 12 records of {raw}"
