"""The weights a run stands on: where they lie, whether they are those that its adapter was trained on, what its folder says of them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from train.checkpoint.find import ResumeError
from train.checkpoint.layout import MANIFEST
from train.data.chat_format import ChatFormat
from train.evaluation.loaded import require_unchanged
from train.model.adapter_spec import spec_of
from train.model_files.adapter import BASE, CONFIG, AdapterError, Spec, base_of, read, require_alike
from train.model_files.folder import HUB_NAME, ModelError
from train.model_files.header import SafetensorsError
from train.model_files.shapes import ConfigError, Described, described
from train.recipe.vocabulary import Recipe
from train.world.places import resolved
from train.world.ranks import World


@dataclass(frozen=True)
class BaseModel:
    """Where a run's weights come from, and what of their folder goes into its checkpoints."""

    weights: Path  # a model folder, or the checkpoint gone on from
    folder: Path  # its config and tokenizer, on this disk
    chat: ChatFormat | None
    resumed: Path | None = None  # the checkpoint gone on from
    adapter: Path | None = None  # an adapter's folder to begin with: that checkpoint, or adapter.path
    spec: Spec | None = None  # where it stands
    fingerprint: str = ""  # of the weights, once they are loaded


def of(recipe: Recipe, weights: Path, folder: Path, chat: ChatFormat | None, found: Path | None, world: World) -> BaseModel:
    """Everything but the fingerprint.

    Raises:
        AdapterError: on every rank, the adapter to start from does not fit the model, or has changed since it was saved.
    """
    base = BaseModel(weights, folder, chat, found)
    if recipe.adapter is None:
        return base
    start = found or recipe.adapter.path
    model = described(folder / "config.json", own_code="ignored")
    if start and not found:
        _require_whole(start, model, world)
    return dataclasses.replace(base, adapter=start, spec=spec_of(recipe.adapter, model, start))


def _require_whole(adapter: Path, model: Described, world: World) -> None:
    fault = ""
    if world.rank == 0:
        try:
            if (adapter / MANIFEST).is_file():
                require_unchanged(adapter)
            require_alike(read(adapter, model))
        except (ModelError, SafetensorsError, ConfigError) as error:
            fault = str(error)
    if fault := world.broadcast(fault):
        raise AdapterError(f"adapter.path={fault}")


def compared(recipe: Recipe, base: BaseModel, fingerprint: str) -> Iterator[str]:
    """Words on an adapter whose base is not held as it was, or is not known.

    Raises:
        ResumeError, AdapterError: it was trained on other weights than those that were loaded.
    """
    if base.adapter is None:
        return
    was = base_of(base.adapter)
    if was is None and not base.resumed:
        yield f"{base.adapter}: does not say which weights it was trained on; names and shapes of {base.weights} were compared, nothing more"
        return
    was = was or {}
    if was.get("fingerprint") != fingerprint:
        told = (
            f"{base.adapter}: its adapter was trained on weights with fingerprint {was.get('fingerprint')} ({was.get('path')}), those of {base.weights} "
            f"add up to {fingerprint}; set model.path to the base it belongs to"
        )
        if base.resumed:
            raise ResumeError(told)
        raise AdapterError(f"{told}, or, if it is to go on another one, take {BASE} out of a copy of the folder")
    held = was.get("quantize", "none")
    if held != recipe.model.quantize:
        yield f"warning: {base.adapter} was trained on a base with model.quantize={held}; here it is {recipe.model.quantize}"


def adapter_files(recipe: Recipe, base: BaseModel) -> dict[str, str]:
    """What makes a checkpoint an adapter that peft loads, and says on which weights it stands."""
    path = recipe.model.path
    if Path(path).exists() or not HUB_NAME.match(path):
        path = str(resolved(base.weights))
    config = base.spec.config(described(base.folder / "config.json"), path)
    return {CONFIG: json.dumps(config, indent=2) + "\n", BASE: json.dumps(identity(recipe, base), indent=2) + "\n"}


def identity(recipe: Recipe, base: BaseModel) -> dict[str, str]:
    held = {"quantize": recipe.model.quantize} if recipe.model.quantize != "none" else {}
    return {"path": recipe.model.path, "folder": str(base.weights), "fingerprint": base.fingerprint, **held}
