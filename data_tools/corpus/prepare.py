"""`python -m data_tools.prepare corpus`: documents, or any text that datasets reads → token shards.

inputs → the `Plan` (plan.py), so that unfinished work goes on and finished work is known → the stages (stages.py): chunks of text →
chunks of tokens → shards → the manifests, and a remote OUT is uploaded (remote.py).
Tasks run on any number of workers; the shards depend on the documents' order and the arguments, on nothing else.
"""

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from data_tools.corpus import remote
from data_tools.corpus.origin import find_origins
from data_tools.corpus.plan import Arguments, Plan, is_finished, is_uploaded
from data_tools.corpus.records import find_inputs
from data_tools.corpus.stages import choose_encoder, encode_text, read_text, write_shards
from data_tools.files.places import is_remote
from data_tools.shards.format import ShardFormat
from data_tools.shards.writer import SHARD_TOKENS, write_manifest
from data_tools.tokens.tokenizer import Tokenizer
from data_tools.work import tasks as work
from data_tools.work.workplace import PrepareError, adopt_plan, claimed, clear, describe_differences

EXAMPLE = """example:
  python -m data_tools.prepare corpus 'papers/documents/train-*.jsonl.gz' --tokenizer models/llama-2-7b --out shards/astro
  python -m data_tools.prepare corpus abstracts.jsonl.gz --text-field title --text-field abstract --split heldout=0.1 \\
      --tokenizer models/llama-2-7b --out shards/abstracts      # → shards/abstracts/train, shards/abstracts/heldout
  python -m data_tools.prepare corpus s3://bucket/papers/documents --tokenizer models/llama-2-7b --out s3://bucket/shards --work /scratch

Killed or stopped, the same command goes on where it was. The same input and arguments always make the same bytes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="jsonl, json, parquet, arrow, csv, tsv, txt (plain, .gz, .zst, .bz2, .xz), folder, pattern, URL (s3://… too) or Hub name",
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
        "--where",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="keep only rows where it is so; may be repeated; true, null and numbers however they are written",
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
    arguments, out = Arguments.of(args), remote.local_folder(args.out, args.work)
    tokenizer = Tokenizer.load(args.tokenizer)
    rule = tokenizer.rule(not args.no_bos, not args.no_eos)
    plan = Plan.of(arguments, rule, find_inputs(remote.expand(args.inputs)))
    if not is_remote(args.out):
        _make(args, out, plan, tokenizer, rule)
    elif is_uploaded(args.out, plan):
        shutil.rmtree(out, ignore_errors=True)  # of a run that was killed behind the last manifest
    else:
        _make(args, out, plan, tokenizer, rule)
        remote.upload(out, args.out, arguments.sides)


def _make(args: argparse.Namespace, out: Path, plan: Plan, tokenizer: Tokenizer, rule: dict[str, Any]) -> None:
    runner, arguments, inputs = work.chosen(args), plan.arguments, list(plan.inputs)
    folders = [out / name for name in arguments.sides]
    if is_finished(out, folders, plan):
        return
    origins = find_origins(inputs)
    with claimed(out) as work_folder:
        if not (work_folder / "plan.json").exists():
            _refuse_foreign(folders)
        if adopt_plan(work_folder, plan.to_json(), lambda: _remove_shards(folders)):
            print(f"{out}: going on with unfinished work", file=sys.stderr)
        try:
            text = read_text(inputs, arguments, work_folder, runner)
        except PrepareError:
            clear(work_folder)  # input or arguments must change: no use for what was read
            raise
        rule |= choose_encoder(tokenizer, text.chunks, arguments.reference, work_folder)
        tokens, rule = encode_text(args.tokenizer, text.chunks, rule, work_folder, runner)
        shard_format = ShardFormat("corpus", tokenizer.vocab_size, tokenizer.fingerprint)
        entries = write_shards(tokens, folders, shard_format, arguments, work_folder, runner)
        _refuse_changed(out, work_folder, plan, Plan.of(arguments, rule, find_inputs(remote.expand(args.inputs))))
        provenance = {"inputs": text.inputs, "arguments": arguments.to_json(), "versions": plan.versions}
        provenance |= {"rows": text.records, "dropped": text.dropped} | ({"provenance": origins} if origins else {})
        for folder, written in zip(folders, entries):
            write_manifest(folder, shard_format, rule, written, **provenance)
        clear(work_folder)
    _report(folders, entries, text.dropped)


def _refuse_foreign(folders: list[Path]) -> None:
    for folder in folders:
        if folder.exists() and (strange := sorted(folder.glob("*.arrow"))):
            raise PrepareError(f"{strange[0]}: not of an unfinished run of this command; name another --out, or move it away")


def _remove_shards(folders: list[Path]) -> None:
    """Those of an unfinished run; foreign ones were refused when it began."""
    for shard in [shard for folder in folders for shard in folder.glob("*.arrow")]:
        shard.unlink()


def _refuse_changed(out: Path, work_folder: Path, plan: Plan, now: Plan) -> None:
    if differences := describe_differences(plan.to_json()["inputs"], now.to_json()["inputs"]):
        raise PrepareError(f"{out}: the input changed meanwhile ({differences[0]}); delete {work_folder} and start again")


def _report(folders: list[Path], entries: list[list[dict[str, Any]]], dropped: dict[str, int]) -> None:
    if dropped:
        print("dropped: " + ", ".join(f"{count:,} {reason}" for reason, count in dropped.items()))
    for folder, written in zip(folders, entries):
        documents, tokens = (sum(entry[key] for entry in written) for key in ("documents", "tokens"))
        print(f"made {folder}: {documents:,} documents, {tokens:,} tokens, {len(written)} shards")
