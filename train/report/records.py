"""Everything a run's folder tells, whatever state it is in: running, cut short, gone back, finished, half copied.

runs/NAME/{recipe.yaml, metrics.jsonl, answers.jsonl, outcome.json, goodput.json, faults/, heartbeats/, checkpoints/, eval/} → `Run`

What cannot be read is left out and told in `remarks`; a line of metrics.jsonl that is none is counted. Nothing here imports torch.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from train.checkpoint.layout import FORMAT, STATE, STEP
from train.guard import outcome
from train.guard.outcome import Outcome

ALIVE_SECONDS = 60.0  # an older heartbeat is of a dead node
LARGEST = 64 << 20  # bytes of a JSON file that is read whole
METRICS, ANSWERS, RECIPE = "metrics.jsonl", "answers.jsonl", "recipe.yaml"


class ReportError(ValueError):
    """A folder that is no run's."""


@dataclass(frozen=True)
class Evaluated:
    """Held-out mean token losses (nats) by source after a step. errors: their standard errors, where known."""

    step: int
    tokens: int
    losses: dict[str, float]
    errors: dict[str, float] = field(default_factory=dict)
    scored: dict[str, int] = field(default_factory=dict)  # tokens of a source


@dataclass(frozen=True)
class Run:
    """What was found. Lists are in order of steps, one entry a step."""

    folder: Path
    recipe: dict[str, Any]
    steps: list[dict[str, Any]]  # lines with a loss
    evaluated: list[Evaluated]
    rewinds: list[dict[str, Any]]
    answers: dict[str, dict[int, str]]  # prompt → step → answer
    outcome: Outcome | None
    alive: bool  # a rank has given a sign within the last minute
    goodput: dict[str, Any]
    faults: list[dict[str, Any]]
    base: dict[str, Any]
    versions: dict[str, str]
    checkpoints: dict[int, Path]
    verdicts: dict[str, Any]  # file below eval/ → what it holds
    pictures: list[Path]  # below eval/
    summary: dict[str, Any]  # report.json
    remarks: list[str]

    @property
    def name(self) -> str:
        return str(self.recipe.get("name") or self.folder.resolve().name)

    @property
    def total_steps(self) -> int | None:
        """None: the recipe does not tell."""
        steps, tokens, each = (self.recipe.get(key) for key in ("steps", "tokens", "tokens_per_step"))
        if isinstance(steps, int):
            return steps
        return -(-tokens // each) if isinstance(tokens, int) and isinstance(each, int) and each > 0 else None

    def section(self, name: str) -> dict[str, Any]:
        """A section of the recipe; empty where it is none."""
        found = self.recipe.get(name)
        return found if isinstance(found, dict) else {}


def read_run(folder: Path) -> Run:
    """Raises ReportError when it holds neither a recipe nor metrics."""
    if not folder.is_dir():
        what = "a file" if folder.exists() else "no such folder"
        raise ReportError(f"{folder}: {what}; give a run's folder, such as runs/NAME")
    if not any((folder / name).is_file() for name in (METRICS, RECIPE)):
        inside = sorted(p.parent.name for p in folder.glob(f"*/{RECIPE}"))
        near = f"; did you mean {folder / inside[0]}?" if inside else "; give a run's folder, such as runs/NAME"
        raise ReportError(f"{folder}: neither {RECIPE} nor {METRICS} in it{near}")
    remarks: list[str] = []
    lines, bad = _json_lines(folder / METRICS)
    if bad:
        remarks.append(f"{METRICS}: {bad} line{'s' * (bad > 1)} could not be read and {'are' if bad > 1 else 'is'} left out")
    checkpoints = _checkpoints(folder / "checkpoints")
    verdicts, pictures = _verdicts(folder / "eval", remarks)
    return Run(
        folder=folder, recipe=_recipe(folder / RECIPE, remarks), steps=_by_step([x for x in lines if _number(x.get("loss")) is not None or x.get("skipped")]),
        evaluated=_evaluated(lines), rewinds=[x for x in lines if x.get("event") == "rewind"], answers=_answers(folder / ANSWERS),
        outcome=_outcome(folder), alive=_alive(folder / "heartbeats"), goodput=_object(folder / "goodput.json", remarks),
        faults=[x for p in sorted((folder / "faults").glob("*.json")) if (x := _object(p, remarks))], base=_object(folder / "base_model.json", remarks),
        versions=_versions(checkpoints), checkpoints=checkpoints, verdicts=verdicts, pictures=pictures, summary=_object(folder / "report.json", remarks),
        remarks=remarks,
    )  # fmt: skip


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) else None


def _json_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The lines that are objects with a step, and how many others there are; a half-written last one is no fault."""
    found, bad = [], 0
    if not path.is_file():
        return found, bad
    texts = path.read_bytes().decode("utf-8", "replace").split("\n")
    for place, text in enumerate(texts):
        try:
            line = json.loads(text)
            assert isinstance(line, dict) and type(line["step"]) is int and line["step"] >= 0
            found.append(line)
        except (ValueError, LookupError, TypeError, AssertionError, RecursionError):
            bad += bool(text.strip()) and place + 1 < len(texts)
    return found, bad


def _by_step(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of several lines for one step the last: a step that was made again."""
    return [line for _, line in sorted({line["step"]: line for line in lines}.items())]


def _evaluated(lines: list[dict[str, Any]]) -> list[Evaluated]:
    found: dict[int, Evaluated] = {}
    for line in lines:
        values: dict[str, dict[str, float]] = {"loss": {}, "loss_error": {}, "tokens": {}}
        for key, value in line.items():
            parts = key.split("/")
            if len(parts) > 2 and parts[0] == "heldout" and parts[-1] in values and (known := _number(value)) is not None:
                values[parts[-1]]["/".join(parts[1:-1])] = known
        if values["loss"]:
            scored = {name: int(value) for name, value in values["tokens"].items()}
            found[line["step"]] = Evaluated(
                line["step"], int(_number(line.get("tokens")) or 0), values["loss"], values["loss_error"], scored
            )
    return [one for _, one in sorted(found.items())]


def _answers(path: Path) -> dict[str, dict[int, str]]:
    found: dict[str, dict[int, str]] = {}
    for line in _json_lines(path)[0]:
        if isinstance(line.get("prompt"), str) and isinstance(line.get("answer"), str):
            found.setdefault(line["prompt"], {})[line["step"]] = line["answer"]
    return found


def _object(path: Path, remarks: list[str]) -> dict[str, Any]:
    """What a JSON file holds; empty where there is none, or it is no object."""
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:
            return {}
        found = json.loads(path.read_bytes())
        assert isinstance(found, dict)
        return found
    except (OSError, ValueError, AssertionError, RecursionError):
        remarks.append(f"{path.name}: cannot be read")
        return {}


def _recipe(path: Path, remarks: list[str]) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        found = "damaged"
    if not isinstance(found, dict):
        remarks.append(f"{path.name}: {'missing' if found is None else 'cannot be read'}")
        return {}
    return found


def _outcome(folder: Path) -> Outcome | None:
    found = outcome.read(folder)
    sound = found and isinstance(found.ended, str) and isinstance(found.cause, str) and isinstance(found.attempt, int)
    return found if sound else None


def _alive(folder: Path) -> bool:
    now = time.time()
    try:
        return any(now - path.stat().st_mtime < ALIVE_SECONDS for path in folder.glob("*.json"))
    except OSError:  # taken away while it was looked at
        return False


def _checkpoints(root: Path) -> dict[int, Path]:
    found = {int(m[1]): path for path in (root.iterdir() if root.is_dir() else ()) if (m := STEP.match(path.name)) and path.is_dir()}
    return dict(sorted(found.items()))


def _versions(checkpoints: dict[int, Path]) -> dict[str, str]:
    """Of what computed, as the newest checkpoint has them."""
    for folder in reversed(checkpoints.values()):
        state = _object(folder / STATE, [])
        if state.get("format") == FORMAT and isinstance(state.get("versions"), dict):
            return {str(k): str(v) for k, v in state["versions"].items()}
    return {}


def _verdicts(root: Path, remarks: list[str]) -> tuple[dict[str, Any], list[Path]]:
    """Results below eval/, and their pictures; a picture that is there as PNG and as SVG counts once."""
    if not root.is_dir():
        return {}, []
    files = sorted(p for p in root.rglob("*") if p.is_file() and not any(part.startswith(".") for part in p.relative_to(root).parts))
    results = {str(p.relative_to(root)): found for p in files if p.suffix == ".json" and (found := _object(p, remarks))}
    pictures = {p.with_suffix(""): p for p in files if p.suffix == ".png"} | {p.with_suffix(""): p for p in files if p.suffix == ".svg"}
    return results, [pictures[key] for key in sorted(pictures) if pictures[key].stat().st_size <= LARGEST]
