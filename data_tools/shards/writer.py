"""Documents → shards: each file written aside, synced, renamed; the manifest last. Same documents, same bytes.

writer = ShardWriter(folder, kind="chat", vocab_size=32000, tokenizer=tokenizer.rule())
writer.add("conversation-1", "sharegpt", tokens, mask)
writer.finish(inputs=[…], arguments={…}, versions={…})
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_tools.files.atomic import write_atomically
from data_tools.shards.format import FORMAT_VERSION, MANIFEST, ShardError, ShardFormat, manifest_checksum, sum_counts, token_dtype

SHARD_TOKENS = 2**26  # 128 MiB of uint16: small enough that 64 ranks share the hashing, large enough for few files


@dataclass(frozen=True)
class Documents:
    """What one shard holds, its documents end to end."""

    ids: list[str]
    sources: list[str]
    lengths: np.ndarray  # (documents,), all > 0
    tokens: np.ndarray  # (sum of lengths,) any integer type
    mask: np.ndarray | None = None  # (sum of lengths,) of 0 and 1, chat only


def write_shard(path: Path, shard_format: ShardFormat, documents: Documents) -> dict[str, Any]:
    """Write one shard; return its entry for the manifest.

    Raises ShardError before anything is written when a token does not fit the vocabulary or the parts do not fit each other.
    """
    import pyarrow as pa

    _check(documents, shard_format, path)
    ids, mask, offsets = documents.ids, documents.mask, np.concatenate([[0], np.cumsum(documents.lengths)])
    assert offsets[-1] < 2**31, f"{offsets[-1]} tokens in one shard: Arrow's list offsets are int32"
    lists = [documents.tokens.astype(token_dtype(shard_format.vocab_size), copy=False)]
    lists += [] if mask is None else [mask.astype(np.uint8, copy=False)]
    columns = [pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values)) for values in lists]
    columns += [pa.array(ids, pa.string()), pa.array(documents.sources, pa.string())]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, shard_format.schema()) as writer:
        writer.write_batch(pa.record_batch(columns, schema=shard_format.schema()))
    data = memoryview(sink.getvalue())
    write_atomically(path, data)
    entry = {"file": path.name, "bytes": len(data), "documents": len(ids), "tokens": int(offsets[-1])}
    entry |= {"sha256": hashlib.sha256(data).hexdigest(), "first_id": ids[0], "last_id": ids[-1]}
    return entry | {"sources": _count_sources(documents)}


def write_manifest(
    folder: Path, shard_format: ShardFormat, tokenizer: dict[str, Any], entries: list[dict[str, Any]], **provenance: Any
) -> dict[str, Any]:
    """Make the folder valid: the last file written. `provenance`: inputs, arguments, versions, dropped …, as JSON values."""
    assert tokenizer["fingerprint"] == shard_format.tokenizer, (tokenizer, shard_format)
    wanted = {entry["file"] for entry in entries}
    for stray in [*folder.glob("*.arrow"), *folder.glob(".*.tmp")]:
        if stray.name not in wanted:
            stray.unlink()  # of a run that was killed: no manifest ever named it
    manifest = {"format_version": FORMAT_VERSION, "kind": shard_format.kind, "dtype": token_dtype(shard_format.vocab_size).name}
    manifest |= {"vocab_size": shard_format.vocab_size, "tokenizer": tokenizer, "counts": sum_counts(entries), "shards": entries}
    manifest |= {"inputs": [], "arguments": {}, "versions": {}} | provenance
    manifest["checksum"] = manifest_checksum(manifest)
    write_atomically(folder / MANIFEST, (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode())
    return manifest


class ShardWriter:
    """Documents one by one → shards of about `shard_tokens`, then `finish`. Same documents, same bytes.

    tokenizer: `{"fingerprint", "bos_id", "eos_id", "add_bos", "add_eos", …}`, kept in the manifest as it stands.
    """

    def __init__(
        self, folder: Path, *, kind: Literal["corpus", "chat"], vocab_size: int, tokenizer: dict[str, Any], shard_tokens: int = SHARD_TOKENS
    ) -> None:
        if (folder / MANIFEST).exists():
            raise ShardError(f"{folder}: already holds finished shards; write to another folder, or delete this one")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.tokenizer, self.shard_tokens = folder, tokenizer, shard_tokens
        self.format = ShardFormat(kind, vocab_size, tokenizer["fingerprint"])
        self._entries: list[dict[str, Any]] = []
        self._start_shard()

    def _start_shard(self) -> None:
        self._tokens: list[np.ndarray] = []
        self._masks: list[np.ndarray] = []
        self._ids: list[str] = []
        self._sources: list[str] = []
        self._size = 0

    def add(self, id: str, source: str, tokens: np.ndarray | list[int], mask: np.ndarray | list[int] | None = None) -> None:
        if self._size and self._size + len(tokens) > self.shard_tokens:
            self._flush()
        self._tokens.append(np.asarray(tokens))
        self._masks += [] if mask is None else [np.asarray(mask)]
        self._ids.append(id)
        self._sources.append(source)
        self._size += len(tokens)

    def _flush(self) -> None:
        path = self.folder / f"{len(self._entries):05d}.arrow"
        lengths = np.array([len(tokens) for tokens in self._tokens], np.int64)
        mask_lengths = [len(mask) for mask in self._masks]
        if self._masks and mask_lengths != lengths.tolist():
            raise ShardError(f"{path}: tokens and masks differ in length; each document needs one mask value a token")
        mask = np.concatenate(self._masks) if self._masks else None
        documents = Documents(self._ids, self._sources, lengths, np.concatenate(self._tokens), mask)
        self._entries.append(write_shard(path, self.format, documents))
        self._start_shard()

    def finish(self, **provenance: Any) -> dict[str, Any]:
        """Write the last shard and the manifest; return the manifest. Raises ShardError when there was no document."""
        if self._ids:
            self._flush()
        if not self._entries:
            raise ShardError(f"{self.folder}: no document to write; every one was dropped, or the input is empty")
        return write_manifest(self.folder, self.format, self.tokenizer, self._entries, **provenance)


def _check(documents: Documents, shard_format: ShardFormat, path: Path) -> None:
    ids, sources, lengths, tokens, mask = documents.ids, documents.sources, documents.lengths, documents.tokens, documents.mask
    assert len(ids) == len(sources) == len(lengths) > 0, (len(ids), len(sources), len(lengths))
    assert int(lengths.sum()) == len(tokens), (int(lengths.sum()), len(tokens))
    if lengths.min() <= 0:
        raise ShardError(f"{path}: document {ids[int(np.argmin(lengths))]!r} has no tokens; leave it out")
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= shard_format.vocab_size:
        wrong = low if low < 0 else high
        document = ids[int(np.searchsorted(np.cumsum(lengths), int(np.argmax(tokens == wrong)), side="right"))]
        raise ShardError(
            f"{path}: document {document!r} has token id {wrong}, the vocabulary ends at {shard_format.vocab_size - 1}; "
            "encode it with the tokenizer these shards are for"
        )
    if (mask is None) != (shard_format.kind == "corpus"):
        raise ShardError(
            f"{path}: {shard_format.kind} shards {'need a mask' if mask is None else 'have no mask'}; see data_tools.shards.format"
        )
    if mask is not None and (len(mask) != len(tokens) or mask.min() < 0 or mask.max() > 1):
        raise ShardError(f"{path}: a mask must hold 0 or 1 for each of the {len(tokens)} tokens")


def _count_sources(documents: Documents) -> dict[str, dict[str, int]]:
    lengths, mask = documents.lengths, documents.mask
    names, index = np.unique(np.array(documents.sources, dtype=object), return_inverse=True)
    columns = {"documents": np.bincount(index), "tokens": np.bincount(index, lengths)}
    if mask is not None:
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        columns["supervised_tokens"] = np.bincount(index, np.add.reduceat(mask.astype(np.int64), starts))
    return {name: {key: int(values[k]) for key, values in columns.items()} for k, name in enumerate(names)}
