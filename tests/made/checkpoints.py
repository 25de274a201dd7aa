"""Checkpoints, model folders and DeepSpeed folders made by hand, with safetensors' and torch's own writers: what an export is tested on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.made import tiny
from tests.made.ranks import run_ranks
from tests.train.run.test_loop import checkpoint_of, one_run

RECIPE = {
    "model": {"path": "base", "dtype": "bf16"},
    "tokens_per_step": 256,
    "data": {"seq_len": 64, "sources": {"a": {"weight": None}}},
    "optim": {"lr": 1e-3, "betas": [0.9, 0.95], "weight_decay": 0.1, "clip": 1.0},
    "schedule": {"kind": "cosine"},
}


_real: dict[str, Path] = {}


def real_checkpoints(make_folder: Callable[[str], Path]) -> dict[str, Path]:
    """The last checkpoint of a real fp32 and a real bf16 run of two steps on two ranks; made once a session."""
    if not _real:
        folder = tiny.ground(make_folder("runs"))
        tiny.write_recipe(folder, steps=2, schedule={"warmup_steps": 0})
        run_ranks(_both, 2, folder / "recipe.yaml")
        _real.update({dtype: checkpoint_of(folder, 2, dtype) for dtype in ("fp32", "bf16")})
    return _real


def _both(world, recipe: Path) -> None:
    for dtype in ("fp32", "bf16"):
        one_run(world, recipe, [f"name={dtype}", f"model.dtype={dtype}"])


def masters_of(seed: int, **changes) -> dict[str, torch.Tensor]:
    model = tiny.tiny_model(seed, **changes)
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def model_folder(folder: Path, seed: int = 0, dtype: torch.dtype = torch.float32, files: int = 1, **changes) -> Path:
    """A Hugging Face folder whose weights lie in some files."""
    tiny.save_tiny(folder, seed, **changes)
    tensors = {n: t.to(dtype) for n, t in masters_of(seed, **changes).items()}
    (folder / "model.safetensors").unlink()
    save_in_files(folder, tensors, files)
    return folder


def save_in_files(folder: Path, tensors: dict[str, torch.Tensor], files: int) -> None:
    names, weight_map = list(tensors), {}
    each = -(-len(names) // files)
    for i in range(files):
        part = names[i * each : (i + 1) * each]
        file = f"model-{i + 1:05d}-of-{files:05d}.safetensors"
        save_file({n: tensors[n].contiguous() for n in part}, folder / file, metadata={"format": "pt"})
        weight_map |= {n: file for n in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def checkpoint(
    root: Path, step: int, seed: int, dtype: torch.dtype = torch.bfloat16, ranks: int = 2, files: int = 2, probe: dict | None = None
) -> Path:
    """A checkpoint in our format, written by safetensors itself: weights, masters and moments of `ranks`, state, manifest."""
    folder = model_folder(root / f"step_{step:06d}", seed, dtype, files)
    (folder / "trainer").mkdir()
    masters = masters_of(seed)
    for rank in range(ranks):
        slices = {}
        for name, value in masters.items():
            each = -(-value.numel() // ranks)
            mine = value.reshape(-1)[rank * each : (rank + 1) * each].clone()
            slices |= {f"master/{name}": mine, f"exp_avg/{name}": torch.zeros_like(mine), f"exp_avg_sq/{name}": torch.ones_like(mine)}
        save_file(slices, folder / "trainer" / f"rank_{rank:05d}_of_{ranks:05d}.safetensors")
    index = {"format": 1, "world_size": ranks, "adam_step": step, "parameters": {n: p.numel() for n, p in masters.items()}}
    (folder / "trainer" / "index.json").write_text(json.dumps(index))
    if probe:
        save_file(probe, folder / "trainer" / "probe.safetensors")
    recipe = RECIPE | {"model": {"path": "base", "dtype": {torch.bfloat16: "bf16", torch.float32: "fp32"}[dtype]}}
    state = {"format": 1, "step": step, "tokens": step * 256, "recipe": recipe, "versions": {"torch": "2"}, "heldout_loss": 1.5}
    (folder / "state.json").write_text(json.dumps(state))
    write_manifest(folder, step)
    return folder


def write_manifest(folder: Path, step: int) -> None:
    (folder / "manifest.json").unlink(missing_ok=True)
    files = {
        str(p.relative_to(folder)): {"bytes": p.stat().st_size, "sha256": hashlib.sha256(p.read_bytes()).hexdigest()}
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }
    content = {"format": 1, "step": step, "files": dict(sorted(files.items()))}
    own = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(content | {"manifest_sha256": own}, indent=1) + "\n")


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder, by safetensors."""
    return {n: t for file in sorted(folder.glob("*.safetensors")) for n, t in load_file(file).items()}


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def copy_of(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to
