"""The results of all tasks → counts.json and provenance.json, and the finished folder: the end of `prepare arxiv`."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from data_tools.documents.folder import COUNTS, FOLDERS, FORMAT_VERSION, RECORD
from data_tools.files.atomic import sync, write_atomically
from data_tools.files.places import filesystem


def count_all(plan: dict[str, Any], results: dict[str, list[Any]]) -> dict[str, Any]:
    """All counts; every record read is kept, dropped, or was not asked for."""
    names = [*plan["files"], "--latex"]  # the last is FROM_LATEX, -1
    by_input: dict[str, dict[str, Any]] = defaultdict(
        lambda: {"read": 0, "kept": 0, "train": 0, "heldout": 0, "not_chosen": Counter(), "dropped": Counter()}
    )
    total: dict[str, Counter[str]] = defaultdict(Counter)
    between: dict[str, Counter[str]] = defaultdict(Counter)
    for result in results["scan"]:
        entry = by_input[names[result["file"]]]
        entry["read"] += result["counts"].pop("read", 0)
        entry["not_chosen"].update(result["counts"])
    for result in results["publish"]:
        for key, number in result["counts"].get("kept", {}).items():
            file, side = key.split(" ")
            by_input[names[int(file)]]["kept"] += number
            by_input[names[int(file)]][side] += number
        for key, number in result["counts"].get("dropped", {}).items():
            file, reason = key.split(" ", 1)
            by_input[names[int(file)]]["dropped"][reason] += number
        for key in ("years", "categories", "words", "total", "parts", "repaired"):
            total[key].update(result["counts"].get(key, {}))
    for result in results["make"] + [row["counts"] for row in results["publish"]]:
        for key, number in result.get("between", {}).items():
            first, second, kind = key.split(" ")
            between[" | ".join(sorted((names[int(first)], names[int(second)])))][kind] += number
    made = by_input["--latex"] if "--latex" in by_input else None
    if made:
        made["read"] = made["kept"] + sum(made["dropped"].values())
    latex: Counter[str] = Counter()
    for result in results["latex"]:
        latex.update(result["counts"])
    matched: Counter[str] = Counter()
    for result in results["make"]:
        matched.update(result["matched"])
    for name, entry in by_input.items():
        assert entry["read"] == entry["kept"] + sum(entry["dropped"].values()) + sum(entry["not_chosen"].values()), (name, entry)
    counts = {key: sum(entry[key] for entry in by_input.values()) for key in ("read", "kept", "train", "heldout")}
    for key in ("not_chosen", "dropped"):
        counts[key] = sum((entry[key] for entry in by_input.values()), Counter())
    counts |= {
        "total": total["total"] or {"words": 0, "characters": 0},
        "latex": latex,
        "records": matched,
        "parts": total["parts"],
        "ids_repaired": total["repaired"]["ids"],
    }
    counts |= {
        "duplicates_between": between,
        "years": total["years"],
        "categories": total["categories"],
        "words": total["words"],
        "by_input": by_input,
    }
    return json.loads(json.dumps(counts, sort_keys=True))


def lasting(plan: dict[str, Any]) -> dict[str, Any]:
    """The plan without what a copy of the input elsewhere would change."""
    stays = {key: value for key, value in plan.items() if key != "latex_state"}
    return {**stays, "inputs": [{key: value for key, value in entry.items() if key != "state"} for entry in plan["inputs"]]}


def provenance_of(plan: dict[str, Any], results: dict[str, list[Any]], counts: dict[str, Any]) -> dict[str, Any]:
    from importlib.metadata import version

    return {
        "kind": "documents",
        "format_version": FORMAT_VERSION,
        "plan": lasting(plan),
        "inputs": sorted((row for found in results["inputs"] for row in found), key=lambda row: row["path"]),
        "files": sorted((row for result in results["publish"] for row in result["files"]), key=lambda row: row["file"]),
        "counts": {key: counts[key] for key in ("read", "kept", "train", "heldout", "not_chosen", "dropped")},
        "versions": {name: version(name) for name in ("numpy", "datatrove", "fsspec")},
    }


def deliver(folder: Path, out: Path | str, counts: dict[str, Any], provenance: dict[str, Any]) -> None:
    """What is finished appears in OUT, provenance.json last."""
    records = [
        (name, json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n") for name, value in ((COUNTS, counts), (RECORD, provenance))
    ]
    if isinstance(out, str):
        fs, inner = filesystem(out)
        for row in provenance["files"]:
            fs.put_file(str(folder / "final" / row["file"]), f"{inner}/{row['file']}")
        for name, data in records:
            fs.pipe_file(f"{inner}/{name}", data)
        return
    out.mkdir(parents=True, exist_ok=True)
    for name in FOLDERS.values():
        (folder / "final" / name).mkdir(parents=True, exist_ok=True)
        if not (out / name).exists():  # else a kill came between the renames
            _move(folder / "final" / name, out / name)
    logs = out / "logs"
    shutil.rmtree(logs, ignore_errors=True)
    for stage in sorted((folder / "tasks").iterdir()):
        if (stage / "logs").is_dir():
            shutil.copytree(stage / "logs", logs / stage.name)
    assert all(os.path.getsize(out / row["file"]) == row["bytes"] for row in provenance["files"])
    for name, data in records:
        write_atomically(folder / "final" / name, data)
        _move(folder / "final" / name, out / name)


def _move(source: Path, target: Path) -> None:
    """One rename, also where the work folder is on another disk. A kill leaves at most one `.NAME.tmp`, which the next run writes over."""
    aside = target.with_name(f".{target.name}.tmp")
    if os.stat(source).st_dev == os.stat(target.parent).st_dev:
        aside = source
    elif source.is_dir():
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(source, aside)
        for path in (*aside.iterdir(), aside):
            sync(path)
    else:
        shutil.copyfile(source, aside)
        sync(aside)
    os.rename(aside, target)
    sync(target.parent)
