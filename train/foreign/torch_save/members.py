"""Where the members of a torch.save file lie: its zip directory, read without decompressing or trusting anything.

torch.save writes an uncompressed zip: NAME/data.pkl (the structure) and NAME/data/KEY (one storage's bytes each). zipfile
would read a directory of any size and never says where a member's bytes begin; a byte-range reader needs just that.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MAX_DIRECTORY_BYTES = 64 << 20  # a 70B file's is below 1 MB
MAX_NAME_BYTES = 512
_LEGACY = (b"\x80\x02\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.")  # torch < 1.6


class TorchFileError(ValueError):
    """A file that is not a whole, plain torch.save file, or that wants code to be run."""


@dataclass(frozen=True)
class Member:
    """One stored file of the zip: bytes [start, start + size) of the file on disk."""

    start: int
    size: int
    crc: int  # 0 in all members where torch was told not to compute it


def read_members(path: Path, file: BinaryIO) -> dict[str, Member]:
    """The members below the archive's one top folder, by name without that folder: `data.pkl`, `data/0`, …

    Raises:
        TorchFileError: not a zip, cut short, compressed or encrypted members, unsafe names, sizes that contradict each other.
    """
    size = os.fstat(file.fileno()).st_size
    head = file.read(16)
    if head[:4] != b"PK\x03\x04":
        _refuse_other(path, head, size)
    at, length, count = _directory(path, file, size)
    if length > MAX_DIRECTORY_BYTES or at + length > size:
        raise TorchFileError(f"{path}: its zip directory claims {length} bytes at {at} of {size}; the file is damaged, fetch it again")
    directory = os.pread(file.fileno(), length, at)
    members: dict[str, Member] = {}
    taken: list[tuple[int, int, str]] = []
    offset = 0
    try:
        for _ in range(count):
            name, member, local, offset = _entry(path, file, directory, offset, at)
            top, _, rest = name.partition("/")
            if rest in members:
                raise TorchFileError(f"{path}: member {name!r} is there twice; fetch the file from a source you trust")
            if taken and top != taken[0][2]:
                raise TorchFileError(f"{path}: members outside one top folder ({name!r}); not written by torch.save, fetch it again")
            members[rest] = member
            taken.append((local, member.start + member.size, top))
    except (struct.error, IndexError):
        raise TorchFileError(f"{path}: its zip directory is cut short; fetch the file again") from None
    if offset != length:
        raise TorchFileError(f"{path}: its zip directory holds more than its {count} entries; the file is damaged, fetch it again")
    taken.sort()
    for (_, end, _), (start, _, _) in zip(taken, [*taken[1:], (at, at, "")], strict=True):
        if end > start:
            raise TorchFileError(f"{path}: members overlap at byte {start}, sizes in it lie; fetch the file from a source you trust")
    return members


def read_small(path: Path, file: BinaryIO, members: dict[str, Member], name: str, most: int) -> bytes:
    """A small member's bytes, its checksum verified.

    Raises:
        TorchFileError: missing, larger than `most`, or changed.
    """
    member = members.get(name)
    if member is None:
        raise TorchFileError(f"{path}: has no {name}; not a torch.save file, or a damaged one: fetch it again")
    if member.size > most:
        raise TorchFileError(f"{path}: {name} has {member.size} bytes, more than {most} are an attack or rubbish; fetch it again")
    data = os.pread(file.fileno(), member.size, member.start)
    computed = any(m.crc for m in members.values())  # torch.serialization.set_crc32_options(False) leaves all at 0
    if len(data) != member.size or (computed and zlib.crc32(data) != member.crc):
        raise TorchFileError(f"{path}: {name} has changed since it was written (checksum); fetch the file again")
    return data


def _refuse_other(path: Path, head: bytes, size: int) -> None:
    if any(head.startswith(magic[: len(head)]) for magic in _LEGACY) and len(head) >= 13:
        raise TorchFileError(
            f"{path}: written in torch's old format (before 1.6, or _use_new_zipfile_serialization=False), which only unpickling can read;"
            " load and torch.save it again where it was made, or have it written as safetensors"
        )
    raise TorchFileError(f"{path}: not a torch.save file ({size} bytes, begins with {head[:8].hex() or 'nothing'}); fetch the file again")


def _directory(path: Path, file: BinaryIO, size: int) -> tuple[int, int, int]:
    """(offset, bytes, entries) of the central directory, from the record at the very end; zip64 where it says so."""
    tail_at = max(0, size - 65557)  # 22 bytes and a comment of at most 65,535
    tail = os.pread(file.fileno(), size - tail_at, tail_at)
    found = tail.rfind(b"PK\x05\x06")
    if found < 0 or len(tail) - found < 22:
        raise TorchFileError(f"{path}: its end is missing ({size} bytes are there); the copy was cut short, fetch it again")
    disk, cd_disk, _, count, length, at, comment = struct.unpack_from("<4H2IH", tail, found + 4)
    if found + 22 + comment != len(tail):
        raise TorchFileError(f"{path}: bytes follow its end; the file is damaged, fetch it again")
    if 0xFFFF in (disk, cd_disk, count) or 0xFFFFFFFF in (length, at):
        where = tail_at + found - 20
        locator = os.pread(file.fileno(), 20, where) if where >= 0 else b""
        if locator[:4] != b"PK\x06\x07":
            raise TorchFileError(f"{path}: its zip64 end is missing; the file is damaged, fetch it again")
        record = os.pread(file.fileno(), 56, min(struct.unpack_from("<Q", locator, 8)[0], size))
        if len(record) != 56 or record[:4] != b"PK\x06\x06":
            raise TorchFileError(f"{path}: its zip64 end is missing; the file is damaged, fetch it again")
        count, length, at = struct.unpack_from("<3Q", record, 32)
    return at, length, count


def _entry(path: Path, file: BinaryIO, directory: bytes, offset: int, end: int) -> tuple[str, Member, int, int]:
    """(name, member, start of its local header, offset of the next entry); members lie before `end`."""
    if directory[offset : offset + 4] != b"PK\x01\x02":
        raise TorchFileError(f"{path}: its zip directory is damaged; fetch the file again")
    flags, method, _, _, crc, packed, full, n_name, n_extra, n_comment = struct.unpack_from("<HHHH3I3H", directory, offset + 8)
    local = struct.unpack_from("<I", directory, offset + 42)[0]
    if n_name > MAX_NAME_BYTES:
        raise TorchFileError(f"{path}: a member's name has {n_name} bytes; fetch the file from a source you trust")
    name = directory[offset + 46 : offset + 46 + n_name].decode("utf-8", "backslashreplace")
    parts = name.split("/")
    if len(parts) < 2 or any(p in ("", ".", "..") for p in parts) or not name.isprintable() or "\\" in name or len(name) < n_name // 4:
        raise TorchFileError(f"{path}: member name {name[:80]!r} is unsafe; fetch the file from a source you trust")
    if parts[1] in ("code", "constants.pkl"):
        raise TorchFileError(f"{path}: is a TorchScript program, not weights; fetch the weights as safetensors")
    wide = _zip64(directory[offset + 46 + n_name : offset + 46 + n_name + n_extra], [full, packed, local])
    full, packed, local = wide
    if method != 0 or packed != full or flags & 1:
        raise TorchFileError(
            f"{path}: member {name!r} is compressed or encrypted ({packed} bytes for {full}), torch.save stores plainly; torch.save it again"
        )
    header = os.pread(file.fileno(), 30 + n_name, min(local, end))
    if header[:4] != b"PK\x03\x04" or header[30:] != directory[offset + 46 : offset + 46 + n_name]:
        raise TorchFileError(f"{path}: member {name!r} is not where the directory says; the file is damaged, fetch it again")
    local_name, local_extra = struct.unpack_from("<2H", header, 26)
    local_packed, local_full = struct.unpack_from("<2I", header, 18)
    # with flag bit 3 the sizes follow the data and may be 0 here; 0xFFFFFFFF points to a zip64 field
    lies = [n for n in (local_packed, local_full) if n not in (0, 0xFFFFFFFF, full)]
    start = local + 30 + local_name + local_extra
    if lies or local_name != n_name or start + full > end:
        raise TorchFileError(
            f"{path}: member {name!r} says {full} and {(lies or [start + full])[0]} bytes; the file is damaged, fetch it again"
        )
    return name, Member(start, full, crc), local, offset + 46 + n_name + n_extra + n_comment


def _zip64(extra: bytes, values: list[int]) -> list[int]:
    """The values, those that are 0xFFFFFFFF replaced in order by the zip64 extra field's 8-byte ones."""
    at = 0
    while 0xFFFFFFFF in values and at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            field, used = extra[at + 4 : at + 4 + length], 0
            for i, value in enumerate(values):
                if value == 0xFFFFFFFF:
                    values[i] = struct.unpack_from("<Q", field, used)[0]
                    used += 8
            break
        at += 4 + length
    return values
