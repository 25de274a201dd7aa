"""A tar's regular files one after another from a stream, with limits on all that its headers may claim.

`tarfile` is not used: it takes a broken header for the end, and reads a name of any size into memory.
"""

from __future__ import annotations

import io
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from data_tools.archives.limits import CAPS, ArchiveError, Caps

BLOCK = 512
LONG_NAME, LONG_LINK, PAX, PAX_GLOBAL, DIRECTORY = b"L", b"K", b"x", b"g", b"5"


def safe_name(name: str, caps: Caps = CAPS) -> str:
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
    left: int = -1  # bytes not read yet; -1: none was

    def read(self) -> bytes:
        data = self.stream.read(self.size)
        self.left = self.size - len(data)
        if self.left:
            raise ArchiveError("truncated", f"{self.name[:80]!r} should have {self.size} bytes, {len(data)} are there")
        return data


def tar_members(stream: BinaryIO, caps: Caps) -> Iterator[Member]:
    """Regular files in order. Raises ArchiveError at the first header that breaks a cap, is damaged, or is of a link or device."""
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
        if not checksum_ok(header):
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


def bulk_members(stream: BinaryIO, first: int = 0, last: int | None = None, caps: Caps = CAPS) -> Iterator[Member]:
    """Papers of a bulk tar whose headers stand in the bytes [first, last): a share of a large dump, which as a whole has no cap."""
    outer = Caps(expanded=1 << 62, members=1 << 40, header=caps.header)
    for member in tar_members(stream, outer):
        if last is not None and member.offset >= last:
            return
        if member.offset >= first:
            yield member


def checksum_ok(header: bytes) -> bool:
    try:
        stored = int(header[148:156].strip(b" \0") or b"x", 8)
    except ValueError:
        return False
    return stored == sum(header[:148]) + 256 + sum(header[156:])


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # GNU: base 256
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
        value = content[found.end() : position + int(found[1]) - 1]
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
    if seekable:  # past the end shows as a short header
        stream.seek(size, io.SEEK_CUR)
        return
    while size:
        got = len(stream.read(min(size, 1 << 18)))
        if not got:
            raise ArchiveError("truncated", "the tar ends inside a member")
        size -= got
