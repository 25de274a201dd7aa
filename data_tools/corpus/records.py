"""Records of any input, as their authors wrote them: no reader here guesses what a text could mean.

words of the command → `find_inputs` → inputs → `split_inputs` → parts that one task reads → `read_records` → (number, record or reason)
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.corpus.file_readers import READ, InputError, Numbered, Part
from data_tools.files.json_values import is_whole
from data_tools.files.packed import ENDINGS, DamagedError, ending_of, open_packed
from data_tools.files.places import matches

READERS = {".jsonl": "lines", ".ndjson": "lines", ".json": "json", ".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".tsv": "tsv"}
READERS |= {".txt": "text", ".text": "text"}
PART_BYTES = 64 * 2**20
NO_DATA = ("_temporary", "_delta_log", "_spark_metadata")  # folders of Spark's own


@dataclass(frozen=True)
class Input:
    path: str  # a file, a URL, or the name of a Hub set
    reader: str  # a value of READERS, or "hub"
    bytes: int  # 0 for a Hub set


def find_inputs(words: list[str]) -> list[Input]:
    """Files, folders, patterns, URLs and Hub names, in the order given, a folder's by name. Raises InputError."""
    inputs: list[Input] = []
    for word in words:
        if "://" in word and not Path(word).exists():
            import fsspec

            filesystem, inner = fsspec.core.url_to_fs(word)
            inputs.append(Input(word, _reader(word), int(filesystem.size(inner))))
        elif found := matches(word):
            inputs += [_local(file) for path in map(Path, found) for file in (_files_of(path) if path.is_dir() else [path])]
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
        if input.reader == "lines" and not ending_of(input.path) and "://" not in input.path:
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


def read_records(part: Part, as_written: tuple[str, ...] = ()) -> Iterator[Numbered]:
    """Raises InputError when the file itself is damaged; a damaged line is a record with its reason.

    as_written: fields whose numbers must keep their digits, as ids do; such a number's `str` is what stands in the file.
    """
    try:
        if part.reader == "hub":
            yield from _read_hub(part)
        elif part.bytes or "://" in part.path:  # a file without bytes has no row, of whatever kind it is
            yield from READ[part.reader](part, as_written)
    except UnicodeDecodeError as error:
        yield 1, f"not UTF-8 ({error.reason})"
    except DamagedError as error:
        raise InputError(str(error)) from error


def first_line_number(part: Part) -> int:
    """Number of the line in its file with which this part of JSON lines begins."""
    if not part.start:
        return 1
    lines, left, last = 1, part.start, b""
    with open(part.path, "rb") as file:
        while left and (block := file.read(min(left, 2**24))):
            lines, left, last = lines + block.count(b"\n"), left - len(block), block[-1:]
    return lines if last == b"\n" else lines + 1


def _read_hub(part: Part) -> Iterator[Numbered]:
    from datasets.exceptions import DatasetGenerationError

    number = 0
    with tempfile.TemporaryDirectory() as cache:  # its lock files have no business in the user's home
        try:
            records = _hub(part.path, cache)
            if part.shard is not None:
                records = records.shard(num_shards=part.shards, index=part.shard)
            for table in records.with_format("arrow").iter(batch_size=1000):
                for record in table.to_pylist():
                    number += 1
                    yield number, record
        except (DatasetGenerationError, ValueError, OSError) as error:
            cause = error.__cause__ or error
            raise InputError(f"{part.path}: datasets cannot read it after row {number} ({cause})") from error


def _hub(name: str, cache: str) -> Any:
    """owner/name, owner/name:split or owner/name:configuration:split."""
    import datasets

    name, *rest = name.split(":")
    datasets.config.TORCH_AVAILABLE = False  # it would load torch just to make its dataset a torch one
    datasets.disable_progress_bars()
    configuration, split = rest[0] if len(rest) == 2 else None, rest[-1] if rest else "train"
    return datasets.load_dataset(name, name=configuration, split=split, streaming=True, cache_dir=cache)


def _reader(path: str) -> str:
    if (suffix := suffix_of(path)) not in READERS:
        raise InputError(f"{path}: unknown kind of file; readable are {', '.join(READERS)}, plain or {', '.join(ENDINGS)}")
    return READERS[suffix]


def suffix_of(path: str) -> str:
    """`.jsonl` of papers.JSONL.gz: of what a file holds, not of how it is compressed."""
    return Path(path[: len(path) - len(ending_of(path))]).suffix.lower()


def _local(path: Path) -> Input:
    reader, stat = _reader(str(path)), path.stat()
    if reader in ("json", "lines") and stat.st_size:
        try:
            with open_packed(str(path)) as file:
                reader = "json" if is_whole(file) else "lines"  # the arXiv snapshot has lines in a file called .json
        except DamagedError:
            pass  # told by the task that reads it
    return Input(str(path), reader, stat.st_size)


def _files_of(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [path for path in found if not any(part.startswith(".") or part in NO_DATA for part in path.relative_to(folder).parts)]
    known = [path for path in files if suffix_of(str(path)) in READERS]
    if not known:
        raise InputError(f"{folder}: holds no file of a readable kind ({', '.join(READERS)})")
    if len(splits := {name for path in known for name in ("train", "heldout") if path.name.startswith(name)}) == 2:
        raise InputError(f"{folder}: holds {' and '.join(sorted(splits))} files; name those of one side, e.g. '{folder}/train-*.jsonl.gz'")
    return known


def _looks_like_hub(word: str) -> bool:
    name = word.split(":")[0]
    return name.count("/") == 1 and not word.startswith((".", "/")) and not Path(name).suffix
