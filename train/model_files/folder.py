"""A Hugging Face model folder: which tensors lie in which file, and how the files of a new one are planned. Without torch."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from train.model_files.header import Entry, read_header

INDEX = "model.safetensors.index.json"
MANIFEST = "manifest.json"  # of a checkpoint: size and hash of each of its files
# buffers that old LLaMA files carry and no model wants; anything else left over is a fault
HARMLESS = re.compile(r"rotary_emb\.inv_freq$")
# `models/…` and the like are folders of a user's own; nobody on the Hub is called so
HUB_NAME = re.compile(r"(?!(?:models|runs|checkpoints)/)[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")


class WeightsError(ValueError):
    """Files and model do not match; says which tensor, where, and what to do."""


def read_folder(folder: Path) -> dict[str, Entry]:
    """Every tensor of a model folder, by name.

    Raises:
        WeightsError, SafetensorsError: no safetensors, files missing, a tensor twice or in another file than the index says.
    """
    index = folder / INDEX
    if index.is_file():
        try:
            weight_map = json.loads(index.read_text())["weight_map"]
        except (ValueError, KeyError, TypeError):
            raise WeightsError(f"{index}: not an index with a weight_map; fetch the file again") from None
        files = sorted(set(weight_map.values()))
        if any("/" in name or name.startswith(".") for name in files):
            raise WeightsError(f"{index}: names files outside its folder ({files[0]}); fetch it from a source you trust")
    else:
        weight_map, files = None, sorted(p.name for p in folder.glob("*.safetensors"))
    if not files:
        other = sorted(p.name for p in folder.glob("*.bin"))[:1] + sorted(p.name for p in folder.glob("*.pth"))[:1]
        door, keep = ("meta_to_hf", "keep") if other and other[0].startswith("consolidated.") else ("export_hf", "fp32")
        remedy = f"make a safetensors folder of it once, without running anything: python launch/{door}.py {folder} OUT --dtype {keep}"
        why = f"only {other[0]}, which can run foreign code when read; {remedy}" if other else f"no *.safetensors files{meant(folder)}"
        raise WeightsError(f"{folder}: {why}")
    entries: dict[str, Entry] = {}
    for name in files:
        if not (folder / name).is_file():
            raise WeightsError(f"{folder / name}: missing, the index names it; fetch it again")
        for tensor, entry in read_header(folder / name).items():
            if tensor in entries:
                raise WeightsError(f"{folder / name}: tensor {tensor} is in {entries[tensor].file.name} too; which one is right?")
            entries[tensor] = entry
    if weight_map is not None:
        for tensor, name in weight_map.items():
            if tensor not in entries or entries[tensor].file.name != name:
                raise WeightsError(f"{folder / name}: tensor {tensor} is missing, the index says it is there; fetch the file again")
    return entries


def meant(folder: Path) -> str:
    """Which model folder may be meant by a folder that is none, as the end of a message: a run's newest step, or what lies in it."""
    patterns = (
        "step_*/config.json",
        "checkpoints/step_*/config.json",
        "*/checkpoints/step_*/config.json",
        "*/config.json",
        "*/adapter_config.json",
    )
    inside = next((found for pattern in patterns if (found := sorted(folder.glob(pattern)))), [])
    return f"; did you mean {inside[-1].parent}?" if inside else "; a model folder has config.json, tokenizer files and *.safetensors"


@dataclass(frozen=True)
class WeightFile:
    name: str
    owner: int  # rank that writes it
    tensors: tuple[str, ...]


def plan_files(numels: dict[str, int], bytes_per_element: int, size: int, max_bytes: int = 5 << 30) -> list[WeightFile]:
    """Which tensor goes into which file: in model order, at most max_bytes a file, enough files for every rank to write one."""
    total = sum(numels.values()) * bytes_per_element
    limit = min(max_bytes, max(-(-total // size), 64 << 20))
    groups: list[list[str]] = [[]]
    held = 0
    for name, numel in numels.items():
        nbytes = numel * bytes_per_element
        if groups[-1] and held + nbytes > limit:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += nbytes
    n = len(groups)
    return [WeightFile(f"model-{i + 1:05d}-of-{n:05d}.safetensors", i % size, tuple(g)) for i, g in enumerate(groups)]


def index_text(files: dict[str, tuple[str, ...]], nbytes: int) -> str:
    """model.safetensors.index.json of files and the tensors in each; nbytes: of all tensors."""
    content = {"metadata": {"total_size": nbytes}, "weight_map": {n: name for name, tensors in files.items() for n in tensors}}
    return json.dumps(content, indent=2) + "\n"


class ModelError(ValueError):
    """The model folder or its config is not one this trainer computes exactly."""
