"""Answers → which are right, by each way of asking; shares with intervals; how two models differ on the same questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from train.evaluation import intervals
from train.evaluation.choice.prompts import letter_in
from train.evaluation.choice.questions import Question
from train.evaluation.choice.score import Asked, Given, orders_of

# name of a figure → the way of asking that it needs
FIGURES = {"letters": "letters", "answers": "answers", "answers_norm": "answers", "generated": "generated"}


def chosen(figure: str, question: Question, given: Given) -> int | None:
    """Index of the choice; None where what was written names none. answers_norm: likelihood a character of the choice, as lm-eval's acc_norm."""
    if figure == "letters":
        return int(np.argmax(given.letters[0]))
    if figure == "generated":
        return letter_in(given.text, question)
    weights = [max(len(choice), 1) for choice in question.choices] if figure == "answers_norm" else [1] * len(question.choices)
    return int(np.argmax([log / weight for log, weight in zip(given.answers, weights, strict=True)]))


def asked_for(figure: str, given: Given) -> bool:
    """Whether a question was put in the way that a figure needs."""
    return bool({"letters": given.letters, "answers": given.answers, "generated": True}[FIGURES[figure]])


@dataclass(frozen=True)
class Share:
    """Of the answered questions those that are right. unparsable: of the written answers, which count as wrong."""

    right: tuple[bool, ...]
    interval: intervals.Interval
    letters: dict[str, int]  # how often each letter was chosen
    unparsable: int

    @property
    def accuracy(self) -> float:
        return sum(self.right) / len(self.right)

    def to_json(self) -> dict[str, Any]:
        return {
            "accuracy": self.accuracy, "interval": self.interval.to_json(), "questions": len(self.right), "right": sum(self.right),
            "chosen": self.letters, "unparsable": self.unparsable, "unparsable_share": self.unparsable / len(self.right),
        }  # fmt: skip


def share(figure: str, questions: Sequence[Question], given: Sequence[Given]) -> Share | None:
    """None where no question has an answer to compare with, or this was not asked for."""
    if not all(asked_for(figure, one) for one in given):
        return None
    known = [(q, chosen(figure, q, g)) for q, g in zip(questions, given, strict=True) if q.answer is not None]
    if not known:
        return None
    right = tuple(picked == q.answer for q, picked in known)
    letters: dict[str, int] = {}
    for q, picked in known:
        if picked is not None:
            letters[q.letters[picked]] = letters.get(q.letters[picked], 0) + 1
    units = clusters([q for q, _ in known])
    interval = (
        intervals.wilson(sum(right), len(right))
        if units is None
        else intervals.of_ratio(np.array(right, np.float64), np.ones(len(right)), units)
    )
    return Share(right, interval, dict(sorted(letters.items())), sum(picked is None for _, picked in known))


def clusters(questions: Sequence[Question]) -> list[str] | None:
    """What questions were made from, where that was told: those of one article are not independent of each other."""
    return [q.cluster for q in questions] if any(q.cluster for q in questions) else None


def by_order(questions: Sequence[Question], given: Sequence[Given], asked: Asked) -> dict[str, Any]:
    """Accuracy by letters in each order of the options, and how many questions keep their answer in all of them."""
    right = np.zeros(asked.orders)
    kept = known = 0
    for number, (question, one) in enumerate(zip(questions, given, strict=True)):
        orders = orders_of(question, number, asked)
        picked = [order[int(np.argmax(logs))] for order, logs in zip(orders, one.letters, strict=True)]
        kept += len(set(picked)) == 1
        if question.answer is not None:
            known += 1
            right += [choice == question.answer for choice in picked]
    return {"accuracy": (right / known).tolist() if known else None, "same_in_all_orders": kept / len(questions), "seed": asked.seed}


def difference(questions: Sequence[Question], first: Share, second: Share) -> dict[str, Any]:
    """second - first on the same questions: McNemar's exact test, or a permutation test over articles where they are told."""
    a, b = np.array(first.right, np.float64), np.array(second.right, np.float64)
    units = clusters([q for q in questions if q.answer is not None])
    alone = [int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())]
    return {
        "difference": float((b - a).mean()), "interval": intervals.of_ratio(b - a, np.ones(len(a)), units).to_json(),
        "only_first_right": alone[0], "only_second_right": alone[1],
        "p": intervals.p_of_mcnemar(*alone) if units is None else intervals.p_of_sign_flips(b - a, units),
        "test": "McNemar, exact" if units is None else "permutation over clusters",
    }  # fmt: skip
