"""arXiv's metadata and LaTeX sources → documents: `python -m data_tools.prepare arxiv`.

arguments → plan.json (plan.py: what decides the result) → hash_inputs, scan, read_latex, make, compare, publish, as tasks of `work` →
OUT/documents/train-NNN.jsonl.gz, OUT/heldout/, OUT/dropped/, OUT/counts.json, and OUT/provenance.json, which is written last: a folder
without it is not finished. Everything in between lies in OUT/.work; the same command goes on from there after a kill.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.arxiv import make as arxiv_make
from data_tools.arxiv import raw as arxiv_raw
from data_tools.arxiv import told
from data_tools.arxiv.inputs import lines_of, metadata_parts
from data_tools.arxiv.outcome import count_all, deliver, lasting, provenance_of
from data_tools.arxiv.plan import ArxivError, add_arguments, make_plan
from data_tools.documents.duplicates import Evaluation, texts_in
from data_tools.documents.folder import FOLDERS, RECORD
from data_tools.files.atomic import write_atomically
from data_tools.files.places import filesystem, sha256_of
from data_tools.work import tasks as work
from data_tools.work.workplace import adopt_plan, claimed, clear, clear_leftovers

__all__ = ["add_arguments", "run"]  # what data_tools/prepare.py asks of a command


def run(args: argparse.Namespace) -> None:
    """Make OUT. Raises ArxivError, PrepareError, PlaceError, FilterError, DuplicatesError or WorkError, with what to do."""
    plan, inputs = make_plan(args)
    out, folder = _places(args)
    if message := _already_made(args.out, plan, inputs):
        clear_leftovers(args.out, folder)
        print(message)
        return
    with claimed(args.out, folder):
        if not adopt_plan(folder, plan, lambda: _remove_delivered(out)) and (message := _already_made(args.out, plan, inputs)):
            clear(folder)  # another command has finished between our look and our claim
            print(message)
            return
        try:
            results = _stages(args, plan, inputs, folder)
            counts = count_all(plan, results)
            told.refuse_nothing(plan, results, counts)
        except ArxivError:
            clear(folder)  # input or arguments must change: no use for what was read
            if out:
                with contextlib.suppress(OSError):
                    out.rmdir()  # empty, unless it was there before
            raise
        provenance = provenance_of(plan, results, counts)
        deliver(folder, out or args.out, counts, provenance)
        clear(folder)
    kept, dropped = counts["kept"], sum(counts["dropped"].values())
    print(
        f"{args.out}/documents: {kept:,} documents ({counts['train']:,} train, {counts['heldout']:,} held out, "
        f"{counts['total']['words']:,} words) of {counts['read']:,} records; {dropped:,} dropped with reasons in {args.out}/dropped; "
        f"figures: python -m data_tools.prepare report {args.out}"
    )
    for line in told.last_lines(plan, results, counts, inputs["strange"]):
        print(line)


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


def _remove_delivered(out: Path | None) -> None:
    """What an unfinished run has put into a local OUT already; what was there before it began was refused."""
    for name in FOLDERS.values() if out else ():
        shutil.rmtree(out / name, ignore_errors=True)


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

    hashed = stage(arxiv_raw.hash_inputs, [{"paths": paths} for paths in _to_hash(plan, inputs)], "hash the inputs")
    scanned = stage(arxiv_raw.scan, parts, "read metadata", [row["part"]["last"] - row["part"]["first"] for row in parts])
    told.refuse_bad(plan, scanned, args.bad_rows)
    return {
        "inputs": hashed,
        "scan": scanned,
        "latex": stage(
            arxiv_raw.read_latex,
            [{**base, "number": number, "share": share} for number, share in enumerate(inputs["latex"])],
            "read LaTeX",
            [share["bytes"] for share in inputs["latex"]],
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
    lines = list(lines_of({"path": path, "undivided": True, "first": 0, "last": 0}))
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
