"""A measured run → how much slower it was than predicted: `benchmark.py train --json F`.

Its row says ranks, device, places a step, seconds; the same run is predicted by the same arithmetic, and what is between the two holds for
other sizes of the cluster and settings of the recipe, as long as it is the same model on the same kind of GPU.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from train.preflight.planner.calibrated import constants
from train.preflight.planner.clusters import CPU, ClusterError, Gpu, cluster, gpu_named
from train.preflight.planner.forecast import of_some_length
from train.preflight.planner.job import AGAIN, Sizes, of_recipe
from train.preflight.planner.timing import predict
from train.recipe.vocabulary import Recipe


class MeasuredError(ValueError):
    """A result that cannot correct this plan: its file, the value, the remedy."""


def factor(file: Path, recipe: Recipe, sizes: Sizes, gpu: Gpu) -> float:
    """Seconds measured over seconds predicted.

    Raises:
        MeasuredError: not such a result, or one of another model or device.
    """
    report = _read(file)
    try:
        ranks, device, rows = int(report["ranks"]), str(report["device"]), report["rows"]
        rate = float(rows[0]["a rank"])
        found = re.search(r"(\d[\d,]*) micro-batches? of (\d+) rows of (\d+)", str(report["batch"]))
        accumulation, micro_batch, seq_len = (int(x.replace(",", "")) for x in found.groups())
        parameters = int(re.search(r"([\d,]+) parameters", str(report["model"]))[1].replace(",", ""))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        raise MeasuredError(f"--measured {file}: not a result of `benchmark.py train --json`; make one there") from None
    if not rate > 0:
        raise MeasuredError(f"--measured {file}: its rate is {rate}; measure again")
    if parameters != sizes.parameters:
        raise MeasuredError(
            f"--measured {file}: of a model of {parameters:,} parameters, the recipe's has {sizes.parameters:,}; measure that one"
        )
    try:
        there = gpu_named(device)
    except ClusterError:
        raise MeasuredError(f"--measured {file}: measured on {device}, whose peak is not known; measure on a GPU of --gpu-type") from None
    if there.name != gpu.name:
        raise MeasuredError(f"--measured {file}: measured on {device}, the plan is for {gpu.name}; give that --gpu-type")
    engine = str(report.get("engine"))
    again = str(report.get("activation checkpointing", recipe.model.activation_checkpointing))
    job = dataclasses.replace(
        of_recipe(of_some_length(recipe), sizes, ranks, gpu is not CPU), seq_len=seq_len, micro_batch=micro_batch, micro_steps=accumulation,
        again=AGAIN.get(again, AGAIN["none"]), offload="all" if "offload_all" in engine else "optimizer" if "offload" in engine else "none",
    )  # fmt: skip
    return predict(job, cluster(gpu, ranks), constants()).tokens_per_second / rate


def _read(file: Path) -> dict[str, Any]:
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        assert isinstance(report, dict)
    except OSError as error:
        raise MeasuredError(f"--measured {file}: cannot be read ({error.strerror}); give a result of `benchmark.py train --json`") from None
    except (ValueError, AssertionError):
        raise MeasuredError(f"--measured {file}: not a JSON object; give a result of `benchmark.py train --json`") from None
    return report
