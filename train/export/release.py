"""A model → a folder to publish: an export with licence texts, a generation config and a card that says all of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from train.export import exporter
from train.export.card import Parts
from train.export.exporter import Progress
from train.export.licenses import name_fault
from train.export.plan import Request, identity, prepare
from train.export.source import ExportError
from train.export.stage import RECORD

MADE_BEFORE = "made before, by the same command"


def make(request: Request, progress: Progress) -> str:
    """Make the release, unless it is there already, made of the same; says what was made.

    Raises:
        ExportError and its like: nothing was made. OSError: the same command goes on.
    """
    if request.out.exists():
        require_same(request)
        return MADE_BEFORE
    made = exporter.export(request, progress)
    return f"{made.tensors} tensors of a {made.of}, {made.bytes / 1e9:.2f} GB"


def require_same(request: Request) -> None:
    """Raises ExportError when OUT was made of something else, or is to say something else."""
    try:
        record = json.loads((request.out / RECORD).read_bytes())
        was, asked = record["request"], record["release"]
    except (OSError, ValueError, LookupError, TypeError):
        was = asked = None
    ready = prepare(request)
    ready.close()
    if was != json.loads(json.dumps(identity(request, ready))):
        raise ExportError(f"{request.out}: exists already, and was not made of this; give another folder, or remove it first")
    for key, value in request.release.asked(request.license, request.results).items():
        if asked.get(key) != value:
            raise ExportError(f"{request.out}: was made with {key} {asked.get(key)}, not {value}; give another folder, or remove it first")


def missing(request: Request, called: str) -> list[str]:
    """What must be there before the release may be published under a name, a line each; its folder, as it is now, may hold it."""
    ready = prepare(request)
    ready.close()
    parts = Parts(ready.own, [folder for folder, _ in request.merge], ready.made_of, request.license, request.results, request.release)
    release = replace(request.release, texts=(*request.release.texts, *_texts(request.out)))
    found = release.licensed(parts)
    fault = name_fault(found.id, called)
    return [*found.missing, *([fault] if fault else [])]


def _texts(folder: Path) -> list[Path]:
    """Licence texts that were laid into the folder by hand."""
    return [p for p in sorted(folder.iterdir()) if p.is_file() and p.name.upper().startswith(("LICENSE", "LICENCE", "USE_POLICY"))]
