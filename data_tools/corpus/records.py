"""Records of any input: JSON lines by line (so that a bad one is named), everything else through `datasets`, streamed.

words of the command → `find_inputs` → inputs → `split_inputs` → parts that one task reads → `read_records` → (number, record or reason)
"""

import glob
import gzip
import json
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

READERS = {".jsonl": "lines", ".ndjson": "lines", ".json": "json", ".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".tsv": "csv"}
READERS |= {".txt": "text", ".text": "text"}
COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
PART_BYTES = 64 * 2**20
Numbered = tuple[int, dict[str, Any] | str]  # from 1 on within the part; the record, or why it is none


class InputError(ValueError):
    """An input that cannot be read; says which, where in it, and what would be readable."""


def find_inputs(words: list[str]) -> list[dict[str, Any]]:
    """Files, folders, patterns, URLs and Hub names → `{"path", "reader", "bytes"}`, in the order given, a folder's by name."""
    inputs: list[dict[str, Any]] = []
    for word in words:
        path = Path(word)
        if "://" in word:
            import fsspec

            filesystem, inner = fsspec.core.url_to_fs(word)
            inputs.append({"path": word, "reader": _reader(word), "bytes": int(filesystem.size(inner))})
        elif path.is_dir():
            inputs += [_local(file) for file in _files_of(path)]
        elif path.exists():
            inputs.append(_local(path))
        elif found := sorted(glob.glob(word, recursive=True)):
            inputs += [_local(Path(file)) for file in found]
        elif _looks_like_hub(word):
            inputs.append({"path": word, "reader": "hub", "bytes": 0})
        else:
            raise InputError(f"{word}: no such file; give files, a folder, a quoted pattern, a URL, or a Hub name like owner/name:split")
    seen: set[str] = set()
    for input in inputs:
        if (path := str(input["path"])) in seen:
            raise InputError(f"{path}: named twice; its documents would stand twice in the shards")
        seen.add(path)
    return inputs


def split_inputs(inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Parts to read by one task each: byte ranges of plain JSON lines, files of a Hub set, else the whole file."""
    parts = []
    for input in inputs:
        part = {key: input[key] for key in ("path", "reader", "bytes")}
        if input["reader"] == "lines" and not input["path"].endswith(COMPRESSED) and "://" not in input["path"]:
            starts = range(0, max(1, input["bytes"]), PART_BYTES)
            parts += [part | {"start": start, "end": min(start + PART_BYTES, input["bytes"])} for start in starts]
            for piece in parts[-len(starts) :]:
                piece["bytes"] = piece["end"] - piece["start"]
        elif input["reader"] == "hub":
            with tempfile.TemporaryDirectory() as cache:
                count = _hub(input["path"], cache).num_shards
            parts += [part | {"shard": shard, "shards": count} for shard in range(count)]
        else:
            parts.append(part)
    return parts


def read_records(part: dict[str, Any]) -> Iterator[Numbered]:
    """Raises InputError when the file itself is damaged; a damaged line is a record with its reason."""
    try:
        if part["reader"] == "lines":
            yield from _read_lines(part)
        elif part["reader"] == "text":
            with _open(part["path"]) as file:
                yield 1, {"text": file.read().decode()}
        else:
            yield from _read_datasets(part)
    except UnicodeDecodeError as error:
        yield 1, f"not UTF-8 ({error.reason})"
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{part['path']}: cut short or damaged ({error}); copy it again") from error


def first_line_number(part: dict[str, Any]) -> int:
    """Number of the line in its file with which this part of JSON lines begins."""
    if not part.get("start"):
        return 1
    lines, left, last = 1, part["start"], b""
    with open(part["path"], "rb") as file:
        while left and (block := file.read(min(left, 2**24))):
            lines, left, last = lines + block.count(b"\n"), left - len(block), block[-1:]
    return lines if last == b"\n" else lines + 1


def _read_lines(part: dict[str, Any]) -> Iterator[Numbered]:
    start, end = part.get("start", 0), part.get("end")
    with _open(part["path"]) as file:
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


def _read_datasets(part: dict[str, Any]) -> Iterator[Numbered]:
    from datasets.exceptions import DatasetGenerationError

    number = 0
    with tempfile.TemporaryDirectory() as cache:  # its lock files have no business in the user's home
        try:
            records = (
                _hub(part["path"], cache)
                if part["reader"] == "hub"
                else _stream(part["reader"], cache, data_files=[part["path"]], split="train")
            )
            if "shard" in part:
                records = records.shard(num_shards=part["shards"], index=part["shard"])
            for table in records.with_format("arrow").iter(batch_size=1000):
                for record in table.to_pylist():
                    number += 1
                    yield number, record
        except (DatasetGenerationError, ValueError, OSError) as error:
            cause = error.__cause__ or error
            raise InputError(f"{part['path']}: datasets cannot read it as {part['reader']} after row {number} ({cause})") from error


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
    suffixes = Path(path.removesuffix(next((end for end in COMPRESSED if path.endswith(end)), ""))).suffixes
    if not suffixes or suffixes[-1].lower() not in READERS:
        raise InputError(f"{path}: unknown kind of file; readable are {', '.join(READERS)}, plain or {', '.join(COMPRESSED)}")
    return READERS[suffixes[-1].lower()]


def _local(path: Path) -> dict[str, Any]:
    reader, stat = _reader(str(path)), path.stat()
    if reader == "json" and _begins_with_object(str(path)):
        reader = "lines"  # as the arXiv snapshot: lines in a file called .json
    return {"path": str(path), "reader": reader, "bytes": stat.st_size}


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
