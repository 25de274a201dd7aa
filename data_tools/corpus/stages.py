"""The three stages of a corpus, each many tasks: read the inputs, encode their text, cut the tokens into shards.

inputs → `read_text` → `Text`: chunks of text, in order → `choose_encoder` → `encode_text` → chunks of tokens → `write_shards` → shards' entries
"""

import json
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.corpus.document import BAD, Rule
from data_tools.corpus.plan import Arguments
from data_tools.corpus.records import PART_BYTES, Input, Part, first_line_number, split_inputs
from data_tools.corpus.tasks import (
    Chunk,
    Encoded,
    EncodeTask,
    PartRead,
    ReadTask,
    ShardTask,
    encode_chunk,
    read_part,
    read_table,
    write_one_shard,
)
from data_tools.files.atomic import write_atomically
from data_tools.shards.format import ShardFormat
from data_tools.tokens.tokenizer import Tokenizer
from data_tools.work.tasks import Runner, run_tasks
from data_tools.work.workplace import PrepareError

FAST_FROM_BYTES = 4 * 2**20  # below, the reference is done before a fast path is proven
SAMPLE_BYTES = 2**20


@dataclass(frozen=True)
class Text:
    """What was read of all inputs."""

    chunks: list[Chunk]  # in the order of the input, their files with the folder
    records: int
    dropped: dict[str, int]  # reason → records
    inputs: list[dict[str, Any]]  # path, bytes, sha256, documents of each, as manifests list them


def read_text(inputs: list[Input], arguments: Arguments, work_folder: Path, runner: Runner) -> Text:
    """Raises PrepareError when too much cannot be read, or no document comes of it."""
    parts, rule = split_inputs(inputs), Rule(arguments.where, arguments.text_fields, arguments.id_field, arguments.split)
    folder = (work_folder / "chunks").absolute()
    folder.mkdir(exist_ok=True)
    tasks = [ReadTask(_absolute(part), rule, str(folder), number) for number, part in enumerate(parts)]
    sizes = [part.bytes for part in parts]
    results = run_tasks(read_part, [task.to_json() for task in tasks], work_folder / "read", runner, label="read", sizes=sizes)
    read = [PartRead.of_json(result) for result in results]
    dropped: Counter[str] = Counter()
    for each in read:
        dropped.update(each.dropped)
    _refuse_bad(tasks, read, dropped, arguments.bad_rows)
    _refuse_empty(inputs, read, dropped, arguments.sides)
    if empty := [
        part.path
        for part, each in zip(parts, read)
        if part.is_first() and part.reader != "hub" and not (each.records or part.bytes > PART_BYTES)
    ]:
        print(f"without a row: {len(empty)} of {len(inputs)} inputs ({', '.join(empty[:3])}{' …' * (len(empty) > 3)})", file=sys.stderr)
    listed = []
    for input in inputs:
        mine = [each for part, each in zip(parts, read) if part.path == input.path]
        count = sum(chunk.documents for each in mine for chunk in each.chunks)
        listed.append({"path": input.path, "bytes": input.bytes, "sha256": mine[0].sha256, "documents": count})
    chunks = [replace(chunk, file=str(folder / chunk.file)) for each in read for chunk in each.chunks]
    return Text(chunks, sum(each.records for each in read), dict(sorted(dropped.items())), listed)


def _absolute(part: Part) -> Part:
    return replace(part, path=str(Path(part.path).absolute())) if Path(part.path).exists() else part


def _refuse_bad(tasks: list[ReadTask], read: list[PartRead], dropped: Counter[str], share: float) -> None:
    """PrepareError, with the place of the first, when more records than this share cannot be read."""
    records = sum(each.records for each in read)
    bad = sum(count for reason, count in dropped.items() if reason.startswith(BAD))
    if bad > share * records:
        part, (number, reason) = next((task.part, each.bad) for task, each in zip(tasks, read) if each.bad is not None)
        place = f"{part.path}:{number + first_line_number(part) - 1}"
        raise PrepareError(f"{place}: {reason}; {bad} of {records} rows cannot be read; mend them, or allow more with --bad-rows")


def _refuse_empty(inputs: list[Input], read: list[PartRead], dropped: Counter[str], sides: list[str]) -> None:
    """PrepareError when there is no document, or none for one of the sides."""
    documents: Counter[int] = Counter()
    for each in read:
        for chunk in each.chunks:
            documents.update(chunk.splits)
    if not documents:
        fields = sorted({name for each in read for name in each.fields})
        why = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common(3)) or "no rows"
        remedy = f"fields there are {', '.join(fields)}; see --text-field" if fields else "is it the right file, and whole?"
        if fields and dropped and all(reason.startswith("not ") and "=" in reason for reason in dropped):
            remedy = f"--where let nothing through; fields there are {', '.join(fields)}"
        raise PrepareError(f"{inputs[0].path}: no document in {len(inputs)} inputs ({why}); {remedy}")
    for split, name in enumerate(sides):
        if not documents[split]:
            raise PrepareError(
                f"--split: none of {documents.total()} documents falls to {name} by the hash of its id; give other shares, or more documents"
            )


def choose_encoder(tokenizer: Tokenizer, chunks: list[Chunk], reference: bool, work_folder: Path) -> dict[str, Any]:
    """`{"encoder", "fast_path"}` for the manifest: gigatoken if a sample of this very text comes out the same, else the reference."""
    kept = work_folder / "encoder.json"
    if kept.exists():
        return json.loads(kept.read_bytes())
    fast = None
    if reference:
        verdict = "not tried: --reference"
    elif sum(chunk.bytes for chunk in chunks) < FAST_FROM_BYTES:
        verdict = "not tried: little text"
    else:
        texts: list[str] = []
        for chunk in chunks[:: max(1, len(chunks) // 64)]:
            column = read_table(Path(chunk.file)).column("text")
            share = max(1, len(column) * SAMPLE_BYTES // (chunk.bytes * min(64, len(chunks))))
            texts += column.take(np.linspace(0, len(column) - 1, share).astype(np.int64)).to_pylist()
        fast, verdict = tokenizer.fast_path(texts)
        print(f"tokenizer: {verdict}: {'used' if fast else 'the reference is used, slower'}", file=sys.stderr)
    choice = {"encoder": (fast or tokenizer).backend, "fast_path": verdict}
    write_atomically(kept, json.dumps(choice).encode())
    return choice


@dataclass(frozen=True)
class TokenChunk:
    file: str
    lengths: np.ndarray  # (documents,) int64, tokens of each
    splits: np.ndarray  # (documents,) int8


def encode_text(
    tokenizer: Path, chunks: list[Chunk], rule: dict[str, Any], work_folder: Path, runner: Runner
) -> tuple[list[TokenChunk], dict[str, Any]]:
    """Chunks of tokens, in order, and the tokenizer's rule as it was followed: a doubt about the fast path starts anew without it."""
    fast = rule["encoder"] != rule["backend"]
    out = (work_folder / ("tokens" if fast else "tokens_reference")).absolute()
    out.mkdir(exist_ok=True)
    files = [str(out / Path(chunk.file).name) for chunk in chunks]
    tasks = [EncodeTask(chunk.file, file, str(tokenizer.absolute()), rule, fast).to_json() for chunk, file in zip(chunks, files)]
    sizes = [chunk.bytes for chunk in chunks]
    results = run_tasks(encode_chunk, tasks, work_folder / f"encode_{out.name}", runner, label="encode", sizes=sizes)
    if doubts := [doubt for result in results if (doubt := Encoded(**result).doubt) is not None]:
        print(f"tokenizer: {rule['encoder']} encodes {doubts[0][:80]!r} otherwise: all is encoded again by the reference", file=sys.stderr)
        rule = rule | {"encoder": rule["backend"], "fast_path": f"given up: {len(doubts)} chunks differed from the reference"}
        return encode_text(tokenizer, chunks, rule, work_folder, runner)
    tables = [read_table(Path(file)) for file in files]
    lengths = [np.diff(np.asarray(table.column("tokens").chunk(0).offsets)) for table in tables]
    splits = [np.asarray(table.column("split").chunk(0)) for table in tables]
    return [TokenChunk(*each) for each in zip(files, lengths, splits)], rule


def write_shards(
    tokens: list[TokenChunk], folders: list[Path], shard_format: ShardFormat, arguments: Arguments, work_folder: Path, runner: Runner
) -> list[list[dict[str, Any]]]:
    """Write the shards of every split to its folder; return their manifest entries by split."""
    tasks, sizes = [], []
    for split, folder in enumerate(folders):
        lengths = [chunk.lengths[chunk.splits == split] for chunk in tokens]
        for number, cuts in enumerate(cut_into_shards(lengths, arguments.shard_tokens)):
            path, pieces = str(folder.absolute() / f"{number:05d}.arrow"), [(tokens[k].file, first, last) for k, first, last in cuts]
            tasks.append(ShardTask(path, split, arguments.source, pieces, shard_format))
            sizes.append(sum(int(lengths[k][first:last].sum()) for k, first, last in cuts) * 2)
    written = [task.to_json() for task in tasks]
    entries = run_tasks(write_one_shard, written, work_folder / "shards", runner, label="write", sizes=sizes)
    return [[entry for task, entry in zip(tasks, entries) if task.split == split] for split in range(len(folders))]


def cut_into_shards(lengths: list[np.ndarray], shard_tokens: int) -> list[list[tuple[int, int, int]]]:
    """For each shard its pieces (chunk, first, last document); lengths: per chunk, tokens of each document.

    A document belongs to the shard in whose stretch of `shard_tokens` it begins: that depends on the documents before it only,
    not on how they lie in chunks.
    """
    starts = np.cumsum(np.concatenate([[0], *lengths]))[:-1].astype(np.int64)
    shard = np.unique(starts // shard_tokens, return_inverse=True)[1]  # a stretch within a long document has no beginning: no shard
    chunk = np.repeat(np.arange(len(lengths)), [len(each) for each in lengths])
    first_of_chunk = np.cumsum([0] + [len(each) for each in lengths])
    edges = np.flatnonzero(np.diff(shard, prepend=-1) | np.diff(chunk, prepend=-1))
    shards: list[list[tuple[int, int, int]]] = [[] for _ in range(int(shard[-1]) + 1)]
    for first, last in zip(edges, [*edges[1:], len(shard)]):
        offset = first_of_chunk[chunk[first]]
        shards[shard[first]].append((int(chunk[first]), int(first - offset), int(last - offset)))
    return shards
