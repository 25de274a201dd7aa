"""Held-out perplexity per source on fixed rows, and answers to fixed prompts, by all ranks together.

The rows depend on the shards and seq_len alone, so that step 0 and every later evaluation see the same tokens at any world size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_tools.shards.reader import Shards
from train.data import packing as batches
from train.data.batch import PackedBatch
from train.data.chat_format import ChatFormat
from train.data.loader import heldout_rows
from train.engine.zero3 import Engine
from train.world.ranks import World


@dataclass(frozen=True)
class Score:
    """Mean token loss (nats) over a source's held-out rows."""

    loss: float
    tokens: int  # supervised

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))


def evaluate(
    engine: Engine, shards: dict[str, Shards], seq_len: int, max_rows: int | None, micro_batch: int, world: World
) -> dict[str, Score]:
    """Each source's score; the same numbers on every rank, which all make the same number of forward passes."""
    scores = {}
    for name, source in shards.items():
        rows = heldout_rows(source, seq_len, max_rows)
        total = torch.zeros((), dtype=torch.float64, device=world.device)
        supervised = 0
        at_once = world.size * micro_batch
        for start in range(0, len(rows), at_once):
            mine = np.arange(start + world.rank * micro_batch, start + (world.rank + 1) * micro_batch)
            packed = batches.pack(rows, np.where(mine < len(rows), mine, batches.PADDING_ROW), [source])
            [batch] = PackedBatch.split(packed)
            loss, _ = engine.losses(batch.to(world.device))
            total += loss.double()
            supervised += batch.supervised
        loss_sum, count = world.sum([float(total), supervised])
        scores[name] = Score(loss_sum / max(count, 1), int(count))
    return scores


def mean_loss(scores: dict[str, Score]) -> float | None:
    """The unweighted mean over sources, by which the best checkpoint is kept."""
    return sum(s.loss for s in scores.values()) / len(scores) if scores else None


def load_tokenizer(folder: Path, chat: ChatFormat | None = None) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **(chat.tokenizer_config if chat else {}))


def complete(engine: Engine, tokenizer: Any, prompt: str, max_new_tokens: int, world: World, chat: ChatFormat | None = None) -> str:
    """The greedy continuation of a prompt, or the answer to it in a chat; ` …` stands where it was cut off.

    Every rank computes it, since ZeRO-3 gathers weights from all of them.
    """
    ids = chat.prompt_ids(tokenizer, prompt) if chat else _text_ids(tokenizer, prompt)
    ends = set(chat.end_ids) if chat else {tokenizer.eos_token_id}
    new: list[int] = []
    for _ in range(max_new_tokens):
        batch = PackedBatch.of_ids(ids + new)
        # rank 0 decides, so that a rounding difference between ranks cannot make them part
        chosen = world.broadcast(int(engine.logits(batch.to(world.device))[-1].argmax()))
        if chosen in ends:
            return tokenizer.decode(new, skip_special_tokens=True)
        new.append(chosen)
    return tokenizer.decode(new, skip_special_tokens=True) + " …"


def _text_ids(tokenizer: Any, text: str) -> list[int]:
    ids = tokenizer(text)["input_ids"]
    if tokenizer.bos_token_id is not None and ids[:1] != [tokenizer.bos_token_id]:
        ids = [tokenizer.bos_token_id, *ids]
    while ids and ids[-1] == tokenizer.eos_token_id:  # some tokenizers close every text
        ids = ids[:-1]
    return ids
