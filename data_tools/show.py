"""Look inside token shards: what they hold, one document, the table per source; verify every hash.

python -m data_tools.show shards/astro --tokenizer models/llama-2-7b
python -m data_tools.show shards/astro --verify
python -m data_tools.show shards/chat --document conversation-17 --tokenizer models/llama-2-7b
python -m data_tools.show --step 4711 --recipe runs/astro7b --tokenizer models/llama-2-7b
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.corpus.records import InputError, find_inputs, read_records, split_inputs
from data_tools.files.atomic import sha256_file
from data_tools.prepare import call
from data_tools.shards.fingerprint import tokenizer_fingerprints
from data_tools.shards.reader import Shards
from data_tools.tokens.tokenizer import Tokenizer

GREEN, PLAIN = "\x1b[32m", "\x1b[0m"
QUANTILES = (0, 5, 25, 50, 75, 95, 100)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m data_tools.show", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", nargs="*", help="a folder that data_tools.prepare made; with --step, key=value words of the recipe")
    parser.add_argument("--step", type=int, metavar="N", help="the documents behind a step of a run, whatever its number of ranks")
    parser.add_argument(
        "--recipe", metavar="R", help="with --step: the recipe, or the run's folder, which knows what it left out or skipped"
    )
    parser.add_argument("--document", metavar="ID", help="print the document with this id, and where it came from")
    parser.add_argument("--verify", action="store_true", help="check every byte and every token")
    parser.add_argument("--table", action="store_true", help="per source: documents, turns, supervised share, longest, dropped by reason")
    parser.add_argument("--tokenizer", type=Path, metavar="DIR", help="the tokenizer they were made with: shows text instead of ids")
    args = parser.parse_intermixed_args(words)
    if (args.step is None) != (args.recipe is None):
        parser.error("--step N and --recipe R go together")
    if args.step is None and len(args.shards) != 1:
        parser.error("give one folder of shards")
    if args.step is not None and (args.document is not None or args.verify or args.table):
        parser.error("--document, --verify and --table look into a folder of shards; --step goes with --tokenizer alone")
    return call(run if args.step is None else show_step, args)


def show_step(args: argparse.Namespace) -> None:
    """The documents behind a step, with their text where there is a tokenizer.

    Which they are is planned by the trainer, on the floor above: its command is asked, and nothing of it imported.
    """
    door = Path(__file__).resolve().parents[1] / "launch" / "doors" / "documents.py"
    command = [sys.executable, str(door), args.recipe, *args.shards, "--step", str(args.step)]
    done = subprocess.run([*command, "--json"] if args.tokenizer else command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.returncode)  # it has said why
    if args.tokenizer is None:
        print(done.stdout, end="")
        return
    found, tokenizer = json.loads(done.stdout), Tokenizer.load(args.tokenizer)
    opened = {folder: Shards.open(Path(folder), verify="size") for folder in {piece["shards"] for piece in found["pieces"]}}
    for shards in opened.values():
        shards.require_tokenizer(tokenizer_fingerprints(args.tokenizer), where=f"--tokenizer {args.tokenizer}")
    print(f"step {found['step']} of {found['steps']} of {found['of']}" + (f"; skipped: {found['skipped']}" if found["skipped"] else ""))
    for piece in found["pieces"]:
        part = slice(piece["start"], piece["stop"])
        head = f"row {piece['row'] + 1}  {piece['id']} ({piece['source']}), tokens {part.start}:{part.stop} of {piece['length']}"
        print(f"\n--- {head}\n{shorten(render(opened[piece['shards']], piece['index'], tokenizer, part), 600)}")


def run(args: argparse.Namespace) -> None:
    args.shards = Path(args.shards[0])
    shards = Shards.open(args.shards, verify="size")
    tokenizer = Tokenizer.load(args.tokenizer) if args.tokenizer else None
    if tokenizer is not None:
        shards.require_tokenizer(tokenizer_fingerprints(args.tokenizer), where=f"--tokenizer {args.tokenizer}")
    if args.verify:
        print(verify(args.shards))
    if args.table:
        print(table(shards))
    if args.document is not None:
        print(document(shards, args.document, tokenizer))
    if not (args.verify or args.table or args.document is not None):
        print(overview(shards))
        for i in range(min(3, len(shards))):
            print(f"\n--- {shards.id(i)} ({shards.source(i)}, {shards.lengths[i]} tokens)")
            print(shorten(render(shards, i, tokenizer), 600))


def verify(folder: Path) -> str:
    """Read and check everything; ShardError at the first thing that is not as it was written."""
    started = time.perf_counter()
    shards = Shards.open(folder, verify="hash")
    seconds = time.perf_counter() - started
    size = sum(entry["bytes"] for entry in shards.manifest["shards"])
    what = f"{len(shards.manifest['shards'])} shards, {len(shards):,} documents, {shards.lengths.sum():,} tokens are as written"
    return f"verified {folder}: {what} ({size / 1e9:.2f} GB in {seconds:.1f} s, {size / 1e9 / seconds:.2f} GB/s)"


def overview(shards: Shards) -> str:
    manifest, counts = shards.manifest, shards.manifest["counts"]
    lengths = np.percentile(shards.lengths, QUANTILES).astype(int)
    megabytes = sum(entry["bytes"] for entry in manifest["shards"]) / 1e6
    rule, names = shards.tokenizer, ("shortest", "5%", "25%", "median", "75%", "95%", "longest")
    bos, eos = rule["bos_id"] if rule["add_bos"] else "none", rule["eos_id"] if rule["add_eos"] else "none"
    lines = [
        f"{shards.folder}: {manifest['kind']} shards, {counts['documents']:,} documents, {counts['tokens']:,} tokens, "
        f"{len(manifest['shards'])} files, {megabytes:,.1f} MB",
        f"tokenizer   {rule['fingerprint'][:16]}…, {shards.vocab_size:,} ids as {manifest['dtype']}; BOS {bos}, EOS {eos}",
        "tokens      " + ", ".join(f"{name} {value:,}" for name, value in zip(names, lengths)),
    ]
    for name, source in counts["sources"].items():
        share = source["tokens"] / counts["tokens"]
        lines.append(
            f"source      {name}: {source['documents']:,} documents, {source['tokens']:,} tokens ({share:.1%}){_supervised(source)}"
        )
    for input in manifest["inputs"]:
        lines.append(f"input       {input['path']}" + (f": {input['documents']:,} documents" if "documents" in input else ""))
    for origin in manifest.get("provenance", []):
        first, *more = (f"{entry['path']} (sha256 {entry['sha256'][:16]}…)" for entry in origin["inputs"])
        what = f"{origin['made_by']} kept {origin['counts']['kept']:,} of {origin['counts']['read']:,} records of {first}"
        lines.append(f"origin      {what}{f' and {len(more):,} more' if more else ''}; all in {origin['record']}")
    if manifest.get("dropped"):
        lines.append("dropped     " + ", ".join(f"{count} {reason}" for reason, count in _dropped(manifest["dropped"])))
    return "\n".join(lines)


def table(shards: Shards) -> str:
    """Markdown: one line a source."""
    head = ["source", "samples", "turns", "tokens", "supervised", "median", "longest", "dropped"]
    rows, dropped = [], shards.manifest.get("dropped", {})
    per_source = all(isinstance(value, dict) for value in dropped.values())
    for k, (name, counts) in enumerate(shards.manifest["counts"]["sources"].items()):
        lengths = shards.lengths[shards.source_index == k]
        mine = dropped.get(name, {}) if per_source else dropped if len(shards.sources) == 1 else {}
        turns = counts.get("turns", shards.manifest.get("turns", {}).get(name) if isinstance(shards.manifest.get("turns"), dict) else None)
        supervised = f"{counts['supervised_tokens'] / counts['tokens']:.1%}" if "supervised_tokens" in counts else "all"
        reasons = ", ".join(f"{count} {reason}" for reason, count in _dropped(mine)) or "none"
        rows.append(
            [name, f"{counts['documents']:,}", f"{turns:,}" if isinstance(turns, int) else "-", f"{counts['tokens']:,}", supervised]
        )
        rows[-1] += [f"{int(np.median(lengths)):,}", f"{int(lengths.max()):,}", reasons]
    if dropped and not per_source and len(shards.sources) > 1:
        rows.append(["all", *[""] * 6, ", ".join(f"{count} {reason}" for reason, count in _dropped(dropped))])
    widths = [max(len(row[k]) for row in [head, *rows]) for k in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in [head, *rows]]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def document(shards: Shards, id: str, tokenizer: Tokenizer | None) -> str:
    found = shards.find(id)
    if not found:
        raise InputError(f"{shards.folder}: no document {id!r} among {len(shards):,}; the first is {shards.id(0)!r}")
    blocks = []
    for i in found:
        head = f"{id}: document {i} of {len(shards):,}, source {shards.source(i)}, {shards.lengths[i]} tokens"
        blocks.append(f"{head}\nfrom {_origin(shards, id)}\n\n{render(shards, i, tokenizer)}")
    return "\n\n".join(blocks)


def render(shards: Shards, i: int, tokenizer: Tokenizer | None, part: slice = slice(None)) -> str:
    """Text (or ids) of a document, or a part of it; where there is a mask, what is trained on is green, or in ⟦ ⟧ when not on a terminal."""
    tokens, mask = shards.tokens(i)[part], shards.mask(i)
    mask = None if mask is None else mask[part]
    parts = []
    for start, end in runs(mask if mask is not None else np.zeros(len(tokens), np.uint8)):
        ids = tokens[start:end].tolist()
        text = _with_marks_shown(tokenizer, ids) if tokenizer else " ".join(map(str, ids))
        before, behind = ("", "") if mask is None or not mask[start] else (GREEN, PLAIN) if sys.stdout.isatty() else ("⟦", "⟧")
        parts.append(f"{before}{text}{behind}")
    return ("" if tokenizer else " ").join(parts)


def runs(mask: np.ndarray) -> Iterator[tuple[int, int]]:
    """[start, end) of each stretch of equal values: [0, 0, 1] → (0, 2), (2, 3)."""
    edges = [0, *(np.flatnonzero(np.diff(mask)) + 1).tolist(), len(mask)]
    return zip(edges, edges[1:])


def _with_marks_shown(tokenizer: Tokenizer, ids: list[int]) -> str:
    """Decoded text, control tokens by their names: what a reader must see, decoding leaves out."""
    names = {id: mark for mark, id in tokenizer.control.items()}
    parts, start = [], 0
    for end, id in enumerate([*ids, None]):
        if id is None or id in names:
            parts += [tokenizer.decode(ids[start:end]) if end > start else "", names.get(id, "")]
            start = end + 1
    return "".join(parts)


def shorten(text: str, size: int) -> str:
    return text if len(text) <= size else f"{text[:size]} … ({len(text) - size} more characters)"


def _origin(shards: Shards, id: str) -> str:
    """The input that holds this id, and the record as it stands there, if the input is still here."""
    arguments, changed = shards.manifest["arguments"], []
    if shards.manifest["kind"] == "chat":
        return _chat_origin(shards, id)
    for input in shards.manifest["inputs"]:
        path = Path(input["path"])
        if not path.exists() or path.stat().st_size != input["bytes"]:
            changed.append(f"{path} ({'changed' if path.exists() else 'not there any more'})")
            continue
        for part in split_inputs(find_inputs([str(path)])):
            for number, record in read_records(part):
                if isinstance(record, dict) and str(record.get(arguments.get("id_field", "id"))) == id:
                    width = max(40, shutil.get_terminal_size().columns - 12)
                    rest = {key: value for key, value in record.items() if key not in arguments.get("text_fields", ["text"])}
                    return f"{path}, row {number}" + (f"\n     {shorten(json.dumps(rest, ensure_ascii=False), 4 * width)}" if rest else "")
    paths = ", ".join(input["path"] for input in shards.manifest["inputs"]) or "no input named in the manifest"
    return ", ".join(changed) or f"{paths} (named there by no {arguments.get('id_field', 'id')}: the document's name is made of its text)"


def _chat_origin(shards: Shards, id: str) -> str:
    """`lima/17` and `lima/17:own-id/2` are record 17 of all that was read as `lima`: which file holds it, and whether it is still the same."""
    found = re.fullmatch(r"(.*?)/([0-9]+)(?::.*)?(?:/[0-9]+)?", id, re.DOTALL)
    number = int(found[2]) if found else 0
    for input in shards.manifest["inputs"]:
        if found and input["source"] == found[1]:
            if number < input["rows"]:
                return f"{input['path']}, record {number + 1}{_state(input)}"
            number -= input["rows"]
    return ", ".join(input["path"] for input in shards.manifest["inputs"]) or "no input named in the manifest"


def _state(input: dict[str, Any]) -> str:
    path = Path(input["path"])
    if input["path"].startswith("hub:"):
        return " of that data set"
    if not path.exists():
        return " (not there any more)"
    return "" if path.stat().st_size == input["bytes"] and sha256_file(path) == input["sha256"] else " (changed since)"


def _supervised(counts: dict[str, Any]) -> str:
    return f", {counts['supervised_tokens'] / counts['tokens']:.1%} trained on" if "supervised_tokens" in counts else ""


def _dropped(dropped: dict[str, Any]) -> list[tuple[str, int]]:
    """(reason, count), commonest first; a manifest may count by reason or by source and reason."""
    flat: dict[str, int] = {}
    for key, value in dropped.items():
        for reason, count in value.items() if isinstance(value, dict) else [(key, value)]:
            flat[reason] = flat.get(reason, 0) + (len(count) if isinstance(count, list) else int(count))
    return sorted(flat.items(), key=lambda pair: -pair[1])


if __name__ == "__main__":
    sys.exit(main())
