"""Greedy continuations of a prompt, or answers to it in a chat, by all ranks together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.data.batch import PackedBatch
from train.data.chat_format import ChatFormat
from train.engine.zero3 import Engine
from train.world.ranks import World


class Cut(Exception):
    """An evaluation that is not to go on; what it has found so far is of no use."""


@dataclass(frozen=True)
class Prompts:
    """Prompts that are put to the model at each evaluation, in a chat's very format where `chat` says one."""

    texts: tuple[str, ...]
    max_new_tokens: int
    tokenizer: Any
    chat: ChatFormat | None = None

    def answers(self, engine: Engine, world: World, cut: Callable[[], bool] = lambda: False) -> dict[str, str]:
        return {text: self.complete(engine, text, world, cut) for text in self.texts}

    def complete(self, engine: Engine, prompt: str, world: World, cut: Callable[[], bool] = lambda: False) -> str:
        """The greedy continuation of a prompt, or the answer to it in a chat; ` …` stands where it was cut off.

        Every rank computes it, since ZeRO-3 gathers weights from all of them.

        Args:
            cut: asked before each token, by all ranks, with one answer for all.
        Raises:
            Cut: `cut` has answered yes.
        """
        tokenizer, chat = self.tokenizer, self.chat
        ids = chat.prompt_ids(tokenizer, prompt) if chat else _text_ids(tokenizer, prompt)
        ends = set(chat.end_ids) if chat else {tokenizer.eos_token_id}
        new: list[int] = []
        for _ in range(self.max_new_tokens):
            if cut():
                raise Cut
            batch = PackedBatch.of_ids(ids + new)
            # rank 0 decides, so that a rounding difference between ranks cannot make them part
            chosen = world.broadcast(int(engine.logits(batch.to(world.device))[-1].argmax()))
            if chosen in ends:
                return tokenizer.decode(new, skip_special_tokens=True)
            new.append(chosen)
        return tokenizer.decode(new, skip_special_tokens=True) + " …"


def load_tokenizer(folder: Path, chat: ChatFormat | None = None) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **(chat.tokenizer_config if chat else {}))


def _text_ids(tokenizer: Any, text: str) -> list[int]:
    ids = tokenizer(text)["input_ids"]
    if tokenizer.bos_token_id is not None and ids[:1] != [tokenizer.bos_token_id]:
        ids = [tokenizer.bos_token_id, *ids]
    while ids and ids[-1] == tokenizer.eos_token_id:  # some tokenizers close every text
        ids = ids[:-1]
    return ids
