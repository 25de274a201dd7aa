"""LaTeX sources as arXiv and authors hand them over → trees in memory, `{relative path: bytes}`.

A source is a single .tex, a .gz of one, a tar or a .tar.gz. It comes from strangers: members are read as a stream, nothing is
written to disk, regular files only, with caps on bytes, ratio, members and header sizes. Whatever breaks a rule raises
`ArchiveError` with a reason that can be counted.

    tree = read_source(open("2301.00001.gz", "rb").read())

`bulk_members` walks an outer tar of many papers (arXiv_src_2301_001.tar) and gives each paper's bytes.
"""
from __future__ import annotations

import io
import posixpath
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

MB = 1 << 20
TEXT_NAME = re.compile(r"\.(tex|ltx|latex|bbl|sty|cls|txt|inc|tikz|def)$|(^|/)[^./]+$", re.IGNORECASE)
BLOCK = 512
REGULAR = b"\0" + b"07"
LONG_NAME, LONG_LINK, PAX, PAX_GLOBAL, DIRECTORY = b"L", b"K", b"x", b"g", b"5"


class ArchiveError(ValueError):
    """A source that is refused: `reason` is one word to count by, `detail` says what was seen."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, kw_only=True)
class Caps:
    expanded: int = 200 * MB      # bytes of all members together
    ratio: int = 100              # expanded / compressed, looked at from `ratio_from` bytes on
    ratio_from: int = MB
    members: int = 10_000
    text: int = 32 * MB           # bytes of TeX kept in memory
    source: int = 200 * MB        # bytes of the compressed source itself
    header: int = 64 * 1024       # bytes of one extended header (a name)
    depth: int = 40               # folders above a member


def read_source(data: bytes, caps: Caps = Caps()) -> dict[str, bytes]:
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
    while stream.read(1 << 18):                       # to the end: a cut or damaged gzip shows in its last bytes
        pass
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
    (b"\x1f\x8b", "gz"), (b"%PDF", "pdf"), (b"%!", "postscript"), (b"PK\x03\x04", "zip"), (b"PK\x05\x06", "zip"), (b"BZh", "other_compression"),
    (b"\xfd7zXZ", "other_compression"), (b"\x28\xb5\x2f\xfd", "other_compression"), (b"7z\xbc\xaf", "other_compression"),
    (b"\x1f\x9d", "other_compression"), (b"\x1f\xa0", "other_compression"), (b"Salted__", "encrypted"),
    (b"-----BEGIN PGP", "encrypted"), (b"age-encryption.org", "encrypted"), (b"\x85\x02", "encrypted"), (b"\x8c\x0d\x04", "encrypted"),
]


def _kind(head: bytes) -> str:
    if not head:
        return "empty"
    for magic, kind in MAGIC:
        if head.startswith(magic):
            return kind
    if len(head) >= BLOCK and _checksum_ok(head[:BLOCK]):
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
                rest = self.pending + bytes(self.data[self.position:self.position + BLOCK])
                if not rest.strip(b"\0"):
                    return 0
                if not rest.startswith(b"\x1f\x8b"):
                    raise ArchiveError("trailing_garbage", "bytes that are no gzip follow the gzip")
                self.engine = zlib.decompressobj(31)
            if not self.pending:
                self.pending = bytes(self.data[self.position:self.position + (1 << 16)])
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
                buffer[:len(out)] = out
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
        if _kind(content[:BLOCK]) == "tex":       # a name without an ending may be anything
            tree[name] = content
    if not tree:
        nested = [name for name in seen if name.endswith((".gz", ".tar", ".zip", ".tgz"))]
        if nested:
            raise ArchiveError("nested_archive", f"no TeX, but {nested[0][:80]!r}; only one level is opened")
        raise ArchiveError("no_tex", f"{len(seen)} files, none of them TeX")
    return tree


def safe_name(name: str, caps: Caps = Caps()) -> str:
    """The member's relative path in one spelling; a name that could leave the paper's folder raises ArchiveError."""
    if "\0" in name or any(ord(c) < 32 for c in name):
        raise ArchiveError("unsafe_name", f"control characters in {name[:80]!r}")
    path = name.replace("\\", "/")
    if path.startswith("/") or re.match(r"[A-Za-z]:", path):
        raise ArchiveError("absolute_name", f"{name[:80]!r}")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ArchiveError("path_traversal", f"{name[:80]!r}")
    if len(parts) > caps.depth:
        raise ArchiveError("too_deep", f"{len(parts)} folders, the limit is {caps.depth}")
    if not parts:
        raise ArchiveError("unsafe_name", "a file without a name")
    return posixpath.join(*parts)


@dataclass
class Member:
    """One regular file of a tar; `read` before asking for the next."""

    name: str
    size: int
    offset: int
    stream: BinaryIO
    left: int = -1                # bytes not read yet; -1: none was

    def read(self) -> bytes:
        data = self.stream.read(self.size)
        self.left = self.size - len(data)
        if self.left:
            raise ArchiveError("truncated", f"{self.name[:80]!r} should have {self.size} bytes, {len(data)} are there")
        return data


def tar_members(stream: BinaryIO, caps: Caps) -> Iterator[Member]:
    """Regular files in order. `tarfile` is not used: it takes a broken header for the end, and reads a name of any size into memory."""
    seekable = stream.seekable()
    count = total = position = 0
    long_name = pax_size = None
    while True:
        header = stream.read(BLOCK)
        if len(header) < BLOCK:
            raise ArchiveError("truncated", "the tar ends before its end mark")
        offset, position = position, position + BLOCK
        if not header.strip(b"\0"):
            return
        if not _checksum_ok(header):
            raise ArchiveError("corrupt", f"no tar header at byte {offset}")
        kind, size = header[156:157], _number(header[124:136])
        padding = -size % BLOCK
        if kind in (LONG_NAME, LONG_LINK, PAX, PAX_GLOBAL):
            if size > caps.header:
                raise ArchiveError("header_too_large", f"an extended header of {size} bytes, the limit is {caps.header}")
            content = _skip_read(stream, size, padding)
            position += size + padding
            count += 1
            if count > caps.members:
                raise ArchiveError("too_many_members", f"more than {caps.members}")
            if kind == LONG_NAME:
                long_name = content.rstrip(b"\0").decode("utf-8", "replace")
            elif kind == PAX:
                name, pax_size = _pax(content)
                long_name = name or long_name
            continue
        count += 1
        if count > caps.members:
            raise ArchiveError("too_many_members", f"more than {caps.members}")
        name = long_name if long_name is not None else _name(header)
        if pax_size is not None:
            size, padding = pax_size, -pax_size % BLOCK
        long_name = pax_size = None
        if kind == DIRECTORY or (kind in (b"\0", b"0") and name.endswith("/")):
            continue
        if kind not in (b"\0", b"0", b"7"):
            reason = {b"1": "hard_link", b"2": "symbolic_link", b"S": "sparse_file"}.get(kind, "special_file")
            raise ArchiveError(reason, f"{name[:80]!r}; regular files only")
        total += size
        if total > caps.expanded:
            raise ArchiveError("expands_too_large", f"members of more than {caps.expanded} bytes together")
        member = Member(name, size, offset, stream)
        yield member
        _skip(stream, (size if member.left < 0 else member.left) + padding, seekable)
        position += size + padding


def bulk_members(stream: BinaryIO, first: int = 0, last: int | None = None, caps: Caps = Caps()) -> Iterator[Member]:
    """Papers of a bulk tar whose headers stand in the bytes [first, last): a share of a large dump. No cap on the whole: it is no bomb, it lies there."""
    outer = Caps(expanded=1 << 62, members=1 << 40, header=caps.header)
    for member in tar_members(stream, outer):
        if last is not None and member.offset >= last:
            return
        if member.offset >= first:
            yield member


def _checksum_ok(header: bytes) -> bool:
    try:
        stored = int(header[148:156].strip(b" \0") or b"x", 8)
    except ValueError:
        return False
    return stored == sum(header[:148]) + 256 + sum(header[156:])


def _number(field: bytes) -> int:
    if field[0] & 0x80:                               # GNU: base 256
        number = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    else:
        text = field.strip(b" \0")
        if text and not re.fullmatch(rb"[0-7]+", text):
            raise ArchiveError("corrupt", f"a size that is no number: {field!r}")
        number = int(text or b"0", 8)
    if number > 1 << 50:
        raise ArchiveError("expands_too_large", f"a member says it has {number} bytes")
    return number


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0")[0]
    prefix = header[345:500].split(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "replace")


def _pax(content: bytes) -> tuple[str | None, int | None]:
    name = size = None
    position = 0
    while position < len(content):
        found = re.compile(rb"(\d{1,9}) ([^=]+)=").match(content, position)
        if not found or not int(found[1]):
            raise ArchiveError("corrupt", "an extended header that cannot be read")
        value = content[found.end():position + int(found[1]) - 1]
        if found[2] == b"path":
            name = value.decode("utf-8", "replace")
        elif found[2] == b"size":
            size = _number(b"%o" % int(value)) if value.isdigit() and len(value) < 20 else _number(b"x")
        elif found[2].startswith(b"GNU.sparse"):
            raise ArchiveError("sparse_file", "regular files only")
        position += int(found[1])
    return name, size


def _skip_read(stream: BinaryIO, size: int, padding: int) -> bytes:
    content = stream.read(size + padding)
    if len(content) < size + padding:
        raise ArchiveError("truncated", "the tar ends inside a header")
    return content[:size]


def _skip(stream: BinaryIO, size: int, seekable: bool) -> None:
    if seekable:                                      # past the end shows as a short header
        stream.seek(size, io.SEEK_CUR)
        return
    while size:
        got = len(stream.read(min(size, 1 << 18)))
        if not got:
            raise ArchiveError("truncated", "the tar ends inside a member")
        size -= got
