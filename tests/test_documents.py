"""Documents on their way between two stages."""

import gzip
from pathlib import Path

import pytest

from data_tools.documents.document import Document, DocumentError, read_documents, write_documents
from data_tools.files.atomic import sha256_file

SOME = [Document("astro-ph/9301001", "Seyfert galaxy\nNGC 6814", {"year": 1993}), Document("2", 'é 日本 " \\ \u2028 end', {})]


def test_documents_come_back_as_they_were(tmp_path: Path) -> None:
    assert write_documents(tmp_path / "a.jsonl.gz", SOME) == 2
    assert list(read_documents(tmp_path / "a.jsonl.gz")) == SOME
    assert len(gzip.open(tmp_path / "a.jsonl.gz").read().splitlines()) == 2


def test_the_same_documents_make_the_same_bytes(tmp_path: Path) -> None:
    write_documents(tmp_path / "a.jsonl.gz", SOME)
    write_documents(tmp_path / "b.jsonl.gz", iter(SOME))
    assert sha256_file(tmp_path / "a.jsonl.gz") == sha256_file(tmp_path / "b.jsonl.gz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl.gz", "b.jsonl.gz"]


def test_a_failure_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    write_documents(tmp_path / "a.jsonl.gz", SOME)
    with pytest.raises(ZeroDivisionError):
        write_documents(tmp_path / "a.jsonl.gz", (Document(str(1 // (1 - k)), "", {}) for k in range(3)))
    assert list(read_documents(tmp_path / "a.jsonl.gz")) == SOME


@pytest.mark.parametrize("line", ['{"id": "a"}', "cut {", "[1]"])
def test_a_line_that_is_no_document_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((SOME[0].to_line() + line + "\n").encode()))
    with pytest.raises(DocumentError, match="a.jsonl.gz:2: not a document"):
        list(read_documents(tmp_path / "a.jsonl.gz"))
