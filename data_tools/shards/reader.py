"""Shards as they are read: a folder opened only if it is what its manifest says, then numpy views into its mapped files.

shards = Shards.open(Path("shards/astro"))
shards.require_tokenizer(tokenizer_fingerprints(model_folder), where="model.path")
shards.tokens(0)                                   # uint16 view into the mapped file, nothing copied
"""

import errno
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_tools.files.atomic import sha256_file
from data_tools.shards.format import FORMAT_VERSION, KINDS, MANIFEST, ShardError, ShardFormat, manifest_checksum, sum_counts, token_dtype

_AGAIN = "copy it again from where it was made, or delete the folder and run data_tools.prepare again"
_MORE_MAPS = "raise vm.max_map_count (sysctl) or the memory limit (ulimit -v), or prepare the corpus again as fewer, larger shards"
OPENERS = 16  # threads that open files


class Shards:
    """A folder of shards, checked, mapped, and read without copying. Make it with `Shards.open`."""

    def __init__(self, folder: Path, manifest: dict[str, Any], fingerprint: str, files: list["_File"]) -> None:
        self.folder, self.manifest, self.fingerprint, self._files = folder, manifest, fingerprint, files
        self.vocab_size: int = manifest["vocab_size"]
        self.has_mask: bool = manifest["kind"] == "chat"
        self.tokenizer: dict[str, Any] = manifest["tokenizer"]
        self.sources: list[str] = list(manifest["counts"]["sources"])
        self.lengths = np.concatenate([file.lengths for file in files])  # (documents,) int32, as a file's offsets are
        self.source_index = np.concatenate([file.source_index(self.sources) for file in files])  # (documents,) int32 into sources
        self._first = np.cumsum([0] + [len(file.lengths) for file in files])  # (shards + 1,): shard k holds documents first[k]:first[k + 1]

    @classmethod
    def open(cls, folder: Path, *, verify: Literal["size", "hash"] = "hash", part: tuple[int, int] = (0, 1)) -> "Shards":
        """Open a folder; ShardError if anything in it is not as its manifest says.

        Always: manifest, every file's size, schema, offsets, first and last id. verify="hash": also sha256 and token range
        of the shards k, k + n, k + 2n … of part=(k, n), so that n ranks share the reading.
        """
        folder = Path(folder)
        manifest, fingerprint = _read_manifest(folder)
        with ThreadPoolExecutor(OPENERS) as pool:  # of thousands on a shared disk, each open is a wait
            files = list(pool.map(lambda entry: _File(folder, entry, manifest), manifest["shards"]))
        if verify == "hash":
            rank_files = files[part[0] :: part[1]]
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1, len(rank_files) or 1)) as pool:
                list(pool.map(_File.verify, rank_files))
        return cls(folder, manifest, fingerprint, files)

    def __len__(self) -> int:
        return len(self.lengths)

    def _locate(self, i: int) -> tuple["_File", int]:
        if not 0 <= i < len(self.lengths):
            raise IndexError(f"{self.folder}: document {i} of {len(self.lengths)}")
        shard = int(self._first.searchsorted(i, side="right")) - 1
        return self._files[shard], i - int(self._first[shard])

    def tokens(self, i: int) -> np.ndarray:
        """Tokens of document i, uint16 or uint32, BOS and EOS as stored: a read-only view into the mapped file."""
        file, row = self._locate(i)
        return file.tokens[file.offsets[row] : file.offsets[row + 1]]

    def mask(self, i: int) -> np.ndarray | None:
        """uint8, 1 = train on this token; None for corpus shards."""
        file, row = self._locate(i)
        return None if file.masks is None else file.masks[file.offsets[row] : file.offsets[row + 1]]

    def id(self, i: int) -> str:
        file, row = self._locate(i)
        return file.batch.column("id")[row].as_py()

    def source(self, i: int) -> str:
        return self.sources[self.source_index[i]]

    def find(self, id: str) -> list[int]:
        """Numbers of the documents with this id."""
        import pyarrow.compute as pc

        found = [np.flatnonzero(pc.equal(file.batch.column("id"), id).to_numpy(zero_copy_only=False)) for file in self._files]
        return [int(first + row) for first, rows in zip(self._first, found) for row in rows]

    def check_unchanged(self, documents: np.ndarray | None = None) -> None:
        """ShardError when a file, of these documents or any, is no longer the one that was opened: reading on could end with SIGBUS."""
        shards = range(len(self._files)) if documents is None else np.unique(self._first.searchsorted(documents, side="right") - 1)
        for k in shards:
            self._files[k].check_unchanged()

    def require_tokenizer(self, fingerprints: str | tuple[str, ...], where: str) -> None:
        """ShardError unless the shards were made with the tokenizer of one of these fingerprints; `where` says whose they are."""
        known = (fingerprints,) if isinstance(fingerprints, str) else fingerprints
        if self.tokenizer["fingerprint"] not in known:
            raise ShardError(
                f"{where}: tokenizer {known[0][:12]}…, but {self.folder} was made with {self.tokenizer['fingerprint'][:12]}…; "
                "name that tokenizer's model, or prepare the shards again with this tokenizer"
            )


class _File:
    """One mapped shard."""

    def __init__(self, folder: Path, entry: dict[str, Any], manifest: dict[str, Any]) -> None:
        import pyarrow as pa

        self.path, self.entry, self.vocab_size = folder / entry["file"], entry, manifest["vocab_size"]
        self.opened = self._state()
        if self.opened[0] != entry["bytes"]:
            raise self.error(f"the manifest says {entry['bytes']} bytes, the file holds {self.opened[0]}")
        schema = ShardFormat(manifest["kind"], manifest["vocab_size"], manifest["tokenizer"]["fingerprint"]).schema()
        try:
            mapped = pa.memory_map(str(self.path))
            reader = pa.ipc.open_file(mapped)
            if not reader.schema.equals(schema, check_metadata=True):
                raise self.error(f"its columns or header are not the manifest's: {_schema_difference(reader.schema, schema)}")
            if reader.num_record_batches != 1:
                raise self.error(f"holds {reader.num_record_batches} record batches, a shard has 1")
            self.batch = reader.get_batch(0)
            mapped.close()  # the mapping stays while the batch does: thousands of shards hold no file open
        except (pa.ArrowInvalid, OSError) as error:
            if getattr(error, "errno", None) == errno.ENOMEM:
                raise ShardError(f"{self.path}: the system maps no more files into this process; {_MORE_MAPS}") from error
            raise self.error(f"not a readable Arrow file ({error})") from error
        self._map_columns()

    def _map_columns(self) -> None:
        lists = [self.batch.column(name) for name in ("tokens", "mask") if name in self.batch.schema.names]
        if any(column.null_count for column in self.batch.columns):
            raise self.error("holds nulls")
        all_offsets = [np.asarray(column.offsets) for column in lists]
        values = [np.asarray(column.values) for column in lists]
        self.offsets, self.tokens, self.masks = all_offsets[0], values[0], values[1] if len(values) == 2 else None
        self.lengths = np.diff(self.offsets).astype(np.int32)
        if len(self.lengths) != self.entry["documents"]:
            raise self.error(f"the manifest says {self.entry['documents']} documents, the file holds {len(self.lengths)}")
        if len(self.tokens) != self.entry["tokens"]:
            raise self.error(f"the manifest says {self.entry['tokens']} tokens, the file holds {len(self.tokens)}")
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.tokens) or self.lengths.min() < 0:
            raise self.error(f"a document reaches outside the {len(self.tokens)} tokens (offsets up to {self.offsets.max()})")
        if self.lengths.min() == 0:
            raise self.error(f"document {int(self.lengths.argmin())} of the file has no tokens")
        if len(values) == 2 and (len(values[1]) != len(values[0]) or not np.array_equal(*all_offsets)):
            raise self.error("tokens and masks differ in length")
        ids = self.batch.column("id")
        if [ids[0].as_py(), ids[-1].as_py()] != [self.entry["first_id"], self.entry["last_id"]]:
            here, there = f"{ids[0].as_py()!r} … {ids[-1].as_py()!r}", f"{self.entry['first_id']!r} … {self.entry['last_id']!r}"
            raise self.error(f"holds documents {here}, the manifest says {there}: another shard lies here")

    def source_index(self, names: list[str]) -> np.ndarray:
        if len(self.entry["sources"]) == 1:  # without touching the column
            return np.full(len(self.lengths), names.index(next(iter(self.entry["sources"]))), np.int32)
        import pyarrow as pa
        import pyarrow.compute as pc

        index = pc.index_in(self.batch.column("source"), pa.array(names))
        if index.null_count:
            raise self.error("names a source that the manifest does not have")
        return np.asarray(index, np.int32)

    def verify(self) -> None:
        """Every byte against the manifest's hash, then every token against the vocabulary."""
        if (found := sha256_file(self.path)) != self.entry["sha256"]:
            raise self.error(f"sha256 is {found[:12]}…, the manifest says {self.entry['sha256'][:12]}…: its content changed")
        if (highest := int(self.tokens.max())) >= self.vocab_size:
            raise self.error(f"holds token id {highest}, the vocabulary ends at {self.vocab_size - 1}")
        if self.masks is not None and self.masks.max() > 1:
            raise self.error("a mask holds other values than 0 and 1")
        self.check_unchanged()

    def _state(self) -> tuple[int, int, int]:
        try:
            stat = os.stat(self.path)
        except OSError as error:
            raise self.error(f"cannot be read ({error.strerror})") from error
        return stat.st_size, stat.st_ino, stat.st_mtime_ns

    def check_unchanged(self) -> None:
        if (now := self._state()) != self.opened:
            raise self.error(f"changed while it was open (size, inode, time: {self.opened}, now {now})")

    def error(self, fault: str) -> ShardError:
        return ShardError(f"{self.path}: {fault}; {_AGAIN}")


def _read_manifest(folder: Path) -> tuple[dict[str, Any], str]:
    """The manifest and the sha256 of its bytes; ShardError unless it is whole and agrees with itself and the folder."""
    path = folder / MANIFEST
    try:
        data = path.read_bytes()
        manifest = json.loads(data)
    except OSError as error:
        parts = sorted(folder.glob(f"*/{MANIFEST}"))  # of a --split, or of several sources
        remedy = f"did you mean {parts[-1].parent}?" if parts else "name a folder that data_tools.prepare finished"
        raise ShardError(f"{path}: no finished shards here ({error.strerror}); {remedy}") from error
    except ValueError as error:
        raise ShardError(f"{path}: not JSON ({error}); {_AGAIN}") from error
    if (version := manifest.get("format_version") if isinstance(manifest, dict) else None) != FORMAT_VERSION:
        raise ShardError(f"{path}: format_version {version!r}, this program reads {FORMAT_VERSION}; prepare the shards again")
    try:
        faults = _manifest_faults(folder, manifest)
    except (KeyError, TypeError, AttributeError, StopIteration) as error:
        faults = [f"a field is missing or malformed ({error!r})"]
    if faults:
        raise ShardError(f"{path}: {'; '.join(faults)}; {_AGAIN}")
    return manifest, hashlib.sha256(data).hexdigest()


def _manifest_faults(folder: Path, manifest: dict[str, Any]) -> list[str]:
    entries, faults = manifest["shards"], []
    if manifest["kind"] not in KINDS:
        faults.append(f"kind {manifest['kind']!r} is none of {KINDS}")
    if manifest["dtype"] != (dtype := token_dtype(manifest["vocab_size"]).name):
        faults.append(f"dtype {manifest['dtype']}, but a vocabulary of {manifest['vocab_size']} is stored as {dtype}")
    names, hashes = [entry["file"] for entry in entries], {entry["sha256"] for entry in entries}
    if names != [f"{k:05d}.arrow" for k in range(len(names))]:
        faults.append(f"shards are not 00000.arrow, 00001.arrow … in order: {', '.join(names[:5])}{' …' if len(names) > 5 else ''}")
    elif len(hashes) != len(names):
        faults.append("two shards have one content: a shard is there twice")
    if strays := sorted(path.name for path in folder.glob("*.arrow") if path.name not in set(names)):
        faults.append(f"the folder holds {strays[0]}, which the manifest does not know")
    if manifest["counts"] != sum_counts(entries):
        faults.append("counts are not the sum of the shards'")
    if manifest["checksum"] != manifest_checksum(manifest):
        faults.append("checksum does not match: the file was changed after it was written")
    return faults


def _schema_difference(found: Any, wanted: Any) -> str:
    if found != wanted:
        here, there = (", ".join(f"{field.name}: {field.type}" for field in schema) for schema in (found, wanted))
        return f"{here} instead of {there}"
    pairs = {key.decode(): (value.decode(), (found.metadata or {}).get(key, b"nothing").decode()) for key, value in wanted.metadata.items()}
    return ", ".join(f"{key} {there[:12]} instead of {here[:12]}" for key, (here, there) in pairs.items() if here != there)
