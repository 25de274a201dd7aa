"""Every kind of file in every compression, as people have them: read as written, empty parts passed over, damage told."""

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from data_tools.corpus.document import Rule, is_so, to_document
from data_tools.corpus.file_readers import InputError
from data_tools.corpus.records import find_inputs, read_records, split_inputs
from data_tools.shards.reader import Shards
from tests.data_tools.corpus.test_prepare import WORDS, prepare, train


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("tokenizer"), WORDS)


def zst(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes, ".gz": gzip.compress, ".zst": zst, ".bz2": bz2.compress, ".xz": lzma.compress, ".GZ": gzip.compress, ".ZST": zst,
}  # fmt: skip
ROWS = [{"id": "0704.0010", "text": "dark matter, 1"}, {"id": "001", "text": "null"}, {"id": "1e3", "text": 'é "x"\nline'}]


def table(delimiter: str) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, ["id", "text"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return out.getvalue().encode()


KINDS: dict[str, bytes] = {
    ".jsonl": "".join(json.dumps(row) + "\n" for row in ROWS).encode(),
    ".ndjson": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode(),
    ".json": json.dumps(ROWS, indent=1).encode(),
    ".JSON": "".join(json.dumps(row) + "\n" for row in ROWS).encode(),
    ".csv": table(","),
    ".tsv": table("\t"),
}


def records(*words: object) -> list[Any]:
    return [record for part in split_inputs(find_inputs([str(word) for word in words])) for _, record in read_records(part, ("id",))]


@pytest.mark.parametrize("packed", PACKERS)
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8], ids=["plain", "BOM"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_rows_come_from_every_kind_in_every_compression(tmp_path: Path, kind: str, mark: bytes, packed: str) -> None:
    path = tmp_path / f"a{kind}{packed}"
    path.write_bytes(PACKERS[packed](mark + KINDS[kind]))
    assert records(path) == ROWS


@pytest.mark.parametrize("packed", PACKERS)
def test_texts_lose_the_mark_of_their_encoding(tmp_path: Path, packed: str) -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / f"a.txt{packed}").write_bytes(PACKERS[packed]("é star\n".encode(encoding)))
        assert records(tmp_path / f"a.txt{packed}") == [{"text": "é star\n"}]


def test_arrow_and_parquet_are_read_row_by_row(tmp_path: Path) -> None:
    data = pa.Table.from_pylist(ROWS)
    pa.parquet.write_table(data, tmp_path / "a.parquet")
    with pa.ipc.new_file(tmp_path / "file.arrow", data.schema) as writer:
        writer.write_table(data)
    with pa.ipc.new_stream(tmp_path / "stream.arrow", data.schema) as writer:
        writer.write_table(data)
    assert records(tmp_path / "a.parquet") == records(tmp_path / "file.arrow") == records(tmp_path / "stream.arrow") == ROWS


@pytest.mark.parametrize(
    "shape",
    [
        {"data": ROWS, "version": 1},
        {"records": ROWS},
        {row["id"]: {"text": row["text"]} for row in ROWS},
        {"id": [row["id"] for row in ROWS], "text": [row["text"] for row in ROWS]},
        {key: {str(k): row[key] for k, row in enumerate(ROWS)} for key in ("id", "text")},
        [ROWS[0], ROWS[1], ROWS[2]],
    ],
    ids=["data", "records", "by id", "columns", "pandas", "array"],
)
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["a.json", "a.json.zst", "a.jsonl"])
def test_json_as_a_whole_has_its_records_found(tmp_path: Path, shape: Any, indent: int | None, name: str) -> None:
    data = json.dumps(shape, indent=indent).encode()
    (tmp_path / name).write_bytes(zst(data) if name.endswith(".zst") else data)
    assert records(tmp_path / name) == ROWS


def test_one_object_over_several_lines_and_texts_in_an_array_are_records(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(ROWS[0], indent=2))
    (tmp_path / "b.json").write_text("\n".join(json.dumps(row, indent=2) for row in ROWS))
    (tmp_path / "c.json").write_text('["one", "two"]')
    assert records(tmp_path / "a.json") == ROWS[:1] and records(tmp_path / "b.json") == ROWS
    assert records(tmp_path / "c.json") == [{"text": "one"}, {"text": "two"}]


@pytest.mark.parametrize("written", ["704.0010", "1501.00010", "7.0", "1E5", "12", "123456789012345678901234567890", "0.10"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz"])
def test_ids_that_are_numbers_stay_as_they_are_written(tmp_path: Path, written: str, name: str) -> None:
    line = f'{{"id": {written}, "text": "x", "score": 0.5}}\n'.encode()
    data = b"[" + line + b"]" if name == "a.json" else line
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    [record] = records(tmp_path / name)
    assert to_document(record, Rule((), ("text",), "id", ())).id == written


def test_a_number_is_still_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": 1.0, "text": 1.5}\n')
    [record] = records(tmp_path / "a.jsonl")
    assert "the text is not a string" in to_document(record, Rule((), ("text",), "id", ()))


@pytest.mark.parametrize(
    ("value", "wanted", "so"),
    [
        (True, "true", True), (True, "True", True), ("true", "true", True), ("TRUE", "true", True), ("True", "true", True),
        (False, "false", True), (True, "false", False), (True, "1", False), (1, "true", False), ("yes", "true", False),
        (None, "null", True), (None, "None", True), (None, "", True), ("", "null", True), ("", "", True), (None, "0", False), ("x", "null", False),
        (2001, "2001", True), (2001.0, "2001", True), (2001, "2001.0", True), ("2001", "2001", True), ("2001.0", "2001", True),
        (1000, "1e3", True), (0.5, ".5", True), (1, "1.5", False), (1, "x", False),
        ("001", "1", False), ("001", "001", True), ("1.10", "1.1", False), ("0704.0010", "0704.001", False), ("NA", "null", False),
        ("keep", "keep", True), ("Keep", "keep", False), ([1], "[1]", True),
    ],
)  # fmt: skip
def test_where_compares_by_text_and_knows_truth_nothing_and_numbers_however_written(value: Any, wanted: str, so: bool) -> None:
    assert is_so(value, wanted) == so


def test_where_takes_the_same_rows_of_json_and_csv(tmp_path: Path) -> None:
    rows = [{"id": str(k), "text": "x", "keep": k % 2 == 0, "year": 2000 + k, "note": None if k == 4 else "n"} for k in range(6)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "a.csv").write_text(
        "id,text,keep,year,note\n" + "".join(f"{r['id']},x,{r['keep']},{r['year']},{r['note'] or ''}\n" for r in rows)
    )
    pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.csv", "a.parquet"):
        for where, ids in ((("keep", "true"), "024"), (("keep", "False"), "135"), (("year", "2003"), "3"), (("note", "null"), "4")):
            rule = Rule((where,), ("text",), "id", ())
            documents = [to_document(record, rule) for record in records(tmp_path / name)]
            assert "".join(d.id for d in documents if not isinstance(d, str)) == ids, (name, where)


@pytest.mark.parametrize(
    "name",
    ["a[1].jsonl", "a[b]/x.csv", "a::b.parquet", "a*b.json", "a#1.txt", "a b/c d.jsonl.gz", "a?.tsv", "é.arrow", "a%20b.jsonl", "[x]"],
)
def test_signs_in_a_path_mean_themselves_where_it_exists(tmp_path: Path, tokenizer: Path, name: str) -> None:
    kind = Path(name.removesuffix(".gz")).suffix or ".jsonl"
    path = tmp_path / name if Path(name).suffix else tmp_path / name / "a.jsonl"
    path.parent.mkdir(exist_ok=True)
    rows = [{"id": "1", "text": "dark matter"}]
    data = {
        ".txt": b"dark matter",
        ".csv": b"id,text\n1,dark matter\n",
        ".tsv": b"id\ttext\n1\tdark matter\n",
        ".json": json.dumps(rows).encode(),
    }
    if kind == ".parquet":
        pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    elif kind == ".arrow":
        with pa.ipc.new_file(path, pa.Table.from_pylist(rows).schema) as writer:
            writer.write_table(pa.Table.from_pylist(rows))
    else:
        plain = data.get(kind, json.dumps(rows[0]).encode())
        path.write_bytes(gzip.compress(plain) if name.endswith(".gz") else plain)
    shards = Shards.open(prepare(tokenizer, tmp_path / "out", tmp_path / name))
    assert len(shards) == 1 and shards.manifest["inputs"][0]["path"] == str(path)
    prepare(tokenizer, tmp_path / "out", tmp_path / name)


@pytest.mark.parametrize("out", ["o[1]", "o::x", "o #*"])
def test_signs_in_the_output_s_path_mean_themselves(tmp_path: Path, tokenizer: Path, out: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "dark matter"}\n')
    assert len(Shards.open(prepare(tokenizer, tmp_path / out, tmp_path / "a.jsonl"))) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["a.jsonl", out])


def test_a_pattern_below_a_folder_with_brackets_is_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "data[1]").mkdir()
    for k in range(3):
        (tmp_path / "data[1]" / f"p{k}.jsonl").write_text(f'{{"id": "{k}"}}\n')
    assert [record["id"] for record in records(tmp_path / "data[1]" / "p[01].jsonl")] == ["0", "1"]
    assert [record["id"] for record in records(tmp_path / "*" / "*.jsonl")] == ["0", "1", "2"]


def empty_parts(folder: Path) -> None:
    """A folder as Spark leaves it, and as people do: empty parts of every kind beside full ones."""
    folder.mkdir()
    pa.parquet.write_table(pa.Table.from_pylist(ROWS), folder / "part-0.parquet")
    pa.parquet.write_table(pa.Table.from_pylist(ROWS).slice(0, 0), folder / "part-1.parquet")
    for name in (
        "a.csv",
        "a.tsv",
        "a.json",
        "a.jsonl",
        "zero.parquet",
        "a.arrow",
        "a.jsonl.gz",
        "a.json.zst",
        "a.csv.xz",
        "_SUCCESS",
        ".part-0.parquet.crc",
    ):
        (folder / name).touch()
    (folder / "head.csv").write_text("id,text\n")
    (folder / "none.json").write_text("[]")
    (folder / "blank.jsonl").write_text("\n \n")
    (folder / "gz.jsonl.gz").write_bytes(gzip.compress(b""))
    (folder / "zst.jsonl.zst").write_bytes(zst(b""))
    (folder / ".hidden.jsonl").write_text("not JSON")
    for hidden in (".ipynb_checkpoints", "_temporary", "_delta_log"):
        (folder / hidden).mkdir()
        (folder / hidden / "x.json").write_text('{"text": "not data"}\n')


def test_empty_parts_and_what_is_no_data_stop_nothing(tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty_parts(tmp_path / "spark.parquet")
    shards = Shards.open(prepare(tokenizer, tmp_path / "out", tmp_path / "spark.parquet"))
    assert [shards.id(k) for k in range(len(shards))] == [row["id"] for row in ROWS]
    assert "without a row: 15 of 16 inputs (" in capsys.readouterr().err
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "a.jsonl").write_text('{"id": "1"}\n')
    assert records(tmp_path / ".hidden") == [{"id": "1"}]  # it was named


def test_nothing_but_empty_parts_is_told(tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jsonl").touch()
    (tmp_path / "b.csv").write_text("id,text\n")
    prepare(tokenizer, tmp_path / "out", tmp_path / "a.jsonl", tmp_path / "b.csv", status=1)
    assert "no document in 2 inputs (no rows); is it the right file, and whole?" in capsys.readouterr().err
    (tmp_path / "c.jsonl").write_text('{"text": "x", "keep": true}\n')
    prepare(tokenizer, tmp_path / "out", tmp_path / "c.jsonl", "--where", "keep=no", status=1)
    assert "(1 not keep=no); --where let nothing through; fields there are keep, text" in capsys.readouterr().err


@pytest.mark.parametrize("packed", [name for name in PACKERS if name])
@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv", ".txt"])
def test_a_cut_or_foreign_archive_is_told_with_its_name(tmp_path: Path, kind: str, packed: str) -> None:
    path = tmp_path / f"a{kind}{packed}"
    data = PACKERS[packed](KINDS.get(kind, b"text ") * 500)
    for damaged in (data[: len(data) // 2], data[:-1], b"<html>not found</html>"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"cut short or damaged \(.+\); copy it again"):
            records(path)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "a.csv",
            b'id,text\n1,"never closed\n2,x\n',
            r"a.csv:2: a quotation mark opens a cell that does not end .* .unexpected end of data.$",
        ),
        ("a.csv", b'id,text\n1,"Oumuamua\n2,x\n3,"Oumuamua again\n', r"a.csv:2: a quotation mark opens a cell that does not end"),
        ("a.csv", b"id,id\n1,2\n", "a.csv:1: two columns are called 'id'"),
        ("a.json", b'[{"id": 1}, {"id": 2', "a.json: not JSON at character .* after record 1"),
        ("a.json", b'[{"id": 1},', "a.json: the array that should end .* cut short, after record 1"),
        ("a.jsonl", '{"id": 1}\n'.encode("utf-16"), "a.jsonl: is UTF-16; write it as UTF-8"),
        ("a.parquet", b"PAR1 and nothing", "a.parquet: cannot be read as parquet after row 0"),
    ],
)
def test_a_damaged_file_is_told_with_the_place(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message):
        records(tmp_path / name)


def test_a_row_with_too_many_cells_is_bad_and_one_with_too_few_has_none(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,text\n1,a\n2,a,b\n3\n\n4,"x"y\n5,"two\nlines"\n')
    found = [pair for part in split_inputs(find_inputs([str(tmp_path / "a.csv")])) for pair in read_records(part)]
    assert (
        found[0] == (2, {"id": "1", "text": "a"})
        and found[2] == (4, {"id": "3", "text": None})
        and found[4] == (7, {"id": "5", "text": "two\nlines"})
    )
    assert found[1] == (3, "not a row of the table (3 cells under 2 names)") and found[3][1].startswith("not a row of the table (")


def test_rows_of_a_table_that_are_not_utf8_are_bad_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"id,text\n" + b"1,plain\n" * 3000 + b"2,caf\xe9\n" + b"3,plain\n" * 3000)
    found = records(tmp_path / "a.csv")
    assert len(found) == 6001 and [row for row in found if isinstance(row, str)] == ["not UTF-8"]


def test_marks_in_a_table_with_tabs_are_quotes_only_where_they_stand_as_such(tmp_path: Path) -> None:
    rows = [
        '1\t"Oumuamua is odd',
        "2\tplain",
        '3\t"Hot" Jupiters',
        '4\tends with a "quote"',
        '5\t"quoted, with ""marks"" and\na line"',
        '6\t"',
        "7\tlast",
    ]
    (tmp_path / "a.tsv").write_text("id\ttext\n" + "\n".join(rows) + "\n")
    found = [pair for part in split_inputs(find_inputs([str(tmp_path / "a.tsv")])) for pair in read_records(part)]
    texts = ['"Oumuamua is odd', "plain", '"Hot" Jupiters', 'ends with a "quote"', 'quoted, with "marks" and\na line', '"', "last"]
    assert [record["text"] for _, record in found] == texts and [number for number, _ in found] == [2, 3, 4, 5, 6, 8, 9]
