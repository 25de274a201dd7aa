"""The chat format that shards were written in, as their manifest tells it: for prompts, and for the model that is published.

shards → `ChatFormat.of` → ids of a prompt, as in training → files by which transformers makes the same ids of the model's folder
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.shards.reader import Shards

ANSWERS_LOOKED_AT = 1000


@dataclass(frozen=True)
class ChatFormat:
    """jinja: a chat_template; tokenizer_config: what must stand in tokenizer_config.json beside it; end_ids: end an answer."""

    jinja: str
    tokenizer_config: dict[str, Any]
    end_ids: tuple[int, ...]

    @classmethod
    def of(cls, shards: Iterable[Shards]) -> ChatFormat | None:
        """The format of the first chat shards; None where there are none, or they do not name theirs."""
        for one in shards:
            template = one.tokenizer.get("template")
            if one.has_mask and template:
                return cls(template["jinja"], dict(template["tokenizer_config"]), _end_ids(one))
        return None

    def prompt_ids(self, tokenizer: Any, text: str) -> list[int]:
        """What the model is given to answer a question."""
        chat = [{"role": "user", "content": text}]
        return tokenizer.apply_chat_template(chat, chat_template=self.jinja, add_generation_prompt=True, return_dict=False)

    def model_files(self, folder: Path) -> dict[str, str]:
        """Files of a model folder that must change for the format to travel along: name → text."""

        def read(name: str) -> dict[str, Any]:
            return json.loads((folder / name).read_text(encoding="utf-8")) if (folder / name).is_file() else {}

        tokenizer = {k: v for k, v in read("tokenizer_config.json").items() if k != "chat_template"} | self.tokenizer_config
        generation = read("generation_config.json")
        ends = generation.get("eos_token_id")
        ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
        generation["eos_token_id"] = sorted({*ends, *self.end_ids})  # so that generate() stops where answers were taught to
        return {
            "chat_template.jinja": self.jinja,
            "tokenizer_config.json": json.dumps(tokenizer, indent=2, ensure_ascii=False) + "\n",
            "generation_config.json": json.dumps(generation, indent=2) + "\n",
        }


def _end_ids(shards: Shards) -> tuple[int, ...]:
    """The last token trained on of each conversation: by the format an answer's end."""
    found = {int(shards.tokens(i)[np.flatnonzero(shards.mask(i))[-1]]) for i in range(min(len(shards), ANSWERS_LOOKED_AT))}
    return tuple(sorted(found))
