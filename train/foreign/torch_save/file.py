"""Foreign PyTorch files (.pt, .pth, .bin) read without unpickling: structure as plain data, tensors as byte ranges.

    >>> contents = read_torch_file(Path("weights.pt"))  # dicts, lists, numbers, Foreign stand-ins, StoredTensor
    >>> from train.model_files.stream import RangeReader
    >>> [part.tolist() for part in RangeReader().parts([contents["w"].extent(0, 3)])]
    [[0.0, 1.0, 2.0]]

Nothing is imported or called on the file's behalf (pickled.py), no member is decompressed (members.py), and no tensor's bytes are
read before someone asks for a range of them.
"""

from __future__ import annotations

import math
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.foreign.torch_save.members import Member, TorchFileError, read_members, read_small
from train.foreign.torch_save.pickled import MAX_PICKLE_BYTES, Foreign, read_pickle
from train.model_files.dtypes import DType
from train.model_files.stream import Extent


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: which elements of which storage, and where that storage's bytes begin."""

    file: Path
    storage: str  # the member's key: two tensors with the same file and key share memory
    dtype: DType
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int  # elements into the storage
    storage_start: int  # byte of the file at which the storage begins
    storage_numel: int

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def is_contiguous(self) -> bool:
        expected = 1
        for size, step in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size != 1 and step != expected:
                return self.numel == 0
            expected *= size
        return True

    def extent(self, first: int, stop: int) -> Extent:
        """The elements [first, stop) of the flattened tensor.

        Raises:
            TorchFileError: the tensor does not lie in one piece.
        """
        assert 0 <= first <= stop <= self.numel, (first, stop, self.shape)
        if not self.is_contiguous:
            raise TorchFileError(
                f"{self.file}: a tensor {list(self.shape)} lies scattered (strides {list(self.stride)}); save it contiguous"
            )
        return Extent(self.file, self.storage_start + (self.offset + first) * self.dtype.itemsize, stop - first, self.dtype)


def read_torch_file(path: Path, home: Path | None = None) -> Any:
    """What a torch.save file holds, without running or importing anything it names and without reading its tensors.

    Args:
        home: the folder the file must really lie in; a link that leads out of it is refused (default: the file's own folder).
    Raises:
        TorchFileError: missing, damaged, of another format, or made to run code; with what to do.
    """
    check_place(path, home or path.parent)
    with path.open("rb", buffering=0) as file:
        members = read_members(path, file)
        order = read_small(path, file, members, "byteorder", 16) if "byteorder" in members else b"little"
        if order != sys.byteorder.encode():
            raise TorchFileError(f"{path}: written on a {order[:8].decode('ascii', 'replace')}-endian machine; save it again on this kind")
        pickle = read_small(path, file, members, "data.pkl", MAX_PICKLE_BYTES)
    tensors = _Tensors(path, members)
    return read_pickle(path, pickle, tensors.storage, tensors.tensor)


def check_place(path: Path, home: Path) -> None:
    """A regular file that really lies within `home` (or within the repository of a Hugging Face cache's snapshot).

    Raises:
        TorchFileError: missing, not a regular file, or a link out of the folder.
    """
    if home.parent.name == "snapshots":  # models--NAME/snapshots/REVISION: files are links into models--NAME/blobs
        home = home.parent.parent
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise TorchFileError(f"{path}: missing, or a link that leads nowhere; fetch the file again") from None
    if not real.is_relative_to(home.resolve()):
        raise TorchFileError(f"{path}: is a link out of its folder, to {real}; put the file itself there if you trust it")
    if not stat.S_ISREG(real.stat().st_mode):
        raise TorchFileError(f"{path}: not a regular file; fetch the file again")


class _Tensors:
    """Storages and tensors of one file, checked against its members."""

    def __init__(self, path: Path, members: dict[str, Member]):
        self.path, self.members = path, members

    def storage(self, dtype: DType, key: Any, numel: Any) -> tuple[DType, str, int, int]:
        member = self.members.get(f"data/{key}") if isinstance(key, str) and type(numel) is int else None
        if member is None:
            raise TorchFileError(f"{self.path}: the storage {str(key)[:40]!r} it names is missing; fetch the file again")
        if numel * dtype.itemsize != member.size:
            raise TorchFileError(
                f"{self.path}: storage {key} should have {numel} x {dtype.itemsize} bytes, {member.size} are there; fetch the file again"
            )
        return dtype, key, member.start, numel

    def tensor(self, storage: Any, offset: Any, shape: Any, stride: Any) -> StoredTensor:
        dtype, key, start, numel = storage
        sizes = (offset, *shape, *stride)
        if len(shape) != len(stride) or len(shape) > 16 or any(type(n) is not int or n < 0 for n in sizes):
            raise TorchFileError(f"{self.path}: a tensor of storage {key} has no possible shape; fetch the file again")
        tensor = StoredTensor(self.path, key, dtype, tuple(shape), tuple(stride), offset, start, numel)
        last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True)) if tensor.numel else offset - 1
        if last >= numel:
            raise TorchFileError(f"{self.path}: a tensor {list(shape)[:8]} reaches beyond storage {key} of {numel}; fetch the file again")
        return tensor


__all__ = ["Foreign", "StoredTensor", "TorchFileError", "check_place", "read_torch_file"]
