"""A model's answers to the first questions of held-out conversations, greedy and all at once; and whether each ended by itself.

shards: tokens up to the first one that is trained on = the question as the model is given it → generate → text, ended
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_tools.shards.reader import Shards
from train.data.chat_format import ChatFormat


@dataclass(frozen=True)
class Answer:
    """ended: an end token came before the longest answer that was allowed."""

    question: str
    text: str
    ended: bool


def questions(shards: Shards, most: int) -> list[list[int]]:
    """Ids of the first prompts, at most so many, in the shards' order."""
    found = []
    for i in range(min(len(shards), most)):
        tokens, supervised = shards.tokens(i), np.flatnonzero(shards.mask(i))
        if len(supervised):
            found.append(tokens[: supervised[0]].tolist())
    return found


def answers(folder: Path, prompts: Sequence[list[int]], chat: ChatFormat, longest: int) -> list[Answer]:
    """What a model folder answers, in at most `longest` tokens each."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    if not prompts:
        return []
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().to(device)
    width, padding = max(map(len, prompts)), chat.end_ids[0]
    ids = torch.tensor([[padding] * (width - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    ends = sorted(chat.end_ids)
    out = model.generate(
        ids, attention_mask=mask, max_new_tokens=longest, do_sample=False, eos_token_id=ends, pad_token_id=padding, repetition_penalty=1.0
    )
    made = []
    for prompt, row in zip(prompts, out[:, width:].tolist(), strict=True):
        length = next((i for i, token in enumerate(row) if token in ends), None)
        text = tokenizer.decode(row[:length], skip_special_tokens=True).strip()
        made.append(Answer(_plain(tokenizer.decode(prompt, skip_special_tokens=True)), text, length is not None))
    return made


def _plain(prompt: str) -> str:
    """The question without the words that mark who speaks."""
    lines = [line for line in prompt.splitlines() if line.strip() not in ("user", "assistant", "system", "")]
    return " ".join(lines).strip()
