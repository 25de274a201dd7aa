"""Papers → their vectors on disk, a file for some papers of a kind, each whole or not there: what is there is not computed again.

papers → texts of a kind → `embed`, a model's or an endpoint's → FOLDER/KIND/00012.npy → `read`, one array
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from train.evaluation.embedding.papers import Paper
from train.evaluation.loaded import Loaded
from train.evaluation.texts import EvaluationError, hash_of
from train.world.places import write_durably
from train.world.ranks import World

AT_ONCE = 32  # papers of a file
Embed = Callable[[Sequence[str]], np.ndarray]  # texts → (texts, width) fp32


def embedder(model: Loaded, most: int | None = None) -> Embed:
    """Mean of the last hidden states, as the head gets them, over all tokens but BOS and an end token; of the first `most` tokens."""
    limit = min(filter(None, (most, model.positions)), default=None)

    def embed(texts: Sequence[str]) -> np.ndarray:
        documents = [model.ids(text)[:limit] for text in texts]
        model.require_known(documents)
        tokenizer = model.tokenizer
        skipped = [
            (int(ids[0] == tokenizer.bos_token_id), int(len(ids) > 1 and ids[-1] == tokenizer.eos_token_id)) if len(ids) > 1 else (0, 0)
            for ids in documents
        ]
        return model.means(documents, skipped)

    return embed


def folder_of(journal: Path, facts: dict[str, Any], papers: Sequence[Paper]) -> Path:
    key = hashlib.sha256(json.dumps({**facts, "papers": hash_of(papers)}, sort_keys=True).encode()).hexdigest()[:20]
    return journal / f"embedding-{key}"


def write(papers: Sequence[Paper], kinds: Sequence[str], embed: Embed, folder: Path, world: World, name: str) -> None:
    """Embed what is not there yet; the ranks share the work. Raises EvaluationError for a vector that is not finite."""
    parts = [(kind, start) for kind in kinds for start in range(0, len(papers), AT_ONCE)]
    there = world.broadcast([number for number, (kind, start) in enumerate(parts) if _file(folder, kind, start).is_file()])
    todo = sorted(set(range(len(parts))) - set(there))
    if there:
        world.log0(f"embeddings of {name}: {len(there):,} of {len(parts):,} parts are there from before")
    mine = todo[world.rank :: world.size]
    with world.progress(f"embeddings of {name}", len(mine), "part") as advance:
        for kind, start in (parts[number] for number in mine):
            some = papers[start : start + AT_ONCE]
            vectors = embed([paper.text(kind) or "." for paper in some]).astype(np.float32)
            if len(vectors) != len(some) or not np.isfinite(vectors).all():
                raise EvaluationError(
                    f"{name}: the {kind} embedding of one of papers {some[0].id} … {some[-1].id} is not finite, or missing"
                )
            _file(folder, kind, start).parent.mkdir(parents=True, exist_ok=True)
            buffer = io.BytesIO()
            np.save(buffer, vectors)
            write_durably(_file(folder, kind, start), buffer.getvalue())
            advance(1)
    world.barrier()


def read(folder: Path, kind: str, count: int) -> np.ndarray:
    """(papers, width) fp32, one copy in memory. Raises EvaluationError where a part is missing or damaged."""
    vectors: np.ndarray | None = None
    for start in range(0, count, AT_ONCE):
        path = _file(folder, kind, start)
        try:
            part = np.load(path, allow_pickle=False)
            vectors = np.empty((count, part.shape[1]), np.float32) if vectors is None else vectors
            vectors[start : start + AT_ONCE] = part
        except (OSError, ValueError, EOFError, IndexError) as error:
            raise EvaluationError(f"{path}: not to be read ({error}); delete it, and give the same command again") from None
    assert vectors is not None
    return vectors


def _file(folder: Path, kind: str, start: int) -> Path:
    return folder / kind / f"{start // AT_ONCE:06d}.npy"
