"""A file's bytes as they were before compression (.gz, .zst, .bz2, .xz), here or wherever fsspec reaches.

with open_packed("papers.jsonl.zst") as file:
    for line in file: …                     # raises DamagedError where the copy was cut short
"""

import io
import zlib
from typing import Any, BinaryIO

from data_tools.files.places import PlaceError, filesystem

ENDINGS = (".gz", ".zst", ".bz2", ".xz")


class DamagedError(PlaceError):
    """A compressed file that cannot be read to its end; `cause` is what the decompressor said."""

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(f"{path}: cut short or damaged ({cause}); copy it again")
        self.cause = cause


def ending_of(path: str) -> str:
    """`.gz` of papers.jsonl.GZ; "" of a file that is not compressed."""
    return next((ending for ending in ENDINGS if path.lower().endswith(ending)), "")


def open_packed(path: str) -> BinaryIO:
    """Buffered bytes, decompressed by the file's ending. Raises DamagedError while reading."""
    fs, inner = filesystem(path)
    raw = fs.open(inner, "rb")
    ending = ending_of(path)
    return io.BufferedReader(_Unpacked(path, OPENERS[ending](raw), raw), 1 << 18) if ending else raw


def _gz(raw: Any) -> Any:
    import gzip

    return gzip.GzipFile(fileobj=raw, mode="rb")


def _zst(raw: Any) -> Any:
    import pyarrow as pa  # a dependency anyway, where zstandard is none

    return pa.CompressedInputStream(raw, "zstd")


def _bz2(raw: Any) -> Any:
    import bz2

    return bz2.BZ2File(raw)


def _xz(raw: Any) -> Any:
    import lzma

    return lzma.LZMAFile(raw)


OPENERS = {".gz": _gz, ".zst": _zst, ".bz2": _bz2, ".xz": _xz}


class _Unpacked(io.RawIOBase):
    """What decompressors say in ways of their own becomes one error."""

    def __init__(self, path: str, stream: Any, raw: Any) -> None:
        self.path, self.stream, self.raw_file = path, stream, raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        import lzma

        try:
            data = self.stream.read(len(buffer))
        except (EOFError, zlib.error, lzma.LZMAError) as error:
            raise DamagedError(self.path, str(error)) from None
        except OSError as error:
            if error.errno is not None:  # the disk's or the network's own fault
                raise
            raise DamagedError(self.path, str(error)) from None
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self.raw_file.close()
        super().close()
