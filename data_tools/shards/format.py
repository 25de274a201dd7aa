"""What token shards are on disk: one Arrow IPC file a shard, and the manifest that vouches for all of them.

00000.arrow …    one record batch: tokens (a list of uint16 or uint32 a document), mask (chat), id, source; the `ShardFormat` in its header
manifest.json    written last, a folder without it holds no shards: the format, the tokenizer's rule, the counts by source, each shard's
                 bytes and hash, where the documents are from, and a checksum over all this
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

FORMAT_VERSION = 1
KINDS = ("corpus", "chat")
MANIFEST = "manifest.json"


class ShardError(ValueError):
    """Shards that must not be used; says where, what was found, and what to do."""


@dataclass(frozen=True)
class ShardFormat:
    """What every shard of a folder shares, and each file repeats in its Arrow schema."""

    kind: Literal["corpus", "chat"]
    vocab_size: int
    tokenizer: str  # fingerprint

    def metadata(self) -> dict[str, str]:
        return {"format_version": str(FORMAT_VERSION), "kind": self.kind, "vocab_size": str(self.vocab_size), "tokenizer": self.tokenizer}

    def schema(self) -> Any:
        import pyarrow as pa

        mask = [("mask", pa.list_(pa.uint8()))] if self.kind == "chat" else []
        tokens = ("tokens", pa.list_(pa.from_numpy_dtype(token_dtype(self.vocab_size))))
        return pa.schema([tokens, *mask, ("id", pa.string()), ("source", pa.string())], metadata=self.metadata())


def token_dtype(vocab_size: int) -> np.dtype:
    return np.dtype(np.uint16 if vocab_size <= 65536 else np.uint32)


def sum_counts(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """`{"documents", "tokens", "supervised_tokens" (chat), "sources": {name: the same}}`, names sorted."""
    sources: dict[str, dict[str, int]] = {}
    for entry in entries:
        for name, counts in entry["sources"].items():
            total = sources.setdefault(name, dict.fromkeys(counts, 0))
            for key, value in counts.items():
                total[key] += value
    keys = next(iter(sources.values()))
    return {key: sum(counts[key] for counts in sources.values()) for key in keys} | {"sources": dict(sorted(sources.items()))}


def manifest_checksum(manifest: dict[str, Any]) -> str:
    plain = json.dumps({key: value for key, value in manifest.items() if key != "checksum"}, sort_keys=True)
    return hashlib.sha256(plain.encode()).hexdigest()
