"""The three kinds of task that make a corpus, each run in some process by `data_tools.work.tasks`.

part of an input → `read_part` → chunks of text (id, text, split) → `encode_chunk` → chunks of tokens → `write_one_shard` → shard

Chunks depend on how the input lies in files; shards do not: they are cut from the whole sequence of documents.
"""

import functools
import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.corpus.records import read_records
from data_tools.files.atomic import write_atomically
from data_tools.files.places import content_hash
from data_tools.shards.format import ShardFormat, token_dtype
from data_tools.shards.writer import Documents, write_shard
from data_tools.tokens.tokenizer import Tokenizer, with_marks

CHUNK_BYTES = 8 * 2**20  # of text: seconds of encoding, so little is done twice after a kill
SPOT_CHECKS = 16  # documents a chunk that the reference encodes, too
BAD = (
    "not UTF-8",
    "not JSON",
    "not a JSON object",
    "the text is not a string",
    "broken Unicode",
)  # faults of the file; other reasons are choices


def read_part(task: dict[str, Any]) -> dict[str, Any]:
    """Records of one part → chunk files; returns what was read, dropped and why, and the chunks."""
    part, rule = task["part"], task["rule"]
    dropped: Counter[str] = Counter()
    result: dict[str, Any] = {"rows": 0, "fields": [], "bad": [], "chunks": []}
    chunk = _Chunk(Path(task["chunks"]), task["number"])
    for number, record in read_records(part):
        result["rows"] += 1
        if isinstance(record, dict) and len(result["fields"]) < 50:
            result["fields"] = sorted({*result["fields"], *record})
        document = to_document(record, rule)
        if isinstance(document, str):
            dropped[document] += 1
            if document.startswith(BAD) and not result["bad"]:
                result["bad"] = [number, document]
            continue
        if chunk.add(*document):
            result["chunks"].append(chunk.write())
    if chunk.ids:
        result["chunks"].append(chunk.write())
    whole = not part.get("start") and part.get("shard", 0) == 0  # the file's hash is taken once, by its first part
    return result | {"dropped": dict(dropped), "sha256": content_hash(part["path"]) if whole else None}


def to_document(record: dict[str, Any] | str, rule: dict[str, Any]) -> tuple[str, str, int] | str:
    """(id, text, number of its split), or the reason why the record is none."""
    if isinstance(record, str):
        return record
    for name, wanted in rule["where"]:
        if str(field(record, name)) != wanted:
            return f"not {name}={wanted}"
    texts = []
    for name in rule["text_fields"]:
        text = field(record, name)
        if text is None:
            return f"no {name}" if name in record else f"no field {name}"
        if not isinstance(text, str):
            return f"the text is not a string ({name} is {type(text).__name__})"
        texts.append(text)
    text = "\n\n".join(texts)
    if not text.strip():
        return "empty text"
    try:
        data = text.encode()
    except UnicodeEncodeError:
        return "broken Unicode (half a surrogate pair)"
    id = field(record, rule["id_field"])
    # without an id of its own a document is named by its content: the name must not depend on where in which file it lies
    id = str(id) if isinstance(id, str | int) and str(id) else f"sha256:{hashlib.sha256(data).hexdigest()[:16]}"
    if not id.isprintable():
        return "broken Unicode (in the id)"
    return id, text, split_of(id, rule["splits"])


def field(record: dict[str, Any], name: str) -> Any:
    """A field by name; `meta.year` looks into an object."""
    if name in record or "." not in name:
        return record.get(name)
    head, _, rest = name.partition(".")
    inner = record.get(head)
    return field(inner, rest) if isinstance(inner, dict) else None


def split_of(id: str, splits: list[tuple[str, float]]) -> int:
    """0 for train, k for the k-th held-out split: by a hash of the id alone, so that no re-ordering or new paper moves another."""
    if not splits:
        return 0
    place = int.from_bytes(hashlib.sha256(f"split:{id}".encode()).digest()[:8], "big") / 2**64
    for k, (_, share) in enumerate(splits, 1):
        if place < share:
            return k
        place -= share
    return 0


class _Chunk:
    """Documents on their way to the next chunk file."""

    def __init__(self, folder: Path, part: int) -> None:
        self.folder, self.part, self.written = folder, part, 0
        self.clear()

    def clear(self) -> None:
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.splits: list[int] = []
        self.size = 0

    def add(self, id: str, text: str, split: int) -> bool:
        """True when it is time to write."""
        self.ids.append(id)
        self.texts.append(text)
        self.splits.append(split)
        self.size += len(text)
        return self.size >= CHUNK_BYTES

    def write(self) -> dict[str, Any]:
        import pyarrow as pa

        path = self.folder / f"{self.part:05d}-{self.written:05d}.arrow"
        texts = pa.array(self.texts, pa.large_string())
        columns = {"id": pa.array(self.ids, pa.large_string()), "text": texts, "split": pa.array(self.splits, pa.int8())}
        write_table(path, pa.table(columns))
        entry = {"file": path.name, "documents": len(self.ids), "bytes": texts.nbytes, "splits": dict(Counter(map(str, self.splits)))}
        self.written += 1
        self.clear()
        return entry


def write_table(path: Path, table: Any) -> None:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    write_atomically(path, memoryview(sink.getvalue()))


def read_table(path: Path) -> Any:
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(str(path))).read_all().combine_chunks()


def encode_chunk(task: dict[str, Any]) -> dict[str, Any]:
    """A chunk of text → a chunk of tokens, with BOS and EOS; "doubt" when a spot check finds the fast path wrong."""
    import pyarrow as pa

    chunk = read_table(Path(task["chunk"]))
    texts = chunk.column("text").to_pylist()
    reference, tokenizer = load_tokenizer(task["tokenizer"], task["fast"])
    assert reference.fingerprint == task["rule"]["fingerprint"], f"{reference.file} changed while the corpus was made"
    tokens, lengths = tokenizer.encode_flat(texts, 1)
    doubt = None
    if tokenizer is not reference:
        sample = [texts[k] for k in sorted({len(texts) * k // SPOT_CHECKS for k in range(SPOT_CHECKS)})]
        if (k := reference.first_difference(tokenizer, sample)) is not None:
            doubt = sample[k][:200]
    rule = task["rule"]
    tokens, lengths = with_marks(tokens, lengths, rule["bos_id"] if rule["add_bos"] else None, rule["eos_id"] if rule["add_eos"] else None)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64())
    lists = pa.LargeListArray.from_arrays(offsets, pa.array(tokens.astype(token_dtype(reference.vocab_size), copy=False)))
    write_table(Path(task["out"]), pa.table({"tokens": lists, "id": chunk.column("id"), "split": chunk.column("split")}))
    return {"documents": len(lengths), "tokens": int(lengths.sum()), "doubt": doubt}


@functools.lru_cache(maxsize=2)
def load_tokenizer(folder: str, fast: bool) -> tuple[Tokenizer, Tokenizer]:
    """The reference, and what encodes: once a process."""
    reference = Tokenizer.load(Path(folder))
    if not fast:
        return reference, reference
    fast_one, verdict = reference.fast_path([])
    assert fast_one is not None, f"the fast path was proven, and now it is not: {verdict}"
    return reference, fast_one


def write_one_shard(task: dict[str, Any]) -> dict[str, Any]:
    """Pieces `[chunk of tokens, first, last]` (documents of the task's split) → one shard; returns its entry."""
    import pyarrow as pa
    import pyarrow.compute as pc

    tables = []
    for path, first, last in task["pieces"]:
        table = read_table(Path(path))
        tables.append(table.filter(pc.equal(table.column("split"), task["split"])).slice(first, last - first))
    whole = pa.concat_tables(tables).combine_chunks()
    lists = whole.column("tokens").combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    ids = whole.column("id").to_pylist()
    lengths = np.diff(np.asarray(lists.offsets)).astype(np.int64)
    path = Path(task["path"])
    path.parent.mkdir(parents=True, exist_ok=True)
    shard_format = ShardFormat(**task["format"])
    return write_shard(path, shard_format, Documents(ids, [task["source"]] * len(ids), lengths, np.asarray(lists.flatten())))
