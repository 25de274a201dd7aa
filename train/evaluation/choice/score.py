"""What a model answers to questions: log-likelihoods of letters and of whole answers, and what it writes.

questions → prompts → tokens → packed a few questions at a time, dealt out to the ranks → `Given`, kept in a journal
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from train.evaluation.choice.prompts import Prompts
from train.evaluation.choice.questions import Question
from train.evaluation.journal import Journal, measured
from train.evaluation.loaded import Loaded
from train.evaluation.texts import EvaluationError, hash_of
from train.world.ranks import World

AT_ONCE = 8  # questions that are measured together, and kept or lost together


@dataclass(frozen=True)
class Asked:
    """ways: of letters, answers, generated. orders: in how many orders the options are put, the first as written. seed: of the others."""

    ways: tuple[str, ...] = ("letters", "answers")
    orders: int = 1
    seed: int = 0
    new_tokens: int = 256
    bos: str = "auto"


@dataclass(frozen=True)
class Given:
    """A model's answers to a question; logs are natural.

    letters: for each order the log-likelihood of each of its letters. answers: of each choice as a whole. text: what was written.
    cut: whether a prompt was longer than the model's positions, and lost its beginning.
    """

    letters: tuple[tuple[float, ...], ...] = ()
    answers: tuple[float, ...] = ()
    text: str = ""
    cut: bool = False


def orders_of(question: Question, number: int, asked: Asked) -> list[list[int]]:
    """The orders of a question's options, by seed and number alone."""
    count = len(question.choices)
    shuffled = [np.random.default_rng([asked.seed, number, k]).permutation(count).tolist() for k in range(1, asked.orders)]
    return [list(range(count)), *shuffled]


def score(
    model: Loaded, questions: Sequence[Question], prompts: Prompts, asked: Asked, facts: dict[str, Any], journal: Path, world: World
) -> list[Given]:
    """Of each question, on every rank.

    Raises:
        EvaluationError: letters that this tokenizer does not tell apart by one token.
    """
    groups = [range(start, min(start + AT_ONCE, len(questions))) for start in range(0, len(questions), AT_ONCE)]
    asking = _Asking(model, prompts, asked)

    def measure(group: int) -> list[dict[str, Any]]:
        return [asdict(one) for one in asking.answers([(k, questions[k]) for k in groups[group]])]

    known = {**facts, **asdict(asked), "questions": hash_of(questions), "prompts": hash_of([prompts])}
    found = measured(Journal(journal, "mcq", known, world), len(groups), measure, world, f"questions to {model.name}")
    return [Given(tuple(map(tuple, one["letters"])), tuple(one["answers"]), one["text"], one["cut"]) for values in found for one in values]


def letters_fault(model: Loaded, questions: Sequence[Question], prompts: Prompts, bos: str = "auto") -> str:
    """Why questions cannot be scored by letters with this model's tokenizer; "" where they can. Computes nothing but tokens."""
    asking = _Asking(model, prompts, Asked(bos=bos))
    try:
        for question in questions:
            asking._parted(question)
    except EvaluationError as error:
        return str(error)
    return ""


class _Asking:
    def __init__(self, model: Loaded, prompts: Prompts, asked: Asked):
        self.model, self.prompts, self.asked = model, prompts, asked

    def answers(self, numbered: list[tuple[int, Question]]) -> list[Given]:
        ways, nothing, cut = self.asked.ways, [()] * len(numbered), [False] * len(numbered)
        letters = self._letters(numbered, cut) if "letters" in ways else nothing
        answers = self._whole([question for _, question in numbered], cut) if "answers" in ways else nothing
        texts = self._written([question for _, question in numbered], cut) if "generated" in ways else [""] * len(numbered)
        return [Given(*one) for one in zip(letters, answers, texts, cut, strict=True)]

    def _letters(self, numbered: list[tuple[int, Question]], cut: list[bool]) -> list[tuple[tuple[float, ...], ...]]:
        """Of each question, for each order, the letters' log-likelihoods, each the one token by which its prompt ends."""
        asked = [(at, question.ordered(order)) for at, (k, question) in enumerate(numbered) for order in orders_of(question, k, self.asked)]
        parted = [self._parted(question) for _, question in asked]
        fitting = [self._fitting(prefix, 1, cut, at) for (at, _), (prefix, _) in zip(asked, parted, strict=True)]
        logs = torch.log_softmax(self.model.next_logits(fitting).double(), dim=-1)
        found: list[list[tuple[float, ...]]] = [[] for _ in numbered]
        for (at, _), (_, last), of_prompt in zip(asked, parted, logs, strict=True):
            found[at].append(tuple(of_prompt[last].tolist()))
        return [tuple(one) for one in found]

    def _parted(self, question: Question) -> tuple[list[int], list[int]]:
        """Tokens before the letter, and each letter's own: read off the whole text, since a letter's token depends on what precedes it."""
        prompt, between = self.prompts.letters(question)
        written = [self._ids(f"{prompt}{between}{letter}") for letter in question.letters]
        prefix, last = written[0][:-1], [ids[-1] for ids in written]
        if any(ids[:-1] != prefix for ids in written) or len(set(last)) != len(last):
            raise EvaluationError(
                f"{self.model.name}: after {(prompt + between)[-20:]!r} its tokenizer does not tell the letters {question.letters} apart by "
                "one token each; use --score answers, or another --prompt"
            )
        return prefix, last

    def _whole(self, questions: list[Question], cut: list[bool]) -> list[tuple[float, ...]]:
        """Log-likelihood of each choice after the prompt, cut into tokens as lm-evaluation-harness does: with the prompt, then parted."""
        asked = [(at, choice) for at, question in enumerate(questions) for choice in question.choices]
        prompts = [self.prompts.answers(question) for question in questions]
        starts = [len(self._ids(prompt)) for prompt in prompts]
        written = [self._ids(f"{prompts[at]} {choice}") for at, choice in asked]
        kept = [self._fitting(ids, 0, cut, at) for (at, _), ids in zip(asked, written, strict=True)]
        found: list[list[float]] = [[] for _ in questions]
        for (at, _), ids, fits, loss in zip(asked, written, kept, self.model.losses(kept), strict=True):
            begin = starts[at] - (len(ids) - len(fits))  # of the choice, in what was read
            found[at].append(-float(loss[max(begin - 1, 0) :].double().sum()))
        return [tuple(one) for one in found]

    def _written(self, questions: list[Question], cut: list[bool]) -> list[str]:
        prompts = [self.prompts.generated(question, self.model.tokenizer) for question in questions]
        ids = [self._ids(one) if isinstance(one, str) else one for one in prompts]
        most = min(self.asked.new_tokens, max((self.model.positions or 1 << 30) // 2, 1))
        fitting = [self._fitting(one, most, cut, at) for at, one in enumerate(ids)]
        made = self.model.continuations(fitting, most)
        return [self.model.tokenizer.decode(one, skip_special_tokens=True) for one in made]

    def _ids(self, text: str) -> list[int]:
        """Without the end token that some tokenizers close every text with."""
        ids, end = self.model.ids(text, self.asked.bos), self.model.tokenizer.eos_token_id
        return ids[:-1] if len(ids) > 1 and ids[-1] == end else ids

    def _fitting(self, ids: list[int], room: int, cut: list[bool], at: int) -> list[int]:
        """The last tokens that fit the model's positions beside `room` others."""
        limit = self.model.positions
        if limit is None or len(ids) + room <= limit:
            return ids
        cut[at] = True
        return ids[-max(limit - room, 1) :]
