"""DeepSpeed's universal checkpoints: zero/NAME/fp32.pt holds one parameter's whole fp32 master, beside the run's model states."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path

from train.foreign.deepspeed.masters import DsFolderError, Shapes
from train.foreign.torch_save.file import StoredTensor, read_torch_file
from train.model_files.stream import Extent


def universal_masters(place: Path, shapes: list[Shapes] | None, others: Collection[str]) -> dict[str, list[Extent]]:
    """Each trained parameter's master.

    Args:
        shapes: trained parameters per group. others: names that may be there too, e.g. frozen ones.
    Raises:
        DsFolderError, TorchFileError: a parameter's file missing, damaged, of another shape, or of a parameter the run has not.
    """
    wanted = {name: shape for group in shapes or [] for name, shape in group.items()}
    there = {p.name for p in (place / "zero").iterdir() if p.is_dir()}
    if strange := sorted(there - set(wanted) - set(others)):
        raise DsFolderError(f"{place / 'zero' / strange[0]}: the model states know no such parameter; two runs are mixed")
    found = {}
    for name, shape in wanted.items():
        if name not in there:
            raise DsFolderError(f"{place / 'zero' / name}: missing, the model states name it; copy it or run ds_to_universal again")
        path = place / "zero" / name / "fp32.pt"
        contents = read_torch_file(path, place)
        tensor = contents.get("param") if isinstance(contents, dict) else contents  # stage 3 saves the bare, flat tensor
        if not isinstance(tensor, StoredTensor) or tensor.numel != math.prod(shape) or tensor.shape not in (shape, (tensor.numel,)):
            have = list(tensor.shape) if isinstance(tensor, StoredTensor) else "no tensor"
            raise DsFolderError(f"{path}: holds {have}, the model states want {list(shape)}; two runs are mixed, or tensor-parallel parts")
        found[name] = [tensor.extent(0, tensor.numel)]
    return found
