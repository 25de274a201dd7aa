"""Records of one file of each kind: (number, record), or (number, why it is none).

Text columns stay text: an id 0704.0010 of a table is not the number 704.001, `NA` is a word, `001` is not 1.
"""

import codecs
import csv
import io
import json
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

from data_tools.corpus.document import field
from data_tools.files.json_values import JsonError, Written, read_whole
from data_tools.files.packed import open_packed

Numbered = tuple[int, dict[str, Any] | str]  # from 1 on within the part; the record, or why it is none
BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
BATCH_ROWS = 1000


class InputError(ValueError):
    """An input that cannot be read; says which, where in it, and what would be readable."""


@dataclass(frozen=True)
class Part:
    """What one task reads of an input: the lines that begin in bytes start … end - 1, or one shard of so many of a Hub set, or all."""

    path: str
    reader: str
    bytes: int
    start: int | None = None
    end: int | None = None
    shard: int | None = None
    shards: int | None = None

    def is_first(self) -> bool:
        return not self.start and not self.shard

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


def read_lines(part: Part, as_written: tuple[str, ...]) -> Iterator[Numbered]:
    """JSON lines, line by line, so that a bad one is named."""
    start, end = part.start or 0, part.end
    with open_packed(part.path) as file:
        position = start
        if start:  # the line that runs over the edge belongs to the part before
            file.seek(start - 1)
            position += len(file.readline()) - 1
        for number, line in enumerate(file, 1):
            if end is not None and position >= end:
                return
            position += len(line)
            if number == 1 and not start:
                _refuse_utf16(part.path, line)
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.strip():
                continue
            try:
                record = _parse(line, as_written)
                yield number, record if isinstance(record, dict) else "not a JSON object"
            except UnicodeDecodeError:
                yield number, "not UTF-8"
            except (ValueError, RecursionError):
                yield number, "not JSON"


def _refuse_utf16(path: str, start: bytes) -> None:
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(f"{path}: is UTF-16; write it as UTF-8, for instance by iconv -f UTF-16 -t UTF-8")


def _parse(line: bytes, as_written: tuple[str, ...]) -> Any:
    try:
        import orjson  # three times as fast, and stricter: what it refuses, json decides

        record = orjson.loads(line)
    except (ImportError, ValueError):
        return json.loads(line, parse_float=Written)
    if isinstance(record, dict) and any(isinstance(field(record, name), float) for name in as_written):
        return json.loads(line, parse_float=Written)
    return record


def read_json(part: Part, _: tuple[str, ...]) -> Iterator[Numbered]:
    """A file that is JSON as a whole; a plain text in an array is a record with a text."""
    number = 0
    with open_packed(part.path) as file:
        try:
            for number, record in enumerate(read_whole(file), 1):
                record = {"text": record} if isinstance(record, str) else record
                yield number, record if isinstance(record, dict) else "not a JSON object"
        except JsonError as error:
            raise InputError(f"{part.path}: {error}, after record {number}; mend it, or copy it again") from error


def read_text(part: Part, _: tuple[str, ...]) -> Iterator[Numbered]:
    """A text is one record; the mark of its encoding is no part of it."""
    with open_packed(part.path) as file:
        data = file.read()
    encoding = next((name for mark, name in BOMS if data.startswith(mark)), "utf-8")
    yield 1, {"text": data.decode(encoding).replace("\r\n", "\n") if encoding == "utf-16" else data.decode(encoding)}


def read_csv(part: Part, _: tuple[str, ...]) -> Iterator[Numbered]:
    return _read_table(part, ",")


def read_tsv(part: Part, _: tuple[str, ...]) -> Iterator[Numbered]:
    return _read_table(part, "\t")


def _read_table(part: Part, delimiter: str) -> Iterator[Numbered]:
    """Rows under their header, every cell the text that stands there. The number is that of the row's first line."""
    csv.field_size_limit(2**31 - 1)
    with open_packed(part.path) as file:
        lines = _Lines(_as_text(file))
        rows = csv.reader(lines, delimiter=delimiter, strict=True)
        header: list[str] | None = None
        while True:
            number = lines.begin_row()
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                if delimiter == "," and len(lines.taken) > 1:  # what it has run over cannot be counted as rows
                    raise InputError(f"{part.path}:{number}: {QUOTES} ({error})") from error
                row = lines.first_as_written() if delimiter == "\t" else str(error)
            if delimiter == "\t" and len(lines.taken) > 1 and any("\t" in cell and "\n" in cell for cell in row):
                row = lines.first_as_written()  # two rows, and in each a cell that begins or ends with a quotation mark
            if isinstance(row, str):
                yield number, f"not a row of the table ({row})"
            elif not row:
                continue
            elif header is None:
                header = _header(part.path, row)
            elif len(row) > len(header):
                yield number, f"not a row of the table ({len(row)} cells under {len(header)} names)"
            elif not _is_utf8(row):
                yield number, "not UTF-8"
            else:
                yield number, dict(zip(header, row + [None] * (len(header) - len(row))))


QUOTES = "a quotation mark opens a cell that does not end as cells do; close it, or double the marks in a quoted cell"


class _Lines:
    """Lines of a table for csv, which can be taken back where they were no quoted cell."""

    def __init__(self, file: io.TextIOBase) -> None:
        self.file, self.waiting, self.number = file, deque[str](), 0
        self.taken: list[str] = []

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self.waiting.popleft() if self.waiting else next(self.file)
        self.taken.append(line)
        return line

    def begin_row(self) -> int:
        """The number of its first line."""
        self.number += len(self.taken)
        self.taken = []
        return self.number + 1

    def first_as_written(self) -> list[str]:
        """Cells of the row's first line, in which marks mean nothing: tables with tabs have no quoting by rights; the other lines wait again."""
        self.waiting.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]
        return self.taken[0].rstrip("\r\n").split("\t")


def _is_utf8(row: list[str]) -> bool:
    try:
        "".join(row).encode()
    except UnicodeEncodeError:
        return False
    return True


def _as_text(file: BinaryIO) -> io.TextIOBase:
    head = file.peek(4) if hasattr(file, "peek") else b""
    encoding = next((name for mark, name in BOMS if head.startswith(mark)), "utf-8-sig")
    # bytes that are not UTF-8 are let through as marks, so that only their own rows are lost
    return io.TextIOWrapper(file, encoding=encoding, errors="strict" if encoding == "utf-16" else "surrogateescape", newline="")


def _header(path: str, names: list[str]) -> list[str]:
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"{path}:1: two columns are called {twice[0]!r}; give each a name of its own")
    return names


def read_parquet(part: Part, _: tuple[str, ...]) -> Iterator[Numbered]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    yield from _read_arrow(part, pq.ParquetFile, lambda file: file.iter_batches(BATCH_ROWS), pa.ArrowException)


def read_arrow(part: Part, _: tuple[str, ...]) -> Iterator[Numbered]:
    """Arrow's stream or file format."""
    import pyarrow as pa

    def opened(file: Any) -> Any:
        try:
            return pa.ipc.open_stream(file)
        except pa.ArrowInvalid:
            file.seek(0)
            reader = pa.ipc.open_file(file)
            return (reader.get_batch(k) for k in range(reader.num_record_batches))

    yield from _read_arrow(
        part,
        opened,
        lambda batches: (batch.slice(k, BATCH_ROWS) for batch in batches for k in range(0, len(batch), BATCH_ROWS)),
        pa.ArrowException,
    )


def _read_arrow(part: Part, opened: Callable[[Any], Any], batches: Callable[[Any], Any], errors: type[Exception]) -> Iterator[Numbered]:
    number = 0
    with open_packed(part.path) as file:
        try:
            for batch in batches(opened(file if file.seekable() else io.BytesIO(file.read()))):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
        except (errors, OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise InputError(f"{part.path}: cannot be read as {part.reader} after row {number} ({error}); copy it again") from error


READ: dict[str, Callable[[Part, tuple[str, ...]], Iterator[Numbered]]] = {
    "lines": read_lines,
    "json": read_json,
    "text": read_text,
    "csv": read_csv,
    "tsv": read_tsv,
    "parquet": read_parquet,
    "arrow": read_arrow,
}
