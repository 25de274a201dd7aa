"""Where raw data lies, local or remote (fsspec: s3://, hf://, gs:// …): metadata files in parts, LaTeX sources in groups.

    metadata_parts(["arxiv.json"])        → parts of one file that one task reads: all of a .gz, 64 MB of a plain one
    latex_shares(["arXiv_src_2301_001.tar", "papers/"]) → bulk tars in shares of 64 MB, single sources in groups

Both depend on the input alone, not on the number of workers, so finished tasks stay valid.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from data_tools.archives.limits import ArchiveError
from data_tools.archives.tar_stream import bulk_members
from data_tools.arxiv.ids import ARCHIVES, paper_id
from data_tools.files.json_values import JsonError, Written, is_whole, read_whole
from data_tools.files.packed import DamagedError, ending_of, open_packed
from data_tools.files.places import PlaceError, describe, filesystem, is_local, matches

PART_BYTES = 64 << 20
GROUP_FILES = 16
MAX_LINE = 64 << 20  # a longer line is read in pieces, none of which is a record
JSON_NAME = re.compile(r"\.(jsonl?|ndjson)(\.gz|\.zst|\.bz2|\.xz)?$", re.IGNORECASE)
PACKED_SOURCE = (".gz", ".tgz", ".tar")
NO_DATA = re.compile(r"/(?:\.|(?:_temporary|_delta_log|_spark_metadata)/)")
SOURCE_NAME = re.compile(r"^(.+?)(?:\.tar\.gz|\.tgz|\.tar|\.gz|\.tex|\.pdf)$", re.IGNORECASE)


def json_files(paths: list[str]) -> list[str]:
    """Files of JSON lines in order: patterns and folders opened. Raises PlaceError for what is not there."""
    found: list[str] = []
    for path in paths:
        fs, inner = filesystem(path)
        if is_local(fs):
            found_here = [inner] if fs.exists(inner) else matches(inner)
        else:
            found_here = sorted(fs.glob(inner)) if any(sign in inner for sign in "*?[") else [inner] if fs.exists(inner) else []
        names = [name for place in found_here for name in (_json_below(fs, place) if fs.isdir(place) else [place])]
        if not names:
            raise PlaceError(f"{path}: no such file, or a folder without .json or .jsonl files")
        found += [os.path.abspath(name) if is_local(fs) else fs.unstrip_protocol(name) for name in names]
    return list(dict.fromkeys(found))


def _json_below(fs: Any, folder: str) -> list[str]:
    """A folder's files of JSON, without hidden ones and what Spark leaves beside its parts."""
    return sorted(name for name in fs.find(folder) if JSON_NAME.search(name) and not NO_DATA.search(name.removeprefix(folder)))


def metadata_parts(paths: list[str]) -> list[dict[str, Any]]:
    parts = []
    for path in paths:
        size = describe(path)["bytes"]
        whole = size > 0 and _is_whole(path)
        undivided = whole or ending_of(path) or not JSON_NAME.search(path)
        for first in [0] if undivided else range(0, max(size, 1), PART_BYTES):
            parts.append({"path": path, "first": first, "last": size if undivided else min(first + PART_BYTES, size)})
            parts[-1] |= {"undivided": bool(undivided), "whole": whole}
    return parts


def _is_whole(path: str) -> bool:
    try:
        with open_packed(path) as file:
            return is_whole(file)
    except DamagedError:
        return False  # told by the task that reads it


def lines_of(part: dict[str, Any]) -> Iterator[bytes]:
    """Lines that begin in the part; a line that runs over its end belongs to it. Of JSON as a whole its records, each as a line."""
    try:
        with open_packed(part["path"]) as file:
            if part.get("whole"):
                yield from _records_as_lines(part["path"], file)
                return
            if part["first"]:
                file.seek(part["first"] - 1)
                file.readline()  # the line before, whose end may be the very byte
            while (part["undivided"] or file.tell() < part["last"]) and (line := file.readline(MAX_LINE)):
                if line.strip():
                    yield line
    except DamagedError as error:
        raise PlaceError(f"{part['path']}: {error.cause}; the copy was cut short or damaged, fetch it again") from None


def _records_as_lines(path: str, file: BinaryIO) -> Iterator[bytes]:
    try:
        for record in read_whole(file):
            if isinstance(record, dict) and isinstance(record.get("id"), Written):
                record = {**record, "id": str(record["id"])}
            yield json.dumps(record).encode()
    except JsonError as error:
        raise PlaceError(f"{path}: {error}; mend it, or fetch it again") from None


def latex_shares(paths: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """What each task reads, `{"bulk": path, first, last}` or `{"papers": [path …]}`; and the files in folders that are no source.

    Raises PlaceError.
    """
    shares: list[dict[str, Any]] = []
    loose: list[str] = []
    strange: list[str] = []
    for path in paths:
        fs, inner = filesystem(path)
        places = [inner] if fs.exists(inner) else matches(inner) if is_local(fs) else []
        if not places:
            raise PlaceError(f"{path}: no such file or folder")
        for name in [name for place in places for name in (_papers_at(fs, place.rstrip("/"), strange) if fs.isdir(place) else [place])]:
            full = os.path.abspath(name) if is_local(fs) else fs.unstrip_protocol(name)
            if name.endswith(".tar") and _is_bulk(fs, name):
                size = fs.info(name)["size"]
                shares += [
                    {"bulk": full, "first": first, "last": first + PART_BYTES, "bytes": min(PART_BYTES, size - first)}
                    for first in range(0, size, PART_BYTES)
                ]
            else:
                loose.append(full)
    loose = list(dict.fromkeys(loose))
    shares += [{"papers": loose[first : first + GROUP_FILES], "bytes": GROUP_FILES << 16} for first in range(0, len(loose), GROUP_FILES)]
    if not shares:
        raise PlaceError(f"--latex {' '.join(paths)}: no .tex, .gz, .tar.gz, .tar and no folder with LaTeX in it")
    return shares, strange


def _papers_at(fs: Any, folder: str, strange: list[str]) -> list[str]:
    """Of a folder that was named on the command line: itself where its name is a paper's, else what is in it."""
    if name_of(folder)[1] and _holds_tex(fs, folder):
        return [folder]
    return _papers_in(fs, folder, strange)


def _papers_in(fs: Any, folder: str, strange: list[str]) -> list[str]:
    """A folder's papers: its sources, and its folders that hold TeX; folders of sources (2301/, hep-ph/) are opened.

    Other files go to `strange`, but hidden ones.
    """
    found = []
    for entry in sorted(fs.ls(folder, detail=True), key=lambda entry: entry["name"]):
        name = entry["name"]
        if entry["type"] == "directory":
            inside = _papers_in(fs, name, strange) if _is_shelf(fs, name) else [name] if _holds_tex(fs, name) else []
            found += inside
            if not inside and fs.find(name):
                strange.append(f"{name}/")
        elif _is_source(name):
            found.append(name)
        elif not posixpath.basename(name).startswith("."):
            strange.append(name)
    return found


def _is_shelf(fs: Any, folder: str) -> bool:
    """Whether a folder holds papers, and is none itself: by its name, or by sources and folders below it that are called by ids."""
    base = posixpath.basename(folder)
    if name_of(folder)[1]:
        return False
    if re.fullmatch(r"\d{4}|arXiv_src_.*", base):
        return True
    names = fs.find(folder)
    direct = [name for name in names if posixpath.dirname(name) == folder]
    if any(_is_tex(name) and not name_of(name)[1] for name in direct):
        return False
    if base.lower() in ARCHIVES:
        return bool(names)
    if any(_is_source(name) and not _is_tex(name) and name_of(name)[1] for name in direct):
        return True
    if any(name.lower().endswith(PACKED_SOURCE) and name_of(name)[1] for name in names):
        return True
    below = {place for name in names for place in _folders_between(folder, name)}
    return (
        any(name_of(place)[1] for place in below) or len({found[0] for name in names if _is_tex(name) and (found := name_of(name)[1])}) > 1
    )


def _is_source(name: str) -> bool:
    """By its name: an ending of sources, or an id without any, as arXiv's e-print pages are saved."""
    base = posixpath.basename(name)
    if SOURCE_NAME.match(base):
        return not base.lower().endswith(".pdf") or bool(name_of(name)[1])
    return bool(re.search(r"\d(?:v\d+)?$", base) and name_of(name)[1])


def _is_tex(name: str) -> bool:
    return name.lower().endswith(".tex")


def _folders_between(folder: str, name: str) -> list[str]:
    parts = posixpath.dirname(name)[len(folder) :].strip("/").split("/")
    return [f"{folder}/{'/'.join(parts[: k + 1])}" for k in range(len(parts)) if parts[k]]


def _holds_tex(fs: Any, folder: str) -> bool:
    return any(name.lower().endswith((".tex", ".ltx", ".latex")) for name in fs.find(folder))


def _is_bulk(fs: Any, path: str) -> bool:
    with fs.open(path, "rb") as file:
        try:
            first = next(bulk_members(file), None)
        except ArchiveError:
            return False  # read as a paper's own tar, where its reason is kept
    return first is not None and name_of(first.name)[1] is not None


def name_of(path: str) -> tuple[str, tuple[str, int] | None]:
    """A source's name without its ending, and the (id, version) it stands for, if it is one of arXiv's.

    Of the old style the archive may be that of a folder above: astro-ph/9301003.gz, also astro-ph/pdf/9301/9301003v1.pdf.
    """
    parts = path.rstrip("/").split("/")
    found = SOURCE_NAME.match(parts[-1])
    stem = found[1] if found else parts[-1]
    above = next((part for part in parts[-2:-5:-1] if part.split(".")[0].lower() in ARCHIVES), None)
    return stem, paper_id(stem) or (paper_id(f"{above}/{stem}") if above and stem[:1].isdigit() else None)
