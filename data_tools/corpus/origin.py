"""Where the inputs of a corpus come from: what `prepare arxiv` wrote beside them about its own, checked, for the manifest of the shards.

inputs of `prepare corpus` → the provenance.json of each one's folder, here called its record → sha256 as listed there? → an entry for
each provenance.json
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from data_tools.corpus.records import Input
from data_tools.documents.folder import FORMAT_VERSION, MADE, RECORD
from data_tools.files.places import content_hash, filesystem, is_remote
from data_tools.work.workplace import PrepareError

AGAIN = "run that prepare arxiv again"


def find_origins(inputs: list[Input]) -> list[dict[str, Any]]:
    """`{"made_by", "record", "sha256", "documents", "inputs", "arguments", "code", "versions", "counts"}` for each record, in the inputs' order.

    Raises PrepareError when an input is not what its record lists, or lies in a folder that `prepare arxiv` has not finished.
    """
    found: dict[str, list[str]] = {}
    for input in inputs:
        if input.reader != "hub" and (record := _record_beside(input.path)) is not None:
            found.setdefault(record, []).append(input.path)
    return [origin for record, paths in found.items() if (origin := _origin(record, paths)) is not None]


def _record_beside(given: str) -> str | None:
    """The provenance.json in the folder of a file, or in the one above."""
    if ("::" in given and not os.path.exists(given)) or given.startswith(("http://", "https://")):
        return None  # an address in an archive or on the web has no folder
    fs, path = filesystem(given if is_remote(given) else os.path.realpath(given))
    *above, last, name = path.split("/")
    for folder in ([*above, last], above):
        if fs.isfile(record := "/".join([*folder, RECORD])):
            return fs.unstrip_protocol(record) if is_remote(given) else record if os.path.isabs(given) else os.path.relpath(record)
    if MADE.fullmatch(f"{last}/{name}"):
        raise PrepareError(
            f"{given}: there is no {record}, which prepare arxiv writes last: it has not finished there; "
            f"{AGAIN}, or, if this is a copy, copy {RECORD}, too"
        )
    return None


def _origin(record: str, paths: list[str]) -> dict[str, Any] | None:
    """The entry of one record; None when the file is of another program."""
    fs, inner = filesystem(record)
    data = fs.cat_file(inner)
    try:
        made = json.loads(data)
    except ValueError as error:
        raise PrepareError(f"{record}: not JSON ({error}); copy it again, or {AGAIN}") from None
    if not isinstance(made, dict) or made.get("kind") != "documents":
        return None
    if made.get("format_version") != FORMAT_VERSION:
        raise PrepareError(f"{record}: format_version {made.get('format_version')!r}, this program reads {FORMAT_VERSION}; {AGAIN}")
    with ThreadPoolExecutor() as pool:
        hashes = list(pool.map(content_hash, paths))
    listed = {Path(entry["file"]).name: entry["sha256"] for entry in made["files"]}
    for path, sha256 in zip(paths, hashes):
        wanted = listed.get(Path(path if is_remote(path) else os.path.realpath(path)).name)
        if wanted is None:
            raise PrepareError(f"{path}: {record} does not list this file; move it to another folder, or {AGAIN}")
        if sha256 != wanted:
            raise PrepareError(
                f"{path}: sha256 {str(sha256)[:16]}…, but {record} lists {wanted[:16]}…: the file was changed or damaged; copy it again, or {AGAIN}"
            )
    arguments = {key: value for key, value in made["plan"].items() if key not in ("inputs", "files", "code")}
    origin = {"made_by": "prepare arxiv", "record": record, "sha256": hashlib.sha256(data).hexdigest(), "documents": paths}
    origin |= {"inputs": made["inputs"], "arguments": arguments, "code": made["plan"]["code"]}
    return origin | {"versions": made["versions"], "counts": made["counts"]}
