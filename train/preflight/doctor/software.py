"""What a node would run: versions, the program's own code, chosen environment, the files a recipe names."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

import train
from data_tools.shards.fingerprint import tokenizer_fingerprints
from data_tools.shards.reader import Shards
from train.engine.deepspeed_json import merged_config
from train.model_files.folder import meant, read_folder
from train.model_files.shapes import described
from train.recipe.load import load
from train.recipe.vocabulary import Recipe
from train.world.environment import chosen

PACKAGES = ("deepspeed", "transformers", "tokenizers", "safetensors", "numpy", "pyarrow", "datasets", "flash-attn", "liger-kernel")
OURS = ("train", "data_tools", "ds_configs")


def versions() -> dict[str, str]:
    """Name → version, "not installed" where there is none."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    if torch.version.cuda:
        found["CUDA of torch"] = torch.version.cuda
        found["NCCL"] = ".".join(map(str, torch.cuda.nccl.version()))
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def code() -> dict[str, str]:
    """The hash of the program's own files, and the commit where they lie in a checkout."""
    root = Path(train.__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for package in OURS:
        for path in sorted((root / package).rglob("*")):
            if path.suffix in (".py", ".json") and path.is_file():
                digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return {"program": digest.hexdigest()[:12], **_commit(root)}


def _commit(root: Path) -> dict[str, str]:
    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != root:
            return {}  # installed below someone else's checkout
        return {"commit": git("rev-parse", "--short", "HEAD") + (" with changes" if git("status", "--porcelain", "-uno") else "")}
    except (OSError, subprocess.SubprocessError):
        return {}  # no git, or another user's checkout: the hash tells


def environment() -> dict[str, str]:
    return chosen(os.environ)


def inputs(recipe: Recipe, ranks: int, on_cuda: bool) -> tuple[dict[str, str], list[str]]:
    """What a recipe names, as this node sees it: name → hash, and what is wrong here, each in one message."""
    found, wrong = {"recipe": _hash(json.dumps(recipe.to_dict(), sort_keys=True, default=str))}, []
    tokenizer = None
    try:
        found["engine settings"] = _hash(json.dumps(merged_config(recipe, ranks, on_cuda), sort_keys=True))
        folder = Path(recipe.model.path)
        if not folder.is_dir():
            wrong.append(f"model.path={folder}: no such folder here")
        elif not (folder / "config.json").exists():
            wrong.append(f"model.path={folder}: no config.json here{meant(folder)}")
        else:
            described(folder / "config.json", own_code="ignored")
            found["model config"] = _hash((folder / "config.json").read_bytes())
            found["weights"] = _hash(json.dumps(sorted((p.name, p.stat().st_size) for p in folder.glob("*.safetensors"))))
            read_folder(folder)
            tokenizer = tokenizer_fingerprints(folder)
            found["tokenizer"] = tokenizer[0][:12]
    except (ValueError, OSError) as error:
        wrong.append(str(error))
    for section, sources in (("data", recipe.data.sources), ("heldout", recipe.heldout.sources)):
        for name, source in sources.items():
            place = f"{section}.sources.{name}.path={source.path}"
            try:
                shards = Shards.open(source.path, verify="size")
                found[f"shards {section} {name}"] = shards.fingerprint[:12]
                if tokenizer:
                    shards.require_tokenizer(tokenizer, place)
            except (ValueError, OSError) as error:
                wrong.append(f"{error}" if str(source.path) in str(error) else f"{place}: {error}")
    return found, wrong


def loaded(path: str, overrides: list[str]) -> tuple[Recipe | None, list[str]]:
    """The recipe, or why this node cannot read it."""
    try:
        return load(path, overrides), []
    except ValueError as error:
        return None, [str(error)]


def _hash(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:12]
