"""How likely a model finds raw texts, each as if it stood alone, at any number of processes and packed in any way.

texts → tokens by the model's own tokenizer → windows → batches, dealt out to the ranks → nats of each window, kept in a journal → of each text
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from train.evaluation.journal import Journal, measured
from train.evaluation.loaded import Loaded
from train.evaluation.perplexity.windows import batches, cut
from train.evaluation.texts import EvaluationError, Text, hash_of
from train.world.ranks import World


@dataclass(frozen=True)
class Asked:
    """What decides about a score, beside model and texts."""

    window: int | None = None  # tokens read at once; None: the model's positions
    overlap: int | None = None  # tokens of a long text read again; None: half a window
    bos: str = "auto"


@dataclass(frozen=True)
class Scored:
    """A text's loss: nats summed over its `tokens` scored tokens. unscored_bytes: of its first token, where nothing stands before it."""

    nats: float
    tokens: int
    bytes: int
    unscored_bytes: int


def score(model: Loaded, texts: Sequence[Text], asked: Asked, facts: dict[str, Any], journal_folder: Path, world: World) -> list[Scored]:
    """Of each text, on every rank.

    Args:
        facts: what else decides about the numbers: hash of the model, dtype, device.
    Raises:
        EvaluationError: a loss that is not a number, or parts that other processes wrote elsewhere.
    """
    window = longest_window(model, asked)
    ids = [model.ids(text.text, asked.bos) for text in texts]
    model.require_known(ids)
    windows = cut([len(one) for one in ids], window, asked.overlap)
    together = batches(windows, model.row_tokens)

    def measure(number: int) -> list[float]:
        read = [windows[k] for k in together[number]]
        losses = model.losses([ids[w.document][w.start : w.stop] for w in read])
        nats = [float(loss[w.first - w.start - 1 :].double().sum()) for loss, w in zip(losses, read, strict=True)]
        for one, w in zip(nats, read, strict=True):
            if not math.isfinite(one):
                raise EvaluationError(
                    f"{model.name}: the loss of document {texts[w.document].id} is {one}: damaged weights, or too large for "
                    f"{model.model.dtype}; try --dtype fp32, or export the model again"
                )
        return nats

    journal = Journal(
        journal_folder,
        "perplexity",
        {**facts, **asdict(asked), "window": window, "packed": model.packed, "row_tokens": model.row_tokens, "texts": hash_of(texts)},
        world,
    )
    found = measured(journal, len(together), measure, world, f"perplexity of {model.name}")
    parts: list[list[float]] = [[] for _ in texts]
    for numbers, values in zip(together, found, strict=True):
        for k, nats in zip(numbers, values, strict=True):
            parts[windows[k].document].append(nats)
    return [
        Scored(math.fsum(part), max(len(one) - 1, 0), len(text.text.encode()), _bytes_before(model, one))
        for part, one, text in zip(parts, ids, texts, strict=True)
    ]


def longest_window(model: Loaded, asked: Asked) -> int | None:
    """Tokens read at once. Raises EvaluationError where more are asked for than the model has positions."""
    if asked.window is None:
        return model.positions
    if model.positions is not None and asked.window > model.positions:
        raise EvaluationError(f"--window {asked.window}: {model.name} has {model.positions} positions; give no more than that")
    return asked.window


def _bytes_before(model: Loaded, ids: Sequence[int]) -> int:
    """Bytes of the text in its first token, which is scored only where another one, such as BOS, stands before it."""
    if not ids or ids[0] in model.tokenizer.all_special_ids:
        return 0
    return len(model.tokenizer.decode(ids[:1]).encode())
