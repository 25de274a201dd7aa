"""A Hugging Face folder whose weights are torch.save files (pytorch_model*.bin): which tensors lie in which, as byte ranges."""

from __future__ import annotations

import json
from pathlib import Path

from train.foreign.torch_save.file import StoredTensor, TorchFileError, read_torch_file

SINGLE, INDEX, PARTS = "pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin"


def weight_files(folder: Path) -> list[Path]:
    """The files of a model's weights, none where it has none: what else ends in .bin (training_args, schedulers) is no weight.

    Raises:
        TorchFileError: the index cannot be read, names files outside its folder, or files that are missing.
    """
    index = folder / INDEX
    if not index.is_file():
        return [folder / SINGLE] if (folder / SINGLE).is_file() else sorted(folder.glob(PARTS))
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise TorchFileError(f"{index}: not an index with a weight_map; fetch the file again") from None
    for name in names:
        if not isinstance(name, str) or "/" in name or name.startswith("."):
            raise TorchFileError(f"{index}: names files outside its folder ({str(name)[:40]}); fetch it from a source you trust")
        if not (folder / name).is_file():
            raise TorchFileError(f"{folder / name}: missing, the index names it; fetch it again")
    return [folder / name for name in names]


def tensors_in(files: list[Path]) -> dict[str, StoredTensor]:
    """Every tensor by name.

    Raises:
        TorchFileError: a file holds anything but tensors by their names, or two hold the same.
    """
    found: dict[str, StoredTensor] = {}
    for file in files:
        contents = read_torch_file(file)
        if not isinstance(contents, dict) or not all(isinstance(k, str) and isinstance(v, StoredTensor) for k, v in contents.items()):
            raise TorchFileError(f"{file}: holds more than tensors by their names; save the model's state_dict() alone")
        for name, tensor in contents.items():
            if name in found:
                raise TorchFileError(f"{file}: tensor {name} is in {found[name].file.name} too; which one is right?")
            found[name] = tensor
    return found
