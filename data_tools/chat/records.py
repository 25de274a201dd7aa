"""Chat files, folders of them and Hub data sets → records, as their authors left them.

name → `find_inputs`: files with their source, records, bytes and hash → `read_records(path, start, stop)` → dicts.
JSON is read by Python itself, not by a table reader: in one file the same field may be a text here and a list of parts there.
"""

import gzip
import hashlib
import itertools
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from data_tools.chat.tables import without_nulls
from data_tools.chat.turns import ChatError
from data_tools.files.atomic import sha256_file

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
_WRAPPED_RECORDS = {"messages", "conversations", "conversation"}  # an object with just this is a record, not a list of records


@dataclass(frozen=True)
class ChatInput:
    path: str  # a file, or hub:owner/name:split
    source: str
    records: int
    bytes: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """As a manifest lists it; `rows` there is the number of records."""
        return {"rows" if name == "records" else name: value for name, value in asdict(self).items()}


def find_inputs(names: list[str], source: str | None = None) -> list[ChatInput]:
    """Files, folders and Hub names, in the order given; `source` names them all in the shards, else their own names. Raises ChatError."""
    inputs = []
    for name in names:
        path = Path(name)
        if path.exists():
            stem = path.name if path.is_dir() else re.sub(r"\.(jsonl?|parquet)(\.gz)?$", "", path.name)
            for file in _chat_files(path):
                inputs.append(ChatInput(str(file), source or stem, _count_records(file), file.stat().st_size, sha256_file(file)))
        else:
            inputs.append(_hub_input(name, source))
    empty = [item.path for item in inputs if item.records == 0]
    if empty:
        raise ChatError(f"{empty[0]}: holds no rows; leave it out")
    return inputs


def read_records(path: str, start: int = 0, stop: int | None = None) -> Iterator[Any]:
    """Records start … stop - 1 of an input's `path`. Raises ChatError."""
    if path.startswith("hub:"):
        records = _open_hub(path.removeprefix("hub:"))
        return map(without_nulls, records.select(range(start, len(records) if stop is None else stop)))
    records = _read_parquet(Path(path)) if path.endswith(".parquet") else _read_json(Path(path))
    return itertools.islice(records, start, stop)


def _chat_files(path: Path) -> list[Path]:
    files = sorted(file for file in path.iterdir() if file.name.endswith(SUFFIXES)) if path.is_dir() else [path]
    if not files or not files[0].name.endswith(SUFFIXES):
        raise ChatError(f"{path}: chat files end in {', '.join(SUFFIXES)}; give one, a folder of them, or a Hub name (owner/name)")
    return files


def _count_records(path: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix != ".parquet":
        return sum(1 for _ in _read_json(path))
    try:
        return pq.read_metadata(path).num_rows
    except pa.ArrowInvalid as error:
        raise ChatError(f"{path}: not a whole parquet file ({error}); copy it again") from error


def _read_json(path: Path) -> Iterator[Any]:
    """A JSON array, or an object around one, or one JSON value a line whatever the file is called."""
    with gzip.open(path, "rt", encoding="utf-8-sig") if path.suffix == ".gz" else open(path, encoding="utf-8-sig") as file:
        try:
            records = None if ".jsonl" in path.suffixes else _json_array(path, file)
            if records is None:
                file.seek(0)
                records = (_json_line(path, number, line) for number, line in enumerate(file, 1) if line.strip())
            yield from records
        except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ChatError(f"{path}: not readable as UTF-8 text ({error}); save it as UTF-8, or copy it again") from error


def _json_line(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ChatError(f"{path}:{number}: not JSON ({error}); JSON lines have one object a line; was the copy cut short?") from error


def _json_array(path: Path, file: IO[str]) -> list[Any] | None:
    """The records of a JSON file: an array, an object around one array of objects, or one record; None for JSON lines."""
    text = file.read()
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if text.lstrip().startswith("{") and error.msg == "Extra data":
            return None
        raise ChatError(f"{path}: not JSON ({error}); was the copy cut short?") from error
    if isinstance(value, dict):
        inside = next(iter(value.values())) if len(value) == 1 and not set(value) & _WRAPPED_RECORDS else None
        return inside if isinstance(inside, list) and inside and isinstance(inside[0], dict) else [value]
    if not isinstance(value, list):
        raise ChatError(f"{path}: holds one {type(value).__name__}; give an array of conversations, or one JSON object a line")
    return value


def _read_parquet(path: Path) -> Iterator[Any]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1000):
            yield from map(without_nulls, batch.to_pylist())


def _hub_input(name: str, source: str | None) -> ChatInput:
    data_set, _, split = name.partition(":")
    if data_set.count("/") != 1 or data_set.startswith((".", "/", "~")) or data_set.endswith(SUFFIXES):
        raise ChatError(f"{name}: no such file; give a file, a folder, or a Hub name as owner/name or owner/name:split")
    path = f"{data_set}:{split or 'train'}"
    digest, size, count = hashlib.sha256(), 0, 0
    for record in _open_hub(path):
        line = json.dumps(record, sort_keys=True, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")
        digest.update(line)
        size, count = size + len(line), count + 1
    return ChatInput(f"hub:{path}", source or data_set.split("/")[1], count, size, digest.hexdigest())


def _open_hub(path: str) -> Any:
    import datasets

    name, split = path.split(":")
    try:
        return datasets.load_dataset(name, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise ChatError(f"{path}: the Hub gave no such data set or split ({error}); check the name, the network and your login") from error
