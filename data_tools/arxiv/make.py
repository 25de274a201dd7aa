"""Rows by bucket → documents: the last tasks of `prepare arxiv`.

1. `make`     a bucket: the best copy of each id, joined with its LaTeX → text, filters, decontamination, signatures
2. `compare`  all signatures → which documents are duplicates, and of what
3. `publish`  a bucket → documents/train-007.jsonl.gz, heldout/heldout-007.jsonl.gz, dropped/dropped-007.jsonl.gz
"""

from __future__ import annotations

import gzip
import io
import json
import os
from collections import Counter, defaultdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.arxiv.buckets import grouped, line_of, name_hash, rows
from data_tools.arxiv.plan import plan_of, plan_stamp
from data_tools.documents.duplicates import Evaluation, find_duplicates, signature
from data_tools.documents.filters import Filter, first_reason
from data_tools.documents.folder import file_name
from data_tools.files.atomic import sha256_file, sync, write_atomically

NEWEST = 1 << 30  # the version of a source without one in its name: arXiv gives the latest so
FROM_LATEX = -1  # the file number of a document that no metadata line stands behind


def make(task: dict[str, Any]) -> dict[str, Any]:
    work, plan, bucket = Path(task["work"]), plan_of(task["work"]), task["bucket"]
    filters = [Filter(name, limits) for name, limits in plan["filters"].items()]
    evaluation = _evaluation(work, plan_stamp(work)) if plan["decontaminate"] else None
    candidates, sources = grouped(work / "scan", bucket), grouped(work / "latex", bucket)
    between: Counter[str] = Counter()
    kept, dropped = [], []
    matched: Counter[str] = Counter()
    for name in sorted(candidates.keys() | (sources.keys() if not plan["has_metadata"] else set())):
        copies = sorted(candidates.get(name, []), key=_copy_rank)
        best = copies[-1] if copies else {"id": name, "file": FROM_LATEX, "meta": {}, "reason": None}
        for copy in copies[:-1]:
            between[f"{copy['file']} {best['file']} same_id"] += 1
            dropped.append({**_plain(copy), "reason": "duplicate_id", "detail": "another record of this id is newer, longer or equal"})
        document = _join(best, sources.get(name, []), plan["parts"])
        reason, detail = _verdict(best, document, sources.get(name, []), filters, evaluation)
        if best["meta"] and not best["reason"] and "text" not in best:
            matched["with a source" if any("reason" not in source for source in sources.get(name, [])) else "without a source"] += 1
        (kept if reason is None else dropped).append(document if reason is None else {**document, "reason": reason, "detail": detail})
    refused = [
        {"id": name, "text": "", "meta": {"source": source["name"]}, "reason": f"source_{source['reason']}", "detail": source["detail"]}
        for name, found in sorted(sources.items())
        for source in found
        if "reason" in source and name in candidates  # without metadata the document itself is dropped for it
    ]
    for part, found in (("kept", kept), ("dropped", dropped), ("refused", refused)):
        write_atomically(work / "make" / f"{bucket:03d}.{part}.jsonl", b"".join(map(line_of, found)))
    _write_signatures(work / "make" / f"{bucket:03d}.npz", kept)
    return {"between": between, "matched": matched}


def _verdict(
    best: dict[str, Any], document: dict[str, Any], sources: list[dict[str, Any]], filters: list[Filter], evaluation: Evaluation | None
) -> tuple[str | None, str]:
    """(None, "") for a document to keep, else why it is dropped and what was seen."""
    if best["reason"]:
        return best["reason"], best.get("detail", "")
    refused = [source for source in sources if "reason" in source]
    if not document["text"] and refused and best["file"] == FROM_LATEX:
        return f"source_{refused[0]['reason']}", refused[0]["detail"]
    if not document["text"]:
        return "no_parts", "; ".join(f"{source['name']}: {source['reason']}" for source in refused)
    if reason := first_reason(document["text"], filters):
        return reason, ""
    if evaluation and (shared := evaluation.shared_with(document["text"])):
        return "contaminated", f"shares {shared[1]!r} with {shared[0]}"
    return None, ""


def _copy_rank(copy: dict[str, Any]) -> tuple:
    """The best copy of one id sorts last: the newest version, then update, then the longest text; the rest is for a fixed order."""
    text = copy.get("abstract") or copy.get("text") or ""
    return (*copy["key"], len(text), text, json.dumps(copy["meta"], sort_keys=True), copy["reason"] or "", -copy["file"])


def _plain(copy: dict[str, Any]) -> dict[str, Any]:
    text = copy.get("text") or "\n\n".join(filter(None, (copy.get("title"), copy.get("abstract"))))
    return {"id": copy["id"], "text": text, "meta": copy["meta"], "file": copy["file"]}


def _join(best: dict[str, Any], sources: list[dict[str, Any]], parts: list[str]) -> dict[str, Any]:
    """The document: the asked-for parts that there are, and in `meta.parts` where each came from."""
    if "text" in best:
        return _plain(best)
    read = [source for source in sources if "reason" not in source]
    rank = [
        (source["version"] or NEWEST, sum(bool(source.get(part)) for part in parts), len(source["body"]), source["name"]) for source in read
    ]
    latex = read[rank.index(max(rank))] if read else {}
    texts, origins = [], {}
    for part in ("title", "abstract", "body") if parts == ["full"] else parts:
        text = best.get(part) or latex.get(part) or ""
        if text:
            origins[part] = "metadata" if best.get(part) else "latex"
            texts.append(f"{part.capitalize()}\n\n{text}" if part in ("introduction", "conclusion") else text)
    if set(origins) == {"title"} and parts != ["title"]:
        texts, origins = [], {}  # a title alone is no document
    meta = {"source": "arxiv" if best["meta"] else "latex", **(best["meta"] or {"title": latex.get("title", "")}), "parts": origins}
    if "latex" in origins.values():
        meta["latex"] = latex["name"]
        if latex.get("main"):
            meta["latex_main"] = f"{latex['main']['file']}: {latex['main']['because']}"
    return {"id": best["id"], "text": "\n\n".join(texts), "meta": meta, "file": best["file"]}


def _write_signatures(path: Path, kept: list[dict[str, Any]]) -> None:
    signatures = [signature(document["text"]) for document in kept]
    out = io.BytesIO()
    np.savez(
        out,
        exact=np.frombuffer(b"".join(found.exact for found in signatures), np.uint8).reshape(-1, 16),
        minhash=np.stack([found.minhash for found in signatures]) if kept else np.zeros((0, 120), np.uint32),
        parts=np.array([len(document["meta"].get("parts", ())) for document in kept], np.int64),
        length=np.array([len(document["text"]) for document in kept], np.int64),
        origin=np.array([document["file"] for document in kept], np.int64),
        id=np.array([document["id"] for document in kept], np.str_),
    )
    write_atomically(path, out.getvalue())


@lru_cache(maxsize=1)
def _evaluation(work: Path, _stamp: int) -> Evaluation:
    with np.load(work / "evaluation.npz") as held:
        return Evaluation(held["hashes"], held["files"], held["names"].tolist(), int(held["n"]), int(held["short"]))


def compare(task: dict[str, Any]) -> dict[str, Any]:
    """Papers before other documents, then the copy with more parts, then the longer one, then the smaller id stays."""
    work, plan = Path(task["work"]), plan_of(task["work"])
    columns: dict[str, list[np.ndarray]] = defaultdict(list)
    places: list[tuple[int, int]] = []
    for bucket in range(plan["buckets"]):
        with np.load(work / "make" / f"{bucket:03d}.npz") as held:
            for key in held.files:
                columns[key].append(held[key])
            places += [(bucket, index) for index in range(len(held["id"]))]
    column = {key: np.concatenate(found) for key, found in columns.items()}
    ids = column["id"].tolist()
    ranks = list(zip((-column["parts"]).tolist(), (-column["length"]).tolist(), ids, range(len(ids))))
    verdicts: dict[int, dict[int, Any]] = defaultdict(dict)
    for found in find_duplicates([row.tobytes() for row in column["exact"]], column["minhash"], ranks, similarity=plan["similarity"]):
        bucket, index = places[found.dropped]
        verdicts[bucket][index] = [found.reason, ids[found.kept], found.similarity, int(column["origin"][found.kept])]
    for bucket in range(plan["buckets"]):
        write_atomically(work / "compare" / f"{bucket:03d}.json", json.dumps(verdicts[bucket], sort_keys=True).encode())
    return {"documents": len(ids)}


def publish(task: dict[str, Any]) -> dict[str, Any]:
    work, plan, bucket = Path(task["work"]), plan_of(task["work"]), task["bucket"]
    verdicts = json.loads((work / "compare" / f"{bucket:03d}.json").read_bytes())
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    sides: dict[str, list[bytes]] = {"train": [], "heldout": [], "dropped": []}
    dropped = [*rows(work / "make" / f"{bucket:03d}.dropped.jsonl")]
    for index, document in enumerate(rows(work / "make" / f"{bucket:03d}.kept.jsonl")):
        if verdict := verdicts.get(str(index)):
            reason, twin, similarity, file = verdict
            counts["between"][f"{document['file']} {file} {reason}"] += 1
            dropped.append({**document, "reason": reason, "detail": f"{similarity:.0%} like {twin}"})
            continue
        side = "heldout" if is_heldout(document["id"], plan["heldout"]) else "train"
        counts["kept"][f"{document.pop('file')} {side}"] += 1
        _count(counts, document)
        sides[side].append(line_of(document))
    for document in dropped:
        counts["dropped"][f"{document.pop('file')} {document['reason']}"] += 1
    dropped += rows(work / "make" / f"{bucket:03d}.refused.jsonl")
    sides["dropped"] = [line_of(row) for row in sorted(dropped, key=lambda row: (row["id"], row["reason"], row["text"], line_of(row)))]
    files = []
    for side, lines in sides.items():
        if lines:
            name = file_name(side, bucket)
            files.append({"file": name, "documents": len(lines), **_write_gz(work / "final" / name, lines)})
    return {"files": files, "counts": counts}


def is_heldout(name: str, fraction: float) -> bool:
    """By a hash of the id, so every version and part of a paper stands on one side, in this corpus and in the next one."""
    return name_hash("heldout", name) < fraction * 2.0**64


def _count(counts: dict[str, Counter[str]], document: dict[str, Any]) -> None:
    meta = document["meta"]
    counts["years"][str(meta.get("date") or "unknown")[:4] if meta.get("date") else "unknown"] += 1
    counts["categories"][(meta.get("categories") or ["no category"])[0]] += 1
    words = max(len(document["text"].split()), 1)
    counts["words"][str(round(2 ** (int(np.log2(words) * 4) / 4)))] += 1  # four bins for each doubling
    counts["total"]["words"] += words
    counts["total"]["characters"] += len(document["text"])
    for part, origin in meta.get("parts", {}).items():
        counts["parts"][f"{part} from {origin}"] += 1
    counts["repaired"]["ids"] += "id_was" in meta


def _write_gz(path: Path, lines: list[bytes]) -> dict[str, Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.tmp")  # always the same: what a kill leaves is written over by the task that runs again
    with open(aside, "wb") as file:
        with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as packed:
            packed.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
    sync(path.parent)
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
