"""`python -m data_tools.prepare corpus`: documents, or any text that datasets reads → token shards.

inputs → parts → `read_part` → chunks of text → `encode_chunk` → chunks of tokens → cut into shards by token count → manifests.
Tasks run on any number of workers; the shards depend on the documents' order and the arguments, on nothing else.
"""

import argparse
import json
import shutil
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.corpus import remote
from data_tools.corpus.origin import find_origins
from data_tools.corpus.records import find_inputs, first_line_number, split_inputs
from data_tools.corpus.tasks import BAD, encode_chunk, read_part, read_table, write_one_shard
from data_tools.files.atomic import write_atomically
from data_tools.files.places import content_hash, is_remote, state_of
from data_tools.shards.format import MANIFEST, ShardFormat
from data_tools.shards.reader import Shards
from data_tools.shards.writer import SHARD_TOKENS, write_manifest
from data_tools.tokens.tokenizer import Tokenizer
from data_tools.work import tasks as work
from data_tools.work.workplace import PrepareError, adopt_plan, claimed, clear, clear_leftovers, describe_differences

EXAMPLE = """example:
  python -m data_tools.prepare corpus 'papers/documents/train-*.jsonl.gz' --tokenizer models/llama-2-7b --out shards/astro
  python -m data_tools.prepare corpus abstracts.jsonl.gz --text-field title --text-field abstract --split heldout=0.1 \\
      --tokenizer models/llama-2-7b --out shards/abstracts      # → shards/abstracts/train, shards/abstracts/heldout
  python -m data_tools.prepare corpus s3://bucket/papers/documents --tokenizer models/llama-2-7b --out s3://bucket/shards --work /scratch

Killed or stopped, the same command goes on where it was. The same input and arguments always make the same bytes."""
FAST_FROM_BYTES = 4 * 2**20  # below, the reference is done before a fast path is proven
SAMPLE_BYTES = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="jsonl, json, parquet, csv, txt (plain or compressed), folder, URL (s3://… too) or Hub name",
    )
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="DIR", help="folder of the model's tokenizer")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to make; local, or fsspec's (s3://…) with --work")
    parser.add_argument("--work", metavar="DIR", help="local (or shared) folder in which a remote --out is made before it is uploaded")
    parser.add_argument("--source", default="corpus", help="the name under which these documents are counted (default: corpus)")
    parser.add_argument(
        "--text-field", action="append", metavar="F", help="field with the text (default: text); several are joined by a blank line"
    )
    parser.add_argument(
        "--id-field", default="id", metavar="F", help="field with the id (default: id); rows without one are named by their text's hash"
    )
    parser.add_argument(
        "--where", action="append", default=[], metavar="FIELD=VALUE", help="keep only rows where it is so; may be repeated"
    )
    parser.add_argument(
        "--split", action="append", default=[], metavar="NAME=SHARE", help="hold out a share by hash of the id: OUT/train and OUT/NAME"
    )
    parser.add_argument(
        "--bad-rows", type=float, default=0.01, metavar="SHARE", help="stop when more rows than this cannot be read (default: 0.01)"
    )
    parser.add_argument(
        "--shard-tokens", type=int, default=SHARD_TOKENS, metavar="N", help=f"tokens in a shard, about (default: {SHARD_TOKENS})"
    )
    parser.add_argument("--no-bos", action="store_true", help="no BOS before a document")
    parser.add_argument("--no-eos", action="store_true", help="no EOS behind a document")
    parser.add_argument("--reference", action="store_true", help="encode with the reference tokenizer only, never with gigatoken")
    work.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    arguments, out = _arguments(args), remote.local_folder(args.out, args.work)
    tokenizer = Tokenizer.load(args.tokenizer)
    inputs = find_inputs(remote.expand(args.inputs))
    plan = {
        "arguments": arguments,
        "tokenizer": _identity_of_rule(tokenizer.rule(not args.no_bos, not args.no_eos)),
        "inputs": [_identity(input) for input in inputs],
        "versions": _versions(),
    }
    names = ["train", *dict(arguments["split"])] if arguments["split"] else [""]
    if not is_remote(args.out):
        _make(args, out, inputs, plan, tokenizer)
    elif _is_uploaded(args.out, names, plan):
        shutil.rmtree(out, ignore_errors=True)  # of a run that was killed behind the last manifest
    else:
        _make(args, out, inputs, plan, tokenizer)
        remote.upload(out, args.out, names)


def _make(args: argparse.Namespace, out: Path, inputs: list[dict[str, Any]], plan: dict[str, Any], tokenizer: Tokenizer) -> None:
    runner, arguments, tokenizer_rule = work.chosen(args), plan["arguments"], tokenizer.rule(not args.no_bos, not args.no_eos)
    folders = {0: out} | {k: out / name for k, name in enumerate(["train", *dict(arguments["split"])]) if arguments["split"]}
    if _is_finished(out, folders, plan):
        return
    origins = find_origins(inputs)
    with claimed(out) as work_folder:
        if not (work_folder / "plan.json").exists():
            _refuse_foreign(folders)
        if adopt_plan(work_folder, plan):
            print(f"{out}: going on with unfinished work", file=sys.stderr)
        try:
            read = _read(inputs, arguments, work_folder, runner)
        except PrepareError:
            clear(work_folder)  # input or arguments must change: no use for what was read
            raise
        tokenizer_rule |= _choose_encoder(tokenizer, read, arguments, work_folder)
        tokens = _encode(args.tokenizer, read, tokenizer_rule, work_folder, runner)
        shard_format = ShardFormat("corpus", tokenizer.vocab_size, tokenizer.fingerprint)
        entries = _cut(tokens, folders, shard_format, arguments, work_folder, runner)
        if (now := [_identity(input) for input in find_inputs(remote.expand(args.inputs))]) != plan["inputs"]:
            what = describe_differences(plan["inputs"], now)[0]
            raise PrepareError(f"{out}: the input changed meanwhile ({what}); delete {work_folder} and start again")
        provenance = {"inputs": read["inputs"], "arguments": arguments, "versions": plan["versions"]}
        provenance |= {"rows": read["rows"], "dropped": read["dropped"]} | ({"provenance": origins} if origins else {})
        for k, folder in folders.items():
            write_manifest(folder, shard_format, tokenizer_rule, entries[k], **provenance)
        clear(work_folder)
    _report(folders, entries, read)


def _arguments(args: argparse.Namespace) -> dict[str, Any]:
    """What decides the bytes; as JSON gives it back, so that it can be compared with a manifest's."""
    if wrong := [word for word in args.where if "=" not in word]:
        raise PrepareError(f"--where {wrong[0]}: write FIELD=VALUE")
    splits = []
    for word in args.split:
        name, _, share = word.partition("=")
        try:
            splits.append([name, float(share)])
        except ValueError:
            raise PrepareError(f"--split {word}: write NAME=SHARE, for instance heldout=0.1") from None
        if not name.isidentifier() or name == "train" or not 0 < splits[-1][1] < 1:
            raise PrepareError(f"--split {word}: needs a plain name other than train, and a share between 0 and 1")
    if sum(share for _, share in splits) >= 1 or len(dict(splits)) < len(splits):
        raise PrepareError(f"--split {', '.join(args.split)}: names must differ, and leave something for train")
    if args.shard_tokens < 1 or not 0 <= args.bad_rows <= 1:
        raise PrepareError(f"--shard-tokens {args.shard_tokens}, --bad-rows {args.bad_rows}: at least 1, and between 0 and 1")
    arguments = {"source": args.source, "text_fields": args.text_field or ["text"], "id_field": args.id_field}
    arguments |= {"where": [word.split("=", 1) for word in args.where], "split": splits, "bad_rows": args.bad_rows}
    return arguments | {"shard_tokens": args.shard_tokens, "reference": args.reference}


def _identity(input: dict[str, Any]) -> dict[str, Any]:
    return input | state_of(input["path"])


def _identity_of_rule(rule: dict[str, Any]) -> dict[str, Any]:
    return {key: rule[key] for key in ("fingerprint", "add_bos", "add_eos")}


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("datasets", "datatrove", "numpy", "pyarrow")}


def _is_finished(out: Path, folders: dict[int, Path], plan: dict[str, Any]) -> bool:
    """Whether just this was made already; PrepareError if something else was."""
    if not any((folder / MANIFEST).exists() for folder in {out, out / "train", *folders.values()}):
        return False
    if not all((folder / MANIFEST).exists() for folder in folders.values()):
        if (out / ".work").exists():
            return False  # killed between two manifests
        raise PrepareError(f"{out}: holds shards with other splits; name another --out, or delete it")
    for folder in folders.values():
        _refuse_other(Shards.open(folder, verify="size").manifest, str(folder), plan)
    clear_leftovers(out)
    print(f"{out}: already made from this input with these arguments; nothing to do")
    return True


def _refuse_other(manifest: dict[str, Any], folder: str, plan: dict[str, Any]) -> None:
    """PrepareError when the finished shards are not of this plan."""
    there = {"arguments": manifest["arguments"], "tokenizer": _identity_of_rule(manifest["tokenizer"])}
    there["inputs"] = [{key: input[key] for key in ("path", "bytes", "sha256")} for input in manifest["inputs"]]
    with ThreadPoolExecutor() as pool:
        hashes = list(pool.map(content_hash, [input["path"] for input in plan["inputs"]]))
    here = {"arguments": plan["arguments"], "tokenizer": plan["tokenizer"]}
    here["inputs"] = [{"path": input["path"], "bytes": input["bytes"], "sha256": sha} for input, sha in zip(plan["inputs"], hashes)]
    if differences := describe_differences(there, here):
        raise PrepareError(f"{folder}: was made otherwise ({'; '.join(differences[:5])}); name another --out, or delete {folder}")


def _is_uploaded(out: str, names: list[str], plan: dict[str, Any]) -> bool:
    """Whether just this lies in the remote OUT, whole; PrepareError if something else does."""
    made = remote.read_manifests(out, names)
    for name, manifest in made.items():
        _refuse_other(manifest, f"{out}/{name}".rstrip("/"), plan)
    if not set(names) <= made.keys():
        return False  # killed between two manifests, or not begun
    print(f"{out}: already made from this input with these arguments; nothing to do")
    return True


def _refuse_foreign(folders: dict[int, Path]) -> None:
    for folder in folders.values():
        if folder.exists() and (strange := sorted(folder.glob("*.arrow"))):
            raise PrepareError(f"{strange[0]}: not of an unfinished run of this command; name another --out, or move it away")


# ---- the three stages ----


def _read(inputs: list[dict[str, Any]], arguments: dict[str, Any], work_folder: Path, runner: work.Runner) -> dict[str, Any]:
    """Chunks in the order of the input, counts, and what was dropped."""
    parts = split_inputs(inputs)
    rule = {
        "where": arguments["where"],
        "text_fields": arguments["text_fields"],
        "id_field": arguments["id_field"],
        "splits": arguments["split"],
    }
    chunks = (work_folder / "chunks").absolute()
    chunks.mkdir(exist_ok=True)
    tasks = [{"part": _absolute(part), "rule": rule, "chunks": str(chunks), "number": number} for number, part in enumerate(parts)]
    results = work.run_tasks(read_part, tasks, work_folder / "read", runner, label="read", sizes=[part["bytes"] for part in parts])
    dropped: Counter[str] = Counter()
    for result in results:
        dropped.update(result["dropped"])
    records = sum(result["rows"] for result in results)
    documents = sum(chunk["documents"] for result in results for chunk in result["chunks"])
    bad = sum(count for reason, count in dropped.items() if reason.startswith(BAD))
    if bad > arguments["bad_rows"] * records:
        part, (number, reason) = next((task["part"], result["bad"]) for task, result in zip(tasks, results) if result["bad"])
        place = f"{part['path']}:{number + first_line_number(part) - 1}"
        raise PrepareError(f"{place}: {reason}; {bad} of {records} rows cannot be read; mend them, or allow more with --bad-rows")
    if not documents:
        fields = sorted({name for result in results for name in result["fields"]})
        why = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common(3)) or "no rows"
        raise PrepareError(
            f"{inputs[0]['path']}: no document in {len(inputs)} inputs ({why}); fields there are {', '.join(fields)}; see --text-field"
        )
    for split, name in enumerate(["train", *dict(arguments["split"])]):
        if not any(chunk["splits"].get(str(split)) for result in results for chunk in result["chunks"]):
            raise PrepareError(
                f"--split: none of {documents} documents falls to {name} by the hash of its id; give other shares, or more documents"
            )
    provenance = []
    for input in inputs:
        mine = [result for part, result in zip(parts, results) if part["path"] == input["path"]]
        count = sum(chunk["documents"] for result in mine for chunk in result["chunks"])
        provenance.append({"path": input["path"], "bytes": input["bytes"], "sha256": mine[0]["sha256"], "documents": count})
    ordered = [chunk | {"file": str(chunks / chunk["file"])} for result in results for chunk in result["chunks"]]
    return {"chunks": ordered, "rows": records, "dropped": dict(sorted(dropped.items())), "inputs": provenance}


def _absolute(part: dict[str, Any]) -> dict[str, Any]:
    return part | {"path": str(Path(part["path"]).absolute())} if Path(part["path"]).exists() else part


def _choose_encoder(tokenizer: Tokenizer, read: dict[str, Any], arguments: dict[str, Any], work_folder: Path) -> dict[str, Any]:
    """`{"encoder", "fast_path"}` for the manifest: gigatoken if a sample of this very text comes out the same, else the reference."""
    kept = work_folder / "encoder.json"
    if kept.exists():
        return json.loads(kept.read_bytes())
    chunks, fast = read["chunks"], None
    if arguments["reference"]:
        verdict = "not tried: --reference"
    elif sum(chunk["bytes"] for chunk in chunks) < FAST_FROM_BYTES:
        verdict = "not tried: little text"
    else:
        texts: list[str] = []
        for chunk in chunks[:: max(1, len(chunks) // 64)]:
            column = read_table(Path(chunk["file"])).column("text")
            share = max(1, len(column) * SAMPLE_BYTES // (chunk["bytes"] * min(64, len(chunks))))
            texts += column.take(np.linspace(0, len(column) - 1, share).astype(np.int64)).to_pylist()
        fast, verdict = tokenizer.fast_path(texts)
        print(f"tokenizer: {verdict}: {'used' if fast else 'the reference is used, slower'}", file=sys.stderr)
    choice = {"encoder": (fast or tokenizer).backend, "fast_path": verdict}
    write_atomically(kept, json.dumps(choice).encode())
    return choice


def _encode(
    folder: Path, read: dict[str, Any], rule: dict[str, Any], work_folder: Path, runner: work.Runner, again: bool = False
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(file, length and split of each of its documents), in order. A doubt about the fast path starts this stage anew, without it."""
    fast = rule["encoder"] != rule["backend"]
    out = (work_folder / ("tokens" if fast else "tokens_reference")).absolute()
    out.mkdir(exist_ok=True)
    files = [str(out / Path(chunk["file"]).name) for chunk in read["chunks"]]
    tasks = [
        {"chunk": chunk["file"], "out": file, "tokenizer": str(folder.absolute()), "rule": rule, "fast": fast}
        for chunk, file in zip(read["chunks"], files)
    ]
    sizes = [chunk["bytes"] for chunk in read["chunks"]]
    results = work.run_tasks(encode_chunk, tasks, work_folder / f"encode_{out.name}", runner, label="encode", sizes=sizes)
    if doubts := [result["doubt"] for result in results if result["doubt"] is not None]:
        print(f"tokenizer: {rule['encoder']} encodes {doubts[0][:80]!r} otherwise: all is encoded again by the reference", file=sys.stderr)
        rule |= {"encoder": rule["backend"], "fast_path": f"given up: {len(doubts)} chunks differed from the reference"}
        return _encode(folder, read, rule, work_folder, runner)
    tables = [read_table(Path(file)) for file in files]
    lengths = [np.diff(np.asarray(table.column("tokens").chunk(0).offsets)) for table in tables]
    return [(file, length, np.asarray(table.column("split").chunk(0))) for file, length, table in zip(files, lengths, tables)]


def _cut(
    tokens: list[tuple[str, np.ndarray, np.ndarray]],
    folders: dict[int, Path],
    shard_format: ShardFormat,
    arguments: dict[str, Any],
    work_folder: Path,
    runner: work.Runner,
) -> dict[int, list[dict[str, Any]]]:
    """Write the shards of every split; return their manifest entries by split."""
    tasks, sizes = [], []
    for split, folder in folders.items():
        mine = [(file, lengths[splits == split]) for file, lengths, splits in tokens]
        for number, pieces in enumerate(cut_into_shards([lengths for _, lengths in mine], arguments["shard_tokens"])):
            task = {"path": str(folder.absolute() / f"{number:05d}.arrow"), "split": split, "source": arguments["source"]}
            task["pieces"] = [[mine[k][0], first, last] for k, first, last in pieces]
            tasks.append(
                task | {"format": {"kind": shard_format.kind, "vocab_size": shard_format.vocab_size, "tokenizer": shard_format.tokenizer}}
            )
            sizes.append(sum(int(mine[k][1][first:last].sum()) for k, first, last in pieces) * 2)
    entries = work.run_tasks(write_one_shard, tasks, work_folder / "shards", runner, label="write", sizes=sizes)
    return {split: [entry for task, entry in zip(tasks, entries) if task["split"] == split] for split in folders}


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


def _report(folders: dict[int, Path], entries: dict[int, list[dict[str, Any]]], read: dict[str, Any]) -> None:
    if read["dropped"]:
        print("dropped: " + ", ".join(f"{count:,} {reason}" for reason, count in read["dropped"].items()))
    for split, folder in folders.items():
        documents, tokens = (sum(entry[key] for entry in entries[split]) for key in ("documents", "tokens"))
        print(f"made {folder}: {documents:,} documents, {tokens:,} tokens, {len(entries[split])} shards")
