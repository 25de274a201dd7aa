"""LaTeX sources as arXiv and authors hand them over → trees in memory, `{relative path: bytes}`.

A source is a single .tex, a .gz of one, a tar or a .tar.gz. It comes from strangers: members are read as a stream, nothing is
written to disk, regular files only, with caps on bytes, ratio, members and header sizes. Whatever breaks a rule raises
`ArchiveError` with a reason that can be counted.

    tree = read_source(open("2301.00001.gz", "rb").read())
"""

from __future__ import annotations

import io
import os
import re
import zlib
from pathlib import Path
from typing import BinaryIO

from data_tools.archives.limits import CAPS, ArchiveError, Caps
from data_tools.archives.tar_stream import BLOCK, checksum_ok, safe_name, tar_members

TEXT_NAME = re.compile(r"\.(tex|ltx|latex|bbl|sty|cls|txt|inc|tikz|def)$|(^|/)[^./]+$|(^|/)00README\.\w+$", re.IGNORECASE)
README = re.compile(r"(^|/)00README(\.\w+)?$", re.IGNORECASE)  # what arXiv was told about the files; no TeX itself


def read_source(data: bytes, caps: Caps = CAPS) -> dict[str, bytes]:
    """Text files of one paper by relative path; a single file without a name is called `main.tex`.

    Archives inside the paper's archive are not opened. Raises ArchiveError.
    """
    if len(data) > caps.source:
        raise ArchiveError("source_too_large", f"{len(data)} bytes, the limit is {caps.source}")
    kind = _kind(data[:BLOCK])
    if kind == "gz":
        kind = _kind(io.BufferedReader(_Inflate(data, caps), BLOCK).read(BLOCK))
        stream: BinaryIO = io.BufferedReader(_Inflate(data, caps), 1 << 16)
        if kind == "gz":
            raise ArchiveError("nested_archive", "a gzip inside a gzip; only one level is opened")
    else:
        stream = io.BytesIO(data)
    if kind == "tar":
        tree = _read_tar(stream, caps)
    elif kind == "tex":
        tree = {"main.tex": _read_text(stream, caps)}
    else:
        raise ArchiveError(kind, REFUSED[kind])
    while stream.read(1 << 18):  # to the end: a cut or damaged gzip shows in its last bytes
        pass
    return tree


def read_folder(folder: Path, caps: Caps = CAPS) -> dict[str, bytes]:
    """Text files of a paper that lies in a folder; links are not followed. Raises ArchiveError."""
    tree: dict[str, bytes] = {}
    count = kept = 0
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(place) / name
            count += 1
            if count > caps.members:
                raise ArchiveError("too_many_members", f"more than {caps.members}")
            if path.is_symlink() or not path.is_file() or not TEXT_NAME.search(name):
                continue
            kept += path.stat().st_size
            if kept > caps.text:
                raise ArchiveError("text_too_large", f"more than {caps.text} bytes of TeX")
            content = path.read_bytes()
            if _kind(content[:BLOCK]) == "tex":
                tree[path.relative_to(folder).as_posix()] = content
    if all(map(README.search, tree)):
        raise ArchiveError("no_tex", f"{count} files, none of them TeX")
    return tree


REFUSED = {
    "pdf": "a PDF, no LaTeX source was given",
    "postscript": "PostScript, no LaTeX source was given",
    "html": "HTML, not LaTeX",
    "zip": "a zip archive; sources are gz, tar or tar.gz",
    "other_compression": "bzip2, xz, zstd, 7z or compress; sources are gz, tar or tar.gz",
    "encrypted": "an encrypted file",
    "empty": "no bytes",
    "garbage": "neither text nor a known archive",
}
MAGIC = [
    (b"\x1f\x8b", "gz"),
    (b"%PDF", "pdf"),
    (b"%!", "postscript"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"BZh", "other_compression"),
    (b"\xfd7zXZ", "other_compression"),
    (b"\x28\xb5\x2f\xfd", "other_compression"),
    (b"7z\xbc\xaf", "other_compression"),
    (b"\x1f\x9d", "other_compression"),
    (b"\x1f\xa0", "other_compression"),
    (b"Salted__", "encrypted"),
    (b"-----BEGIN PGP", "encrypted"),
    (b"age-encryption.org", "encrypted"),
    (b"\x85\x02", "encrypted"),
    (b"\x8c\x0d\x04", "encrypted"),
]


def _kind(head: bytes) -> str:
    if not head:
        return "empty"
    for magic, kind in MAGIC:
        if head.startswith(magic):
            return kind
    if len(head) >= BLOCK and checksum_ok(head[:BLOCK]):
        return "tar"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "html"
    odd = sum(byte < 32 and byte not in b"\t\n\r\f\v\x1a\x1b" for byte in head)
    return "garbage" if odd > len(head) // 50 else "tex"


class _Inflate(io.RawIOBase):
    """A gzip's bytes as a stream that refuses to grow past the caps; several gzip members follow one another."""

    def __init__(self, data: bytes, caps: Caps) -> None:
        self.data, self.caps = memoryview(data), caps
        self.position = self.expanded = 0
        self.engine = zlib.decompressobj(31)
        self.pending = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        while True:
            if self.engine.eof:
                self.pending = self.engine.unused_data
                rest = self.pending + bytes(self.data[self.position : self.position + BLOCK])
                if not rest.strip(b"\0"):
                    return 0
                if not rest.startswith(b"\x1f\x8b"):
                    raise ArchiveError("trailing_garbage", "bytes that are no gzip follow the gzip")
                self.engine = zlib.decompressobj(31)
            if not self.pending:
                self.pending = bytes(self.data[self.position : self.position + (1 << 16)])
                self.position += len(self.pending)
                if not self.pending:
                    raise ArchiveError("truncated", "the gzip ends before its end mark")
            try:
                out = self.engine.decompress(self.pending, len(buffer))
            except zlib.error as error:
                raise ArchiveError("corrupt", f"the gzip cannot be read: {error}") from None
            self.pending = self.engine.unconsumed_tail
            if out:
                self._count(len(out))
                buffer[: len(out)] = out
                return len(out)

    def _count(self, size: int) -> None:
        self.expanded += size
        if self.expanded > self.caps.expanded:
            raise ArchiveError("expands_too_large", f"more than {self.caps.expanded} bytes when expanded")
        if self.expanded > self.caps.ratio_from and self.expanded > self.caps.ratio * len(self.data):
            raise ArchiveError("ratio", f"{len(self.data)} bytes expand to more than {self.caps.ratio} times as much")


def _read_text(stream: BinaryIO, caps: Caps) -> bytes:
    text = stream.read(caps.text + 1)
    if len(text) > caps.text:
        raise ArchiveError("text_too_large", f"more than {caps.text} bytes of TeX")
    if text.count(0) > len(text) // 50:
        raise ArchiveError("garbage", "a text full of null bytes")
    return text


def _read_tar(stream: BinaryIO, caps: Caps) -> dict[str, bytes]:
    tree: dict[str, bytes] = {}
    seen: set[str] = set()
    kept = 0
    for member in tar_members(stream, caps):
        name = safe_name(member.name, caps)
        if name in seen:
            raise ArchiveError("duplicate_name", f"{name[:80]!r} twice in one archive")
        seen.add(name)
        if not TEXT_NAME.search(name):
            continue
        kept += member.size
        if kept > caps.text:
            raise ArchiveError("text_too_large", f"more than {caps.text} bytes of TeX")
        content = member.read()
        if _kind(content[:BLOCK]) == "tex":  # a name without an ending may be anything
            tree[name] = content
    if all(map(README.search, tree)):
        nested = [name for name in seen if name.endswith((".gz", ".tar", ".zip", ".tgz"))]
        if nested:
            raise ArchiveError("nested_archive", f"no TeX, but {nested[0][:80]!r}; only one level is opened")
        raise ArchiveError("no_tex", f"{len(seen)} files, none of them TeX")
    return tree
