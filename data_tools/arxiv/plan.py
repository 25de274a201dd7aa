"""What `prepare arxiv` is asked for: its flags, and the plan they make, which with the input decides the result.

arguments → `make_plan` → plan.json in the work folder → `plan_of`, in every task
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from data_tools.arxiv.inputs import json_files, latex_shares
from data_tools.documents.duplicates import NGRAM
from data_tools.documents.filters import FILTERS, all_limits, parse_filters
from data_tools.files.places import describe, filesystem
from data_tools.work import tasks as work

PARTS = ("title", "abstract", "introduction", "conclusion", "full")
RANGES = {
    "heldout": (0.0, 1.0),
    "bad_rows": (0.0, 1.0),
    "similarity": (0.3, 1.0),
    "ngram": (3, 100),
    "buckets": (1, 800),
    "seconds_per_paper": (0.1, 3600),
}
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
    _add_places(parser)
    _add_selection(parser)
    _add_making(parser)
    work.add_arguments(parser)


def _add_places(parser: argparse.ArgumentParser) -> None:
    """What is read, and where the result lies."""
    add, files = parser.add_argument, {"nargs": "+", "default": []}
    metadata = (
        "metadata, one JSON a line (Kaggle's snapshot, or id, title, abstract, categories, date) or a JSON array of those, "
        "plain, .gz, .zst, .bz2 or .xz; ids as URLs, DOIs, arXiv:… too"
    )
    latex = (
        "sources: .tex, .gz, .tar.gz, .tar, arXiv's bulk tars, or folders of those "
        "and of one folder a paper, whose main file arXiv's own marks, the title, a .bbl and names tell; without --metadata every source becomes a document"
    )
    add("--metadata", **files, metavar="F", help=metadata)
    add("--latex", **files, metavar="PATH", help=latex)
    add("--documents", **files, metavar="F", help="other texts (one JSON a line: id, text) for the same filters and duplicates")
    add("--out", required=True, metavar="DIR", help="folder to make; local, or fsspec's (s3://…) with a local --work")
    add("--work", metavar="DIR", help="where to make the folder for what is not finished (default: OUT/.work)")


def _add_selection(parser: argparse.ArgumentParser) -> None:
    """Which papers."""
    add = parser.add_argument
    licence = "patterns on cc-by-4.0, cc0-1.0, arxiv-nonexclusive-1.0, unknown … (default: any)"
    add("--categories", nargs="+", default=["astro-ph*"], metavar="P", help="patterns (default: 'astro-ph*'; '*' for all)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--primary-only", action="store_true", help="the first category must match")
    which.add_argument("--cross-listed", action="store_true", help="any category may match (default)")
    add("--since", default="", metavar="DATE", help="first version not before YYYY[-MM[-DD]]")
    add("--until", default="", metavar="DATE", help="first version not after YYYY[-MM[-DD]]")
    add("--license", nargs="+", default=[], metavar="P", help=licence)
    add("--keep-withdrawn", action="store_true", help="keep papers taken back by their authors or by arXiv")


def _add_making(parser: argparse.ArgumentParser) -> None:
    """What becomes of them."""
    add = parser.add_argument
    filters = f"default: all of {', '.join(FILTERS)}; none for none; limits as in length:min_words=50"
    evaluation = "evaluation sets (JSON, JSON lines or text): documents sharing words are dropped"
    bad = "stop when more records than this cannot be used: no JSON, no arXiv id, no abstract (default: 0.01)"
    buckets = "files to make of each kind (default: 16; 256 with --parts full: one must fit a worker's memory)"
    seconds = "processor time after which a paper's LaTeX is given up (default: 5)"
    add("--parts", metavar="LIST", help="title,abstract,introduction,conclusion, or full (default: title,abstract; with --latex the four)")
    add("--heldout", type=float, default=0.02, metavar="FRACTION", help="share of papers held out, by a hash of the id (default: 0.02)")
    add("--bad-rows", type=float, default=0.01, metavar="SHARE", help=bad)
    add("--filters", nargs="+", default=list(FILTERS), metavar="NAME[:LIMIT=N,…]", help=filters)
    add("--similarity", type=float, default=0.8, metavar="S", help="share of word 5-grams that makes a near duplicate (default: 0.8)")
    add("--decontaminate", nargs="+", default=[], metavar="FILE", help=evaluation)
    add("--ngram", type=int, default=NGRAM, metavar="N", help=f"words in a row that count as shared (default: {NGRAM})")
    add("--buckets", type=int, metavar="N", help=buckets)
    add("--seconds-per-paper", type=float, default=5.0, metavar="S", help=seconds)


def make_plan(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """What decides the result, and the input files. Nothing here depends on workers or executor. Raises ArxivError."""
    parts = _parts(args)
    args.buckets = (256 if parts == ["full"] else 16) if args.buckets is None else args.buckets
    _refuse_odd_values(args)
    shares, strange = latex_shares(args.latex) if args.latex else ([], [])
    inputs = {
        "metadata": json_files(args.metadata),
        "documents": json_files(args.documents),
        "decontaminate": _evaluation_files(args.decontaminate),
        "latex": shares,
        "strange": strange,
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
        "latex_state": _state_of(shares),
        "code": _code(),
    }
    return plan, inputs


def _state_of(shares: list[dict[str, Any]]) -> str:
    """A hash of the sources' names, sizes and times: unfinished work does not go on with others."""
    digest = hashlib.sha256()
    for path in dict.fromkeys(path for share in shares for path in ([share["bulk"]] if "bulk" in share else share["papers"])):
        fs, inner = filesystem(path)
        for name in sorted(fs.find(inner)) if fs.isdir(inner) else [inner]:
            info = fs.info(name)
            state = info.get("mtime") or info.get("ETag") or info.get("LastModified") or ""
            digest.update(f"{name} {info['size']} {state}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16] if shares else ""


def _parts(args: argparse.Namespace) -> list[str]:
    if not (args.metadata or args.latex or args.documents):
        raise ArxivError("nothing to read: give --metadata, --latex or --documents")
    parts = (args.parts or ("title,abstract,introduction,conclusion" if args.latex else "title,abstract")).split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        raise ArxivError(f"--parts {args.parts}: no part is called {unknown[0]!r}; there are {', '.join(PARTS)}")
    if "full" in parts and parts != ["full"]:
        raise ArxivError(f"--parts {args.parts}: full holds the other parts already; write --parts full")
    if not args.latex and (lacking := [part for part in parts if part in PARTS[2:]]):
        raise ArxivError(f"--parts {args.parts}: {lacking[0]} comes from LaTeX sources; add --latex PATH")
    return parts


def _refuse_odd_values(args: argparse.Namespace) -> None:
    for name in ("since", "until"):
        if not re.fullmatch(r"(\d{4}(-\d\d(-\d\d)?)?)?", getattr(args, name)):
            raise ArxivError(f"--{name} {getattr(args, name)}: write YYYY, YYYY-MM or YYYY-MM-DD")
    for name, (low, high) in RANGES.items():
        if not low <= getattr(args, name) <= high:
            raise ArxivError(f"--{name.replace('_', '-')} {getattr(args, name)}: must be from {low} to {high}")


def _evaluation_files(paths: list[str]) -> list[str]:
    return [path for given in paths for path in ([given] if filesystem(given)[0].isfile(filesystem(given)[1]) else json_files([given]))]


def _code() -> str:
    """A hash of the modules that make the documents: an unfinished run does not go on with another program."""
    digest = hashlib.sha256()
    for name in CODE:
        paths = sorted((Path(__file__).parents[1] / name).rglob("*.py"))
        assert paths, f"no modules in {name}"
        for path in paths:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def plan_of(work: str | Path) -> dict[str, Any]:
    """The plan of the run in this work folder, for its tasks."""
    return _read_plan(Path(work), plan_stamp(work))


def plan_stamp(work: str | Path) -> int:
    """Tells one run in a folder from the next, for what is kept in memory between tasks."""
    return os.stat(Path(work) / "plan.json").st_mtime_ns


@lru_cache(maxsize=1)
def _read_plan(work: Path, _stamp: int) -> dict[str, Any]:
    return json.loads((work / "plan.json").read_bytes())
