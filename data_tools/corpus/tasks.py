"""The three kinds of task that make a corpus, each run in some process by `data_tools.work.tasks`.

part of an input → `read_part` → chunks of text (id, text, split) → `encode_chunk` → chunks of tokens → `write_one_shard` → shard

Chunks depend on how the input lies in files; shards do not: they are cut from the whole sequence of documents.
A task and its result cross between processes, and lie on disk, as JSON: what `to_json` says.
"""

import functools
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.corpus.document import BAD, Document, Rule, to_document
from data_tools.corpus.records import Part, read_records
from data_tools.files.atomic import write_atomically
from data_tools.files.places import content_hash
from data_tools.shards.format import ShardFormat, token_dtype
from data_tools.shards.writer import Documents, write_shard
from data_tools.tokens.tokenizer import Tokenizer, with_marks

CHUNK_BYTES = 8 * 2**20  # of text: seconds of encoding, so little is done twice after a kill
SPOT_CHECKS = 16  # documents a chunk that the reference encodes, too


@dataclass(frozen=True)
class ReadTask:
    part: Part
    rule: Rule
    chunks: str  # folder
    number: int  # of the part, in the names of its chunks

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"part": self.part.to_json()}

    @classmethod
    def of_json(cls, value: dict[str, Any]) -> "ReadTask":
        return cls(**value | {"part": Part(**value["part"]), "rule": Rule.of_json(value["rule"])})


@dataclass(frozen=True)
class Chunk:
    """A file of documents' texts."""

    file: str
    documents: int
    bytes: int  # of text
    splits: dict[int, int]  # number of documents by split; none that has none

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"splits": {str(split): count for split, count in self.splits.items()}}

    @classmethod
    def of_json(cls, value: dict[str, Any]) -> "Chunk":
        return cls(**value | {"splits": {int(split): count for split, count in value["splits"].items()}})


@dataclass(frozen=True)
class PartRead:
    records: int
    fields: list[str]  # names of some, for a message
    bad: tuple[int, str] | None  # number and fault of the first record that cannot be read
    chunks: list[Chunk]
    dropped: dict[str, int]  # reason → records
    sha256: str | None  # of the whole file, from its first part

    def to_json(self) -> dict[str, Any]:
        value = {"rows": self.records, "fields": self.fields, "bad": list(self.bad or ())}
        return value | {"chunks": [chunk.to_json() for chunk in self.chunks], "dropped": self.dropped, "sha256": self.sha256}

    @classmethod
    def of_json(cls, value: dict[str, Any]) -> "PartRead":
        bad, chunks = tuple(value["bad"]) or None, [Chunk.of_json(chunk) for chunk in value["chunks"]]
        return cls(value["rows"], value["fields"], bad, chunks, value["dropped"], value["sha256"])


def read_part(task: dict[str, Any]) -> dict[str, Any]:
    """A ReadTask → its chunk files and what was read and dropped, a PartRead; both as JSON."""
    task = ReadTask.of_json(task)
    dropped: Counter[str] = Counter()
    records, fields, bad, chunks = 0, [], None, []
    chunk = _ChunkWriter(Path(task.chunks), task.number)
    as_written = (task.rule.id_field, *(name for name, _ in task.rule.where))
    for number, record in read_records(task.part, as_written):
        records += 1
        if isinstance(record, dict) and len(fields) < 50:
            fields = sorted({*fields, *record})
        document = to_document(record, task.rule)
        if isinstance(document, str):
            dropped[document] += 1
            if document.startswith(BAD) and bad is None:
                bad = (number, document)
            continue
        if chunk.add(document):
            chunks.append(chunk.write())
    if chunk.ids:
        chunks.append(chunk.write())
    sha256 = content_hash(task.part.path) if task.part.is_first() else None
    return PartRead(records, fields, bad, chunks, dict(dropped), sha256).to_json()


class _ChunkWriter:
    """Documents on their way to the next chunk file."""

    def __init__(self, folder: Path, part: int) -> None:
        self.folder, self.part, self.written = folder, part, 0
        self.clear()

    def clear(self) -> None:
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.splits: list[int] = []
        self.size = 0

    def add(self, document: Document) -> bool:
        """True when it is time to write."""
        self.ids.append(document.id)
        self.texts.append(document.text)
        self.splits.append(document.split)
        self.size += len(document.text)
        return self.size >= CHUNK_BYTES

    def write(self) -> Chunk:
        import pyarrow as pa

        path = self.folder / f"{self.part:05d}-{self.written:05d}.arrow"
        texts = pa.array(self.texts, pa.large_string())
        columns = {"id": pa.array(self.ids, pa.large_string()), "text": texts, "split": pa.array(self.splits, pa.int8())}
        write_table(path, pa.table(columns))
        chunk = Chunk(path.name, len(self.ids), texts.nbytes, dict(Counter(self.splits)))
        self.written += 1
        self.clear()
        return chunk


def write_table(path: Path, table: Any) -> None:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    write_atomically(path, memoryview(sink.getvalue()))


def read_table(path: Path) -> Any:
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(str(path))).read_all().combine_chunks()


@dataclass(frozen=True)
class EncodeTask:
    chunk: str  # file of text
    out: str  # file of tokens
    tokenizer: str  # folder
    rule: dict[str, Any]  # the tokenizer's, as manifests keep it
    fast: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Encoded:
    documents: int
    tokens: int
    doubt: str | None  # the beginning of a text that the fast path encodes otherwise than the reference

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def encode_chunk(task: dict[str, Any]) -> dict[str, Any]:
    """An EncodeTask: a chunk of text → a chunk of tokens, with BOS and EOS; returns an Encoded, both as JSON."""
    import pyarrow as pa

    task = EncodeTask(**task)
    chunk = read_table(Path(task.chunk))
    texts = chunk.column("text").to_pylist()
    reference, tokenizer = load_tokenizer(task.tokenizer, task.fast)
    assert reference.fingerprint == task.rule["fingerprint"], f"{reference.file} changed while the corpus was made"
    tokens, lengths = tokenizer.encode_flat(texts, 1)
    doubt = None
    if tokenizer is not reference:
        sample = [texts[k] for k in sorted({len(texts) * k // SPOT_CHECKS for k in range(SPOT_CHECKS)})]
        if (k := reference.first_difference(tokenizer, sample)) is not None:
            doubt = sample[k][:200]
    rule = task.rule
    tokens, lengths = with_marks(tokens, lengths, rule["bos_id"] if rule["add_bos"] else None, rule["eos_id"] if rule["add_eos"] else None)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64())
    lists = pa.LargeListArray.from_arrays(offsets, pa.array(tokens.astype(token_dtype(reference.vocab_size), copy=False)))
    write_table(Path(task.out), pa.table({"tokens": lists, "id": chunk.column("id"), "split": chunk.column("split")}))
    return Encoded(len(lengths), int(lengths.sum()), doubt).to_json()


@functools.lru_cache(maxsize=2)
def load_tokenizer(folder: str, fast: bool) -> tuple[Tokenizer, Tokenizer]:
    """The reference, and what encodes: once a process."""
    reference = Tokenizer.load(Path(folder))
    if not fast:
        return reference, reference
    fast_one, verdict = reference.fast_path([])
    assert fast_one is not None, f"the fast path was proven, and now it is not: {verdict}"
    return reference, fast_one


@dataclass(frozen=True)
class ShardTask:
    path: str
    split: int
    source: str
    pieces: list[tuple[str, int, int]]  # chunk of tokens; first and last + 1 of its documents that are of the split
    format: ShardFormat

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_json(cls, value: dict[str, Any]) -> "ShardTask":
        pieces = [(chunk, first, last) for chunk, first, last in value["pieces"]]
        return cls(**value | {"pieces": pieces, "format": ShardFormat(**value["format"])})


def write_one_shard(task: dict[str, Any]) -> dict[str, Any]:
    """A ShardTask as JSON → the shard; returns its entry for the manifest."""
    import pyarrow as pa
    import pyarrow.compute as pc

    task = ShardTask.of_json(task)
    tables = []
    for path, first, last in task.pieces:
        table = read_table(Path(path))
        tables.append(table.filter(pc.equal(table.column("split"), task.split)).slice(first, last - first))
    whole = pa.concat_tables(tables).combine_chunks()
    lists = whole.column("tokens").combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    ids = whole.column("id").to_pylist()
    lengths = np.diff(np.asarray(lists.offsets)).astype(np.int64)
    path = Path(task.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_shard(path, task.format, Documents(ids, [task.source] * len(ids), lengths, np.asarray(lists.flatten())))
