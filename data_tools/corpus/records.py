"""Records of any input: JSON lines by line (so that a bad one is named), everything else through `datasets`, streamed.

words of the command → `find_inputs` → inputs → `split_inputs` → parts that one task reads → `read_records` → (number, record or reason)
"""

import glob
import gzip
import json
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

READERS = {".jsonl": "lines", ".ndjson": "lines", ".json": "json", ".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".tsv": "csv"}
READERS |= {".txt": "text", ".text": "text"}
COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
PART_BYTES = 64 * 2**20
Numbered = tuple[int, dict[str, Any] | str]  # from 1 on within the part; the record, or why it is none


class InputError(ValueError):
    """An input that cannot be read; says which, where in it, and what would be readable."""


@dataclass(frozen=True)
class Input:
    path: str  # a file, a URL, or the name of a Hub set
    reader: str  # a value of READERS, or "hub"
    bytes: int  # 0 for a Hub set


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


def find_inputs(words: list[str]) -> list[Input]:
    """Files, folders, patterns, URLs and Hub names, in the order given, a folder's by name. Raises InputError."""
    inputs: list[Input] = []
    for word in words:
        path = Path(word)
        if "://" in word:
            import fsspec

            filesystem, inner = fsspec.core.url_to_fs(word)
            inputs.append(Input(word, _reader(word), int(filesystem.size(inner))))
        elif path.is_dir():
            inputs += [_local(file) for file in _files_of(path)]
        elif path.exists():
            inputs.append(_local(path))
        elif found := sorted(glob.glob(word, recursive=True)):
            inputs += [_local(Path(file)) for file in found]
        elif _looks_like_hub(word):
            inputs.append(Input(word, "hub", 0))
        else:
            raise InputError(f"{word}: no such file; give files, a folder, a quoted pattern, a URL, or a Hub name like owner/name:split")
    seen: set[str] = set()
    for input in inputs:
        if input.path in seen:
            raise InputError(f"{input.path}: named twice; its documents would stand twice in the shards")
        seen.add(input.path)
    return inputs


def split_inputs(inputs: list[Input]) -> list[Part]:
    """Parts to read by one task each: byte ranges of plain JSON lines, files of a Hub set, else the whole file."""
    parts: list[Part] = []
    for input in inputs:
        if input.reader == "lines" and not input.path.endswith(COMPRESSED) and "://" not in input.path:
            starts = range(0, max(1, input.bytes), PART_BYTES)
            edges = [(start, min(start + PART_BYTES, input.bytes)) for start in starts]
            parts += [Part(input.path, input.reader, end - start, start=start, end=end) for start, end in edges]
        elif input.reader == "hub":
            with tempfile.TemporaryDirectory() as cache:
                count = _hub(input.path, cache).num_shards
            parts += [Part(input.path, input.reader, input.bytes, shard=shard, shards=count) for shard in range(count)]
        else:
            parts.append(Part(input.path, input.reader, input.bytes))
    return parts


def read_records(part: Part) -> Iterator[Numbered]:
    """Raises InputError when the file itself is damaged; a damaged line is a record with its reason."""
    try:
        if part.reader == "lines":
            yield from _read_lines(part)
        elif part.reader == "text":
            with _open(part.path) as file:
                yield 1, {"text": file.read().decode()}
        else:
            yield from _read_datasets(part)
    except UnicodeDecodeError as error:
        yield 1, f"not UTF-8 ({error.reason})"
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{part.path}: cut short or damaged ({error}); copy it again") from error


def first_line_number(part: Part) -> int:
    """Number of the line in its file with which this part of JSON lines begins."""
    if not part.start:
        return 1
    lines, left, last = 1, part.start, b""
    with open(part.path, "rb") as file:
        while left and (block := file.read(min(left, 2**24))):
            lines, left, last = lines + block.count(b"\n"), left - len(block), block[-1:]
    return lines if last == b"\n" else lines + 1


def _read_lines(part: Part) -> Iterator[Numbered]:
    start, end = part.start or 0, part.end
    with _open(part.path) as file:
        position = start
        if start:  # the line that runs over the edge belongs to the part before
            file.seek(start - 1)
            position += len(file.readline()) - 1
        for number, line in enumerate(file, 1):
            if end is not None and position >= end:
                return
            position += len(line)
            if line.isspace():
                continue
            try:
                record = _parse(line)
                yield number, record if isinstance(record, dict) else "not a JSON object"
            except UnicodeDecodeError:
                yield number, "not UTF-8"
            except (ValueError, RecursionError):
                yield number, "not JSON"


def _parse(line: bytes) -> Any:
    try:
        import orjson  # three times as fast, and stricter: what it refuses, json decides

        return orjson.loads(line)
    except (ImportError, ValueError):
        return json.loads(line)


def _read_datasets(part: Part) -> Iterator[Numbered]:
    from datasets.exceptions import DatasetGenerationError

    number = 0
    with tempfile.TemporaryDirectory() as cache:  # its lock files have no business in the user's home
        try:
            records = _hub(part.path, cache) if part.reader == "hub" else _stream(part.reader, cache, data_files=[part.path], split="train")
            if part.shard is not None:
                records = records.shard(num_shards=part.shards, index=part.shard)
            for table in records.with_format("arrow").iter(batch_size=1000):
                for record in table.to_pylist():
                    number += 1
                    yield number, record
        except (DatasetGenerationError, ValueError, OSError) as error:
            cause = error.__cause__ or error
            raise InputError(f"{part.path}: datasets cannot read it as {part.reader} after row {number} ({cause})") from error


def _stream(name: str, cache: str, **how: Any) -> Any:
    import datasets

    datasets.config.TORCH_AVAILABLE = False  # it would load torch just to make its dataset a torch one
    datasets.disable_progress_bars()
    more = {"delimiter": "\t"} if name == "csv" and ".tsv" in how["data_files"][0] else {}
    return datasets.load_dataset(name, streaming=True, cache_dir=cache, **how, **more)


def _hub(name: str, cache: str) -> Any:
    """owner/name, owner/name:split or owner/name:configuration:split."""
    name, *rest = name.split(":")
    return _stream(name, cache, name=rest[0] if len(rest) == 2 else None, split=rest[-1] if rest else "train")


def _open(path: str) -> BinaryIO:
    if "://" in path or path.endswith(COMPRESSED[1:]):
        import fsspec

        return fsspec.open(path, "rb", compression="infer").open()
    return gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb")


def _reader(path: str) -> str:
    if (suffix := suffix_of(path)) not in READERS:
        raise InputError(f"{path}: unknown kind of file; readable are {', '.join(READERS)}, plain or {', '.join(COMPRESSED)}")
    return READERS[suffix]


def suffix_of(path: str) -> str:
    """`.jsonl` of papers.JSONL.gz: of what a file holds, not of how it is compressed."""
    return Path(path.removesuffix(next((end for end in COMPRESSED if path.endswith(end)), ""))).suffix.lower()


def _local(path: Path) -> Input:
    reader, stat = _reader(str(path)), path.stat()
    if reader == "json" and _begins_with_object(str(path)):
        reader = "lines"  # as the arXiv snapshot: lines in a file called .json
    return Input(str(path), reader, stat.st_size)


def _begins_with_object(path: str) -> bool:
    with _open(path) as file:
        while (byte := file.read(1)) and byte.isspace():
            pass
    return byte == b"{"


def _files_of(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not any(part.startswith(".") for part in path.parts[-2:]))
    known = [path for path in files if Path(str(path).removesuffix(path.suffix if path.suffix in COMPRESSED else "")).suffix in READERS]
    if not known:
        raise InputError(f"{folder}: holds no file of a readable kind ({', '.join(READERS)})")
    if len(splits := {name for path in known for name in ("train", "heldout") if path.name.startswith(name)}) == 2:
        raise InputError(f"{folder}: holds {' and '.join(sorted(splits))} files; name those of one side, e.g. '{folder}/train-*.jsonl.gz'")
    return known


def _looks_like_hub(word: str) -> bool:
    name = word.split(":")[0]
    return name.count("/") == 1 and not word.startswith((".", "/")) and not Path(name).suffix
