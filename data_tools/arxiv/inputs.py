"""Where raw data lies, local or remote (fsspec: s3://, hf://, gs:// …): metadata files in parts, LaTeX sources in groups.

    metadata_parts(["arxiv.json"])        → parts of one file that one task reads: all of a .gz, 64 MB of a plain one
    latex_shares(["arXiv_src_2301_001.tar", "papers/"]) → bulk tars in shares of 64 MB, single sources in groups

Both depend on the input alone, not on the number of workers, so finished tasks stay valid.
"""

from __future__ import annotations

import gzip
import os
import posixpath
import re
import zlib
from collections.abc import Iterator
from typing import Any

from data_tools.archives.limits import ArchiveError
from data_tools.archives.tar_stream import bulk_members
from data_tools.arxiv.metadata import paper_id
from data_tools.files.places import PlaceError, describe, filesystem, is_local

PART_BYTES = 64 << 20
GROUP_FILES = 16
MAX_LINE = 64 << 20  # a longer line is read in pieces, none of which is a record
SOURCE_NAME = re.compile(r"^(.+?)(?:\.tar\.gz|\.tgz|\.tar|\.gz|\.tex|\.pdf)$", re.IGNORECASE)


def json_files(paths: list[str]) -> list[str]:
    """Files of JSON lines in order: patterns and folders opened. Raises PlaceError for what is not there."""
    found: list[str] = []
    for path in paths:
        fs, inner = filesystem(path)
        if any(sign in inner for sign in "*?["):
            names = sorted(fs.glob(inner))
        elif fs.isdir(inner):
            names = sorted(name for name in fs.find(inner) if re.search(r"\.jsonl?(\.gz|\.zst|\.bz2|\.xz)?$", name))
        else:
            names = [inner] if fs.exists(inner) else []
        if not names:
            raise PlaceError(f"{path}: no such file, or a folder without .json or .jsonl files")
        found += [os.path.abspath(name) if is_local(fs) else fs.unstrip_protocol(name) for name in names]
    return list(dict.fromkeys(found))


def metadata_parts(paths: list[str]) -> list[dict[str, Any]]:
    parts = []
    for path in paths:
        size = describe(path)["bytes"]
        packed = not re.search(r"\.(jsonl?|ndjson)$", path)
        for first in [0] if packed else range(0, max(size, 1), PART_BYTES):
            parts.append({"path": path, "first": first, "last": size if packed else min(first + PART_BYTES, size), "packed": packed})
    return parts


def lines_of(part: dict[str, Any]) -> Iterator[bytes]:
    """Lines that begin in the part; a line that runs over its end belongs to it."""
    fs, inner = filesystem(part["path"])
    try:
        with fs.open(inner, "rb", compression="infer" if part["packed"] else None) as file:
            if part["first"]:
                file.seek(part["first"] - 1)
                file.readline()  # the line before, whose end may be the very byte
            while (part["packed"] or file.tell() < part["last"]) and (line := file.readline(MAX_LINE)):
                if line.strip():
                    yield line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise PlaceError(f"{part['path']}: {error}; the copy was cut short or damaged, fetch it again") from None


def latex_shares(paths: list[str]) -> list[dict[str, Any]]:
    """What each task reads: `{"bulk": path, first, last}` or `{"papers": [path …]}`. Raises PlaceError."""
    shares: list[dict[str, Any]] = []
    loose: list[str] = []
    for path in paths:
        fs, inner = filesystem(path)
        if not fs.exists(inner):
            raise PlaceError(f"{path}: no such file or folder")
        for name in _papers_in(fs, inner.rstrip("/")) if fs.isdir(inner) else [inner]:
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
    return shares


def _papers_in(fs: Any, folder: str) -> list[str]:
    """A folder's papers: its sources, and its folders that hold TeX; folders of sources (2301/, hep-ph/) are opened."""
    found = []
    for entry in sorted(fs.ls(folder, detail=True), key=lambda entry: entry["name"]):
        name = entry["name"]
        if entry["type"] == "directory":
            found += _papers_in(fs, name) if _is_shelf(fs, name) else [name] if _holds_tex(fs, name) else []
        elif SOURCE_NAME.match(posixpath.basename(name)) and (not name.endswith(".pdf") or name_of(name)[1]):
            found.append(name)
    return found


def _is_shelf(fs: Any, folder: str) -> bool:
    if paper_id(posixpath.basename(folder)):
        return False
    entries = fs.ls(folder, detail=True)
    names = [posixpath.basename(entry["name"]) for entry in entries]
    if re.fullmatch(r"\d{4}|arXiv_src_.*", posixpath.basename(folder)):
        return True
    if any(name.endswith(".tex") and not name_of(name)[1] for name in names):
        return False
    return any(SOURCE_NAME.match(name) and not name.endswith(".tex") and name_of(name)[1] for name in names) or any(
        entry["type"] == "directory" and (paper_id(name) or re.fullmatch(r"\d{4}", name)) for entry, name in zip(entries, names)
    )


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
    """A source's name without its ending, and the (id, version) it stands for, if it is one of arXiv's: also hep-ph/9901001.gz."""
    base = posixpath.basename(path.rstrip("/"))
    found = SOURCE_NAME.match(base)
    stem = found[1] if found else base
    return stem, paper_id(stem) or paper_id(posixpath.basename(posixpath.dirname(path)) + "/" + stem)
