"""What a rank says of itself and, where it is the first of its node, of the node."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from train.model_files.dtypes import OF_RECIPE
from train.model_files.shapes import described
from train.preflight import installed
from train.preflight.doctor import hardware, software
from train.preflight.doctor.meeting import said
from train.preflight.doctor.report import Asked
from train.preflight.memory_items import Shape
from train.recipe.vocabulary import Recipe
from train.world.ranks import World

LAYER_BYTES = 64 << 20  # measured where no recipe says


def facts(world: World, asked: Asked, names: list[str], leaders: list[int]) -> dict[str, Any]:
    """Raises whatever hardware.py meets: without it there is nothing to compare. What software.py meets is in `faults`."""
    recipe, wrong = software.loaded(asked.recipe, asked.overrides) if asked.recipe else (None, [])
    here = names.count(names[world.rank])
    threads = int(os.environ.get("OMP_NUM_THREADS") or max(1, len(os.sched_getaffinity(0)) // here))
    own_folder = asked.folder or (recipe.runs if recipe else None)
    found: dict[str, Any] = {
        "rank": world.rank, "node": names[world.rank], "host": socket.gethostname(), "leader": world.rank in leaders,
        "device": hardware.of_rank(world.device, threads), "folder": str(own_folder) if own_folder else None, "layer": _layer_bytes(recipe),
    }  # fmt: skip
    if not found["leader"]:
        return found
    on_cuda, faults = world.device.type == "cuda", []

    def tried(part: str, do: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return do()
        except Exception as error:  # a damaged file ends in whatever its library raises; all of it is told
            faults.append(f"{part}: {said(error)}")
            return otherwise

    inputs, more = tried("inputs", lambda: software.inputs(recipe, world.size, on_cuda), ({}, [])) if recipe else ({}, [])
    if recipe and on_cuda:
        more += installed.absent_attention(recipe)
    node = hardware.of_node(own_folder or Path("."), world.device, one_node=len(leaders) == 1)
    addresses = [a for i in node["interfaces"].values() for a in i["addresses"]]
    return found | {
        "versions": tried("versions", software.versions, {}), "code": tried("program", software.code, {}),
        "environment": tried("environment", software.environment, {}), "inputs": inputs, "wrong": wrong + more,
        "hardware": node, "addresses": addresses, "faults": faults,
    }  # fmt: skip


def _layer_bytes(recipe: Recipe | None) -> int | None:
    """Of a decoder layer; None where no model is named or it cannot be read here, which software.inputs says."""
    try:
        shape = Shape.of(described(Path(recipe.model.path) / "config.json", own_code="ignored")) if recipe else None
    except Exception:  # of transformers, too
        return None
    return shape.layer * OF_RECIPE[recipe.model.dtype].itemsize if shape and recipe else None
