"""What was given → rows by bucket: the first tasks of `prepare arxiv`.

1. `scan`        a part of the metadata → candidates, some with a reason to drop them already
2. `read_latex`  a share of the sources → title, abstract, sections of the papers that were chosen
Beside them `hash_inputs`, for the record of what was read. A task makes the same bytes whenever it runs, and in one rename.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from data_tools.archives.limits import CAPS, ArchiveError
from data_tools.archives.tar_stream import bulk_members
from data_tools.arxiv.buckets import Buckets
from data_tools.arxiv.ids import paper_id, repaired_id
from data_tools.arxiv.inputs import lines_of, name_of
from data_tools.arxiv.metadata import RecordError, Selection, cleaned, is_withdrawn, parse
from data_tools.arxiv.paper_reader import PaperReader
from data_tools.arxiv.plan import plan_of, plan_stamp
from data_tools.files.json_values import Written
from data_tools.files.places import describe, filesystem, is_local, sha256_of


def hash_inputs(task: dict[str, Any]) -> list[dict[str, Any]]:
    """path, bytes, sha256 of the task's files; of a folder the hash of its files' names and hashes."""
    found = []
    for path in task["paths"]:
        fs, inner = filesystem(path)
        if fs.isdir(inner):
            names = sorted(fs.find(inner))
            rows = [f"{name.removeprefix(inner)} {sha256_of(name if is_local(fs) else fs.unstrip_protocol(name))}" for name in names]
            found.append(
                {
                    "path": path,
                    "files": len(names),
                    "bytes": sum(fs.info(name)["size"] for name in names),
                    "sha256": hashlib.sha256("\n".join(rows).encode()).hexdigest(),
                }
            )
        else:
            found.append({"path": path, "bytes": describe(path)["bytes"], "sha256": sha256_of(path)})
    return found


def scan(task: dict[str, Any]) -> dict[str, Any]:
    work, plan = Path(task["work"]), plan_of(task["work"])
    selection = Selection(**{key: tuple(value) if isinstance(value, list) else value for key, value in plan["selection"].items()})
    counts: Counter[str] = Counter()
    seen: dict[str, Counter[str]] = defaultdict(Counter)  # of records not asked for: what they have instead
    bad: list[str] = []
    with (
        Buckets(work / "scan" / f"{task['number']:05d}", plan["buckets"]) as out,
        open(out.aside / "ids.txt", "w", encoding="utf-8", errors="replace") as ids,
    ):
        for line in lines_of(task["part"]):
            counts["read"] += 1
            candidate = _candidate(line, task["kind"], selection, plan["keep_withdrawn"])
            if isinstance(candidate, tuple):
                counts[candidate[0]] += 1
                seen[candidate[0]][candidate[1]] += 1
                continue
            if candidate["reason"] == "bad_record":
                bad.append(candidate["detail"])
            candidate["file"] = task["file"]
            out.write(candidate)
            if candidate["reason"] is None:
                ids.write(f"{candidate['id']}\t{' '.join(candidate.get('title', '').split())}\n")
        ids.flush()
        os.fsync(ids.fileno())
    instead = {why: dict(values.most_common(5)) for why, values in seen.items()}
    return {"file": task["file"], "counts": counts, "instead": instead, "bad": len(bad), "first_bad": bad[:1]}


def _candidate(line: bytes, kind: str, selection: Selection, keep_withdrawn: bool) -> dict[str, Any] | tuple[str, str]:
    """A candidate, perhaps with a reason to drop it, or why it was not asked for and what it has instead."""
    try:
        fields = json.loads(line, parse_float=Written if kind == "metadata" else None)
    except (ValueError, RecursionError):  # JSON's own errors, bytes that are not UTF-8, brackets without end
        return _unreadable(line, "not JSON")
    if kind == "documents":
        if isinstance(fields, dict) and not isinstance(fields.get("meta", {}), dict):
            return _unreadable(line, "meta is no object")
        if not (isinstance(fields, dict) and isinstance(fields.get("id"), (str, int)) and isinstance(fields.get("text"), str)):
            return _unreadable(line, "no id or no text")
        meta = {key: value for key, value in fields.items() if key not in ("id", "text", "meta")} | fields.get("meta", {})
        return {"id": str(fields["id"]), "key": [0, ""], "text": fields["text"].strip(), "meta": meta, "reason": None}
    try:
        record = parse(fields)
    except RecordError as error:
        return _unreadable(line, str(error))
    if why := selection.why_not(record):
        instead = {"category": (record.categories or ("none",))[0], "date": record.date[:4], "license": record.license}
        return why, instead[why]
    withdrawn = is_withdrawn(record) and not keep_withdrawn
    record = cleaned(record)
    found = {
        "id": record.id,
        "key": [record.version, record.updated],
        "title": record.title,
        "abstract": record.abstract,
        "meta": {
            "title": record.title,
            "categories": list(record.categories),
            "date": record.date,
            "updated": record.updated,
            "license": record.license,
            "version": record.version,
        },
        "reason": "withdrawn" if withdrawn else None,
    }
    if paper_id(str(fields["id"])) is None:
        assert repaired_id(str(fields["id"]))
        found["meta"]["id_was"] = str(fields["id"])
    return found


def _unreadable(line: bytes, detail: str) -> dict[str, Any]:
    text = line[:2000].decode("utf-8", "replace").strip()
    name = "line-" + hashlib.blake2b(line.strip(), digest_size=8).hexdigest()
    return {"id": name, "key": [0, ""], "text": text, "meta": {}, "reason": "bad_record", "detail": detail}


def read_latex(task: dict[str, Any]) -> dict[str, Any]:
    work, plan = Path(task["work"]), plan_of(task["work"])
    wanted = _wanted(work, plan_stamp(work)) if plan["has_metadata"] else None
    counts: Counter[str] = Counter()
    strange: list[str] = []
    damaged: list[str] = []  # dumps that could not be read to the end
    with Buckets(work / "latex" / f"{task['number']:05d}", plan["buckets"]) as out, PaperReader(plan["seconds_per_paper"]) as reader:
        for name, source in _sources(task["share"]):
            if isinstance(source, ArchiveError) and name == task["share"].get("bulk"):
                damaged.append(f"{name}: {source.detail}")
                if wanted is not None:
                    continue
            counts["sources"] += 1
            stem, found = name_of(name)
            key, version = found or (stem, 0)
            if wanted is not None and key not in wanted:
                counts["not_chosen" if found else "without_id"] += 1
                strange += [] if found else [name]
                continue
            entry = {"id": key, "version": version, "name": os.path.basename(name.rstrip("/"))}
            try:
                if isinstance(source, ArchiveError):
                    raise source
                entry |= reader.read(source, wanted[key] if wanted else "")
                counts["read"] += 1
                if entry["main"]:
                    counts[f"main file chosen: {entry['main']['because']}"] += 1
            except ArchiveError as error:
                entry |= {"reason": error.reason, "detail": error.detail}
                counts[f"refused {error.reason}"] += 1
            out.write(entry)
    return {"counts": counts, "strange": strange[:3], "damaged": damaged}


def _sources(share: dict[str, Any]) -> Iterator[tuple[str, bytes | Path | ArchiveError]]:
    """(name, bytes or a local folder, or why it cannot be had)."""
    limit = CAPS.source
    if "bulk" in share:
        fs, inner = filesystem(share["bulk"])
        with fs.open(inner, "rb") as file:
            try:
                for member in bulk_members(file, share["first"], share["last"]):
                    large = member.size > limit
                    yield member.name, ArchiveError("source_too_large", f"{member.size} bytes") if large else member.read()
            except ArchiveError as error:  # the rest of this share is lost: say so under the dump's own name
                yield share["bulk"], error
        return
    for path in share["papers"]:
        fs, inner = filesystem(path)
        if fs.isdir(inner):
            yield path, Path(inner) if Path(inner).is_dir() else ArchiveError("remote_folder", "only archives are read from afar")
        elif fs.info(inner)["size"] > limit:
            yield path, ArchiveError("source_too_large", f"{fs.info(inner)['size']} bytes")
        else:
            with fs.open(inner, "rb") as file:
                yield path, file.read()


@lru_cache(maxsize=1)
def _wanted(work: Path, _stamp: int) -> dict[str, str]:
    """Titles of the chosen papers by id."""
    wanted: dict[str, str] = {}
    for path in sorted((work / "scan").glob("[0-9]*/ids.txt")):
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
            name, _, title = line.partition("\t")
            wanted[name] = title
    return wanted
