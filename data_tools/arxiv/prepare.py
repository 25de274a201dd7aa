"""arXiv's metadata and LaTeX sources → documents: `python -m data_tools.prepare arxiv`.

arguments → plan.json (what decides the result) → hash_inputs, scan, read_latex, make, compare, publish, as tasks of `work` →
OUT/documents/train-NNN.jsonl.gz, OUT/heldout/, OUT/dropped/, OUT/counts.json, and OUT/provenance.json, which is written last: a folder
without it is not finished. Everything in between lies in OUT/.work; the same command goes on from there after a kill.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.arxiv import make as arxiv_make
from data_tools.arxiv import raw as arxiv_raw
from data_tools.arxiv.inputs import expand, latex_tasks, lines_of, metadata_parts
from data_tools.arxiv.outcome import count_all, deliver, lasting, provenance_of
from data_tools.documents.duplicates import NGRAM, Evaluation, texts_in
from data_tools.documents.filters import FILTERS, all_limits, parse_filters
from data_tools.documents.folder import FOLDERS, RECORD
from data_tools.files.atomic import write_atomically
from data_tools.files.places import describe, filesystem, sha256_of
from data_tools.work import tasks as work
from data_tools.work.workplace import adopt_plan, claimed, clear, clear_leftovers

PARTS = ("title", "abstract", "introduction", "conclusion", "full")
CODE = ("archives", "arxiv", "documents", "files", "latex")  # packages; what they hold makes the documents
EXAMPLE = """example:
  python -m data_tools.prepare arxiv --metadata arxiv-metadata-oai-snapshot.json --latex arXiv_src_*.tar --out corpus/astro
  python -m data_tools.prepare arxiv --metadata arxiv.json --parts abstract --primary-only --since 2010 --license 'cc-*' --out corpus/open
then:
  python -m data_tools.prepare report corpus/astro
  python -m data_tools.prepare corpus corpus/astro/documents --tokenizer DIR --out shards/astro"""


class ArxivError(ValueError):
    """An argument or a folder that cannot be used."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, EXAMPLE
    add = parser.add_argument
    add(
        "--metadata",
        nargs="+",
        default=[],
        metavar="F",
        help="metadata, one JSON a line (Kaggle's snapshot, or id, title, abstract, categories, date)",
    )
    add(
        "--latex",
        nargs="+",
        default=[],
        metavar="PATH",
        help="sources: .tex, .gz, .tar.gz, .tar, arXiv's bulk tars, or folders of those "
        "and of one folder a paper; without --metadata every source becomes a document",
    )
    add(
        "--documents",
        nargs="+",
        default=[],
        metavar="F",
        help="other texts (one JSON a line: id, text) for the same filters and duplicates",
    )
    add("--out", required=True, metavar="DIR", help="folder to make; local, or fsspec's (s3://…) with a local --work")
    add("--work", metavar="DIR", help="where to make the folder for what is not finished (default: OUT/.work)")
    add("--categories", nargs="+", default=["astro-ph*"], metavar="P", help="patterns (default: 'astro-ph*'; '*' for all)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--primary-only", action="store_true", help="the first category must match")
    which.add_argument("--cross-listed", action="store_true", help="any category may match (default)")
    add("--since", default="", metavar="DATE", help="first version not before YYYY[-MM[-DD]]")
    add("--until", default="", metavar="DATE", help="first version not after YYYY[-MM[-DD]]")
    add(
        "--license",
        nargs="+",
        default=[],
        metavar="P",
        help="patterns on cc-by-4.0, cc0-1.0, arxiv-nonexclusive-1.0, unknown … (default: any)",
    )
    add("--keep-withdrawn", action="store_true", help="keep papers taken back by their authors")
    add("--parts", metavar="LIST", help="title,abstract,introduction,conclusion, or full (default: title,abstract; with --latex the four)")
    add("--heldout", type=float, default=0.02, metavar="FRACTION", help="share of papers held out, by a hash of the id (default: 0.02)")
    add(
        "--filters",
        nargs="+",
        default=list(FILTERS),
        metavar="NAME[:LIMIT=N,…]",
        help=f"default: all of {', '.join(FILTERS)}; none for none; limits as in length:min_words=50",
    )
    add("--similarity", type=float, default=0.8, metavar="S", help="share of word 5-grams that makes a near duplicate (default: 0.8)")
    add(
        "--decontaminate",
        nargs="+",
        default=[],
        metavar="FILE",
        help="evaluation sets (JSON, JSON lines or text): documents sharing words are dropped",
    )
    add("--ngram", type=int, default=NGRAM, metavar="N", help=f"words in a row that count as shared (default: {NGRAM})")
    add(
        "--buckets",
        type=int,
        metavar="N",
        help="files to make of each kind (default: 16; 256 with --parts full: one must fit a worker's memory)",
    )
    add(
        "--seconds-per-paper",
        type=float,
        default=5.0,
        metavar="S",
        help="processor time after which a paper's LaTeX is given up (default: 5)",
    )
    work.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Make OUT. Raises ArxivError, PrepareError, PlaceError, FilterError, DuplicatesError or WorkError, with what to do."""
    plan, inputs = _plan(args)
    out, folder = _places(args)
    if message := _already_made(args.out, plan, inputs):
        clear_leftovers(args.out, folder)
        print(message)
        return
    with claimed(args.out, folder):
        if not adopt_plan(folder, plan) and (message := _already_made(args.out, plan, inputs)):
            clear(folder)  # another command has finished between our look and our claim
            print(message)
            return
        results = _stages(args, plan, inputs, folder)
        counts = count_all(plan, results)
        provenance = provenance_of(plan, results, counts)
        deliver(folder, out or args.out, counts, provenance)
        clear(folder)
    kept, dropped = counts["kept"], sum(counts["dropped"].values())
    print(
        f"{args.out}/documents: {kept:,} documents ({counts['train']:,} train, {counts['heldout']:,} held out, "
        f"{counts['total']['words']:,} words) of {counts['read']:,} records; {dropped:,} dropped with reasons in {args.out}/dropped; "
        f"figures: python -m data_tools.prepare report {args.out}"
    )


def _plan(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """What decides the result, and the input files. Nothing here depends on workers or executor."""
    if not (args.metadata or args.latex or args.documents):
        raise ArxivError("nothing to read: give --metadata, --latex or --documents")
    parts = (args.parts or ("title,abstract,introduction,conclusion" if args.latex else "title,abstract")).split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        raise ArxivError(f"--parts {args.parts}: no part is called {unknown[0]!r}; there are {', '.join(PARTS)}")
    if "full" in parts and parts != ["full"]:
        raise ArxivError(f"--parts {args.parts}: full holds the other parts already; write --parts full")
    if not args.latex and (lacking := [part for part in parts if part in PARTS[2:]]):
        raise ArxivError(f"--parts {args.parts}: {lacking[0]} comes from LaTeX sources; add --latex PATH")
    args.buckets = (256 if parts == ["full"] else 16) if args.buckets is None else args.buckets
    for name in ("since", "until"):
        if not re.fullmatch(r"(\d{4}(-\d\d(-\d\d)?)?)?", getattr(args, name)):
            raise ArxivError(f"--{name} {getattr(args, name)}: write YYYY, YYYY-MM or YYYY-MM-DD")
    for name, low, high in (
        ("heldout", 0.0, 1.0),
        ("similarity", 0.3, 1.0),
        ("ngram", 3, 100),
        ("buckets", 1, 800),
        ("seconds_per_paper", 0.1, 3600),
    ):
        if not low <= getattr(args, name) <= high:
            raise ArxivError(f"--{name.replace('_', '-')} {getattr(args, name)}: must be from {low} to {high}")
    inputs = {
        "metadata": expand(args.metadata),
        "documents": expand(args.documents),
        "decontaminate": _evaluation_files(args.decontaminate),
        "latex": latex_tasks(args.latex) if args.latex else [],
    }
    plan = {
        "has_metadata": bool(args.metadata),
        "parts": parts,
        "heldout": args.heldout,
        "similarity": args.similarity,
        "selection": {
            "categories": args.categories,
            "primary_only": args.primary_only,
            "since": args.since,
            "until": args.until,
            "licenses": args.license,
        },
        "keep_withdrawn": args.keep_withdrawn,
        "filters": all_limits(parse_filters(args.filters)),
        "ngram": args.ngram,
        "buckets": args.buckets,
        "seconds_per_paper": args.seconds_per_paper,
        "decontaminate": inputs["decontaminate"],
        "latex": args.latex,
        "inputs": [describe(path) for kind in ("metadata", "documents", "decontaminate") for path in inputs[kind]],
        "files": inputs["metadata"] + inputs["documents"],
        "code": _code(),
    }
    return plan, inputs


def _evaluation_files(paths: list[str]) -> list[str]:
    return [path for given in paths for path in ([given] if filesystem(given)[0].isfile(filesystem(given)[1]) else expand([given]))]


def _code() -> str:
    """A hash of the modules that make the documents: an unfinished run does not go on with another program."""
    digest = hashlib.sha256()
    for name in CODE:
        paths = sorted((Path(__file__).parents[1] / name).glob("*.py"))
        assert paths, f"no modules in {name}"
        for path in paths:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _places(args: argparse.Namespace) -> tuple[Path | None, Path]:
    """OUT where it is local, and the folder for what is not finished, which belongs to this run alone."""
    out = None if "://" in args.out else Path(args.out).absolute()
    if args.work:
        name = re.sub(r"[^\w.-]+", "-", args.out if out is None else str(out)).strip("-")
        folder = Path(args.work).absolute() / f"{name}.work"
    elif out is None:
        raise ArxivError(f"--out {args.out}: a remote folder needs --work DIR, a local (or shared) folder for what is not finished")
    else:
        folder = out / ".work"
    if out and (out / FOLDERS["train"]).exists() and not (out / RECORD).exists() and not folder.exists():
        raise ArxivError(f"{args.out}/documents exists and was not made here; choose another --out")
    return out, folder


def _already_made(out: str, plan: dict[str, Any], inputs: dict[str, list[Any]]) -> str | None:
    """What to tell when OUT is finished; raises ArxivError when it was made of something else."""
    fs, inner = filesystem(out)
    if not fs.exists(f"{inner}/{RECORD}"):
        return None
    made = json.loads(fs.cat_file(f"{inner}/{RECORD}"))
    mine = lasting(plan)
    if changed := [key for key in mine if key != "code" and mine[key] != made["plan"].get(key)]:
        raise ArxivError(
            f"{out}: holds documents of another command or other inputs ({', '.join(changed)}); choose another --out or delete it"
        )
    rows = {row["path"]: row for row in made["inputs"]}
    if rows.keys() != {path for paths in _to_hash(plan, inputs) for path in paths}:
        raise ArxivError(f"{out}: was made of other LaTeX sources; choose another --out or delete it")
    for path in [*plan["files"], *inputs["decontaminate"]]:
        if sha256_of(path) != rows[path]["sha256"]:
            raise ArxivError(f"{out}: was made of another {path}; choose another --out or delete it")
    if mine["code"] != made["plan"]["code"]:
        return f"{out}: was made by this command with another version of the program; delete it to make it anew"
    return f"{out}: was made by this very command before; nothing to do"


def _to_hash(plan: dict[str, Any], inputs: dict[str, list[Any]]) -> list[list[str]]:
    """Paths of every input, a list for each task."""
    bulk = [entry["bulk"] for entry in inputs["latex"] if "bulk" in entry]
    single = dict.fromkeys([*plan["files"], *inputs["decontaminate"], *bulk])
    return [[path] for path in single] + [entry["papers"] for entry in inputs["latex"] if "papers" in entry]


def _stages(args: argparse.Namespace, plan: dict[str, Any], inputs: dict[str, list[Any]], folder: Path) -> dict[str, list[Any]]:
    runner, base, buckets = work.chosen(args), {"work": str(folder)}, range(plan["buckets"])
    sources = inputs["latex"]
    parts = [
        {**base, "number": number, "part": part, "kind": kind, "file": plan["files"].index(part["path"])}
        for number, (kind, part) in enumerate((kind, part) for kind in ("metadata", "documents") for part in metadata_parts(inputs[kind]))
    ]
    if inputs["decontaminate"]:
        _write_evaluation(folder / "evaluation.npz", inputs["decontaminate"], plan["ngram"])
    for name in ("make", "compare"):
        (folder / name).mkdir(exist_ok=True)

    def stage(function: Any, rows: list[dict[str, Any]], label: str, sizes: list[int] | None = None) -> list[Any]:
        return work.run_tasks(function, rows, folder / "tasks" / function.__name__, runner, label=label, sizes=sizes)

    return {
        "inputs": stage(arxiv_raw.hash_inputs, [{"paths": paths} for paths in _to_hash(plan, inputs)], "hash the inputs"),
        "scan": stage(arxiv_raw.scan, parts, "read metadata", [row["part"]["last"] - row["part"]["first"] for row in parts]),
        "latex": stage(
            arxiv_raw.read_latex,
            [{**base, "number": number, "source": entry} for number, entry in enumerate(sources)],
            "read LaTeX",
            [entry["bytes"] for entry in sources],
        ),
        "make": stage(arxiv_make.make, [{**base, "bucket": bucket} for bucket in buckets], "make documents"),
        "compare": stage(arxiv_make.compare, [base], "find duplicates"),
        "publish": stage(arxiv_make.publish, [{**base, "bucket": bucket} for bucket in buckets], "write documents"),
    }


def _write_evaluation(path: Path, files: list[str], n: int) -> None:
    if path.exists():
        return
    held = Evaluation.of(((name, text) for name in files for text in _texts(name)), n)
    out = io.BytesIO()
    np.savez(out, hashes=held.hashes, files=held.files, names=np.array(held.names), n=held.n, short=held.short)
    write_atomically(path, out.getvalue())


def _texts(path: str) -> Any:
    """Strings of a JSON file, of JSON lines, or the lines of a text."""
    lines = list(lines_of({"path": path, "packed": True, "first": 0, "last": 0}))
    try:
        yield from texts_in(json.loads(b"".join(lines)))
        return
    except ValueError:
        pass  # not one JSON value: JSON lines, or text
    for line in lines:
        try:
            yield from texts_in(json.loads(line))
        except ValueError:
            yield line.decode("utf-8", "replace")
