"""Where the inputs of a corpus come from: the records of `prepare arxiv` beside them, checked, for the manifest of the shards.

inputs of `prepare corpus` → the provenance.json of each one's folder → size and sha256 as listed there → one entry a record
"""

import hashlib
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from data_tools.arxiv_outcome import FORMAT_VERSION
from data_tools.files import sha256_file
from data_tools.workplace import PrepareError

RECORD = "provenance.json"
MADE = re.compile(r"(documents/train|heldout/heldout|dropped/dropped)-\d{3}\.jsonl\.gz")  # what `prepare arxiv` calls its files
AGAIN = "run that prepare arxiv again"


def find_origins(inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`{"made_by", "record", "sha256", "documents", "inputs", "arguments", "code", "versions", "counts"}` for each record, in the inputs' order.

    Raises PrepareError when an input is not what its record lists, or lies in a folder that `prepare arxiv` has not finished.
    """
    found: dict[str, list[str]] = {}
    for input in inputs:
        if (record := _record_beside(input["path"])) is not None:
            found.setdefault(str(record), []).append(input["path"])
    return [origin for record, paths in found.items() if (origin := _origin(Path(record), paths)) is not None]


def _record_beside(given: str) -> Path | None:
    path = Path(given).resolve()
    if "://" in given or not path.is_file():
        return None
    for folder in path.parents[:2]:
        if (record := folder / RECORD).is_file():
            return record if Path(given).is_absolute() else Path(os.path.relpath(record))
    if MADE.fullmatch(f"{path.parent.name}/{path.name}"):
        raise PrepareError(
            f"{given}: there is no {path.parents[1] / RECORD}, which prepare arxiv writes last: it has not finished there; "
            f"{AGAIN}, or, if this is a copy, copy {RECORD}, too"
        )
    return None


def _origin(record: Path, paths: list[str]) -> dict[str, Any] | None:
    """The entry of one record; None when the file is of another program."""
    data = record.read_bytes()
    try:
        made = json.loads(data)
    except ValueError as error:
        raise PrepareError(f"{record}: not JSON ({error}); copy it again, or {AGAIN}") from None
    if not isinstance(made, dict) or made.get("kind") != "documents":
        return None
    if made.get("format_version") != FORMAT_VERSION:
        raise PrepareError(f"{record}: format_version {made.get('format_version')!r}, this program reads {FORMAT_VERSION}; {AGAIN}")
    with ThreadPoolExecutor() as pool:
        hashes = list(pool.map(lambda path: sha256_file(Path(path)), paths))
    listed = {Path(row["file"]).name: row["sha256"] for row in made["files"]}
    for path, sha256 in zip(paths, hashes):
        wanted = listed.get(Path(path).resolve().name)
        if wanted is None:
            raise PrepareError(f"{path}: {record} does not list this file; move it to another folder, or {AGAIN}")
        if sha256 != wanted:
            raise PrepareError(
                f"{path}: sha256 {sha256[:16]}…, but {record} lists {wanted[:16]}…: the file was changed or damaged; copy it again, or {AGAIN}"
            )
    arguments = {key: value for key, value in made["plan"].items() if key not in ("inputs", "files", "code")}
    origin = {"made_by": "prepare arxiv", "record": str(record), "sha256": hashlib.sha256(data).hexdigest(), "documents": paths}
    origin |= {"inputs": made["inputs"], "arguments": arguments, "code": made["plan"]["code"]}
    return origin | {"versions": made["versions"], "counts": made["counts"]}
