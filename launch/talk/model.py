"""A model folder → a model one can talk to.

folder → checked (what is missing or damaged is named) → model and tokenizer → `Talker.answer(turns)` → pieces of text as they come.
The chat format is the tokenizer's own template, or one that is named; without either the model only goes on with the text.
"""

import threading
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.chat.conversations import ChatError, Turn
from data_tools.chat.template import NAMES, ChatTemplate
from train.model_files.folder import ModelError

_ONE_AT_A_TIME = threading.Lock()  # seeds are global in transformers' generation, and two models on one device only slow each other


@dataclass(frozen=True)
class Sampling:
    max_new_tokens: int | None = None  # None: 512, or half the model's context where that is less
    temperature: float = 0.7  # 0: always the likeliest token
    seed: int | None = None


class Talker:
    """A loaded model. `format`: one line about how a conversation is put to it."""

    def __init__(self, name: str, model: Any, tokenizer: Any, template: ChatTemplate | None, format: str):
        self.name, self.format = name, format
        self._model, self._tokenizer, self._template = model, tokenizer, template
        self._by_transformers = template is None and bool(tokenizer.chat_template)
        self.context = getattr(model.config, "max_position_embeddings", None)

    @classmethod
    def load(cls, folder: Path, template: str | None = None, dtype: str = "auto") -> "Talker":
        """template: one of NAMES, None for the tokenizer's own if it has one. Raises ModelError, ChatError, ShardError."""
        from train.evaluation.loaded import check_folder, load  # torch: seconds, and the page of a busy server needs none

        check_folder(folder)
        model, tokenizer = load(folder, dtype)
        if template is not None:
            return cls(str(folder), model, tokenizer, ChatTemplate.load(template, folder), f"chat template {template}, as asked for")
        if not tokenizer.chat_template:
            named = "|".join(NAMES[:-1])
            line = f"no chat template in {folder}: plain completion, the model goes on with the text (--template {named} sets one)"
            return cls(str(folder), model, tokenizer, None, line)
        try:
            return cls(str(folder), model, tokenizer, ChatTemplate.load("model", folder), "chat template: the tokenizer's own")
        except ChatError as error:  # unfit for training, where masks are proven; to talk, transformers' rendering is enough
            return cls(str(folder), model, tokenizer, None, f"chat template: the tokenizer's own, rendered by transformers ({error})")

    def answer(self, turns: list[Turn], sampling: Sampling, stop: threading.Event | None = None) -> Generator[str, None, str | None]:
        """Pieces of the answer to the last turn, as they are generated; `stop` set, or the iterator closed, ends it early.

        turns: [system], then user and assistant in turn, as `fit` leaves them. Returns "length" when the answer reached its limit
        before the model ended it, else None. Raises ModelError when there is no room for an answer.
        """
        import torch

        ids = self.prompt(turns)
        if not self.has_room(len(ids), sampling):
            raise ModelError(
                f"{len(ids)} tokens of text and {self.longest(sampling)} of answer are more than the model's {self.context}; "
                "shorten the text, or ask for a shorter answer with --max-new-tokens"
            )
        if not ids:
            raise ModelError("nothing to answer: the text is empty")
        closed = threading.Event()  # ours; `stop` is the caller's, who may use it for several answers
        streamer, thread, failures, cut = self._write(ids, sampling, [closed] if stop is None else [closed, stop])
        try:
            begun = False
            for piece in streamer:
                piece = piece if begun else piece.lstrip()
                begun = begun or bool(piece)
                if piece:
                    yield piece
        finally:
            closed.set()
            thread.join()
        if failures and isinstance(failures[0], torch.OutOfMemoryError):
            raise ModelError(f"the device's memory does not hold {len(ids)} tokens and the model; shorten the text, or try --dtype bf16")
        if failures:
            raise failures[0]
        return "length" if cut else None

    def _write(
        self, ids: list[int], sampling: Sampling, stops: list[threading.Event]
    ) -> tuple[Any, threading.Thread, list[BaseException], list[int]]:
        """A thread that generates: what it writes comes out of the first value, what it dies of is in the third.

        The last value holds the last token of an answer that was cut by its length.
        """
        import torch
        from transformers import GenerationConfig, TextIteratorStreamer

        streamer = TextIteratorStreamer(self._tokenizer, skip_prompt=True, skip_special_tokens=True)
        chance = {"do_sample": True, "temperature": sampling.temperature, "top_k": 0} if sampling.temperature > 0 else {"do_sample": False}
        ends = sorted(self.end_ids)
        config = GenerationConfig(
            max_new_tokens=self.longest(sampling), eos_token_id=ends or None, pad_token_id=ends[0] if ends else 0, **chance
        )
        failures: list[BaseException] = []
        cut: list[int] = []

        def is_over(scores: Any, *_: Any, **__: Any) -> Any:
            return torch.full((1,), any(stop.is_set() for stop in stops), device=scores.device)

        def generate() -> None:
            tokens = torch.tensor([ids], device=self._model.device)
            mask = torch.ones_like(tokens)
            try:
                with _ONE_AT_A_TIME:
                    if sampling.seed is not None:
                        torch.manual_seed(sampling.seed)
                    made = self._model.generate(
                        tokens, attention_mask=mask, generation_config=config, streamer=streamer, stopping_criteria=[is_over]
                    )
                last = int(made[0, -1])
                if made.shape[1] - len(ids) >= self.longest(sampling) and last not in ends:
                    cut.append(last)
            except BaseException as error:  # handed to the reader, who would wait for ever
                failures.append(error)
                streamer.end()

        thread = threading.Thread(target=generate, daemon=True)
        thread.start()
        return streamer, thread, failures, cut

    def fit(self, turns: list[Turn], sampling: Sampling) -> list[Turn]:
        """The turns without the oldest exchanges that the model's context does not hold; system prompt and last question stay."""
        head = turns[:1] if turns[0].role == "system" else []
        rest = turns[len(head) :]
        while len(rest) > 2 and not self.has_room(len(self.prompt([*head, *rest])), sampling):
            rest = rest[2:]
        return [*head, *rest]

    def longest(self, sampling: Sampling) -> int:
        """Tokens an answer may have."""
        return sampling.max_new_tokens or min(512, (self.context or 1024) // 2)

    def has_room(self, tokens: int, sampling: Sampling) -> bool:
        return self.context is None or tokens + self.longest(sampling) <= self.context

    def prompt(self, turns: list[Turn]) -> list[int]:
        """Ids that the model is given to answer the last turn, a user's."""
        if self._template is not None:
            return self._template.prompt(turns)
        if self._by_transformers:
            messages = [{"role": turn.role, "content": turn.text} for turn in turns]
            return list(self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))
        return self._tokenizer("\n\n".join(turn.text for turn in turns)).input_ids

    @property
    def end_ids(self) -> set[int]:
        """Tokens that end an answer: the template's, the model's, the tokenizer's."""
        from train.evaluation.loaded import end_ids

        return end_ids(self._model, self._tokenizer) | (self._template.end_ids if self._template else set())
