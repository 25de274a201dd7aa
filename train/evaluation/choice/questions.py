"""Multiple-choice questions as the field writes them → one shape.

{"question", "choices": […], "answer": 2}                      MMLU on the Hub; the answer an index, a letter, or the choice itself
{"question", "A", "B", "C", "D", "answer": "C"}                options in fields; AstroMLab-1's without an answer, which is withheld
{"question", "choices": {"text": […], "label": […]}, "answerKey": "B"}     ARC
{"input" or "question", "options": […] or {"A": …}, "target"}              the same under other names
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
QUESTION, CHOICES = ("question", "input"), ("choices", "options")
ANSWER = ("answer", "answerKey", "answer_index", "target", "correct_answer", "label")


@dataclass(frozen=True)
class Question:
    """answer: index of the right choice; None where it is withheld. cluster: what it was made from, for intervals."""

    id: str
    text: str
    choices: tuple[str, ...]
    answer: int | None
    subject: str = ""
    cluster: str = ""
    groups: tuple[tuple[str, str], ...] = ()

    @property
    def letters(self) -> str:
        return LETTERS[: len(self.choices)]

    def ordered(self, order: Sequence[int]) -> Question:
        """With its choices in another order: order[k] is where choice k of the new one stood."""
        answer = None if self.answer is None else list(order).index(self.answer)
        return Question(self.id, self.text, tuple(self.choices[k] for k in order), answer, self.subject, self.cluster, self.groups)


def question_of(record: dict[str, Any] | str, number: int, cluster: str | None = None, by: Sequence[str] = ()) -> Question | str:
    """A question, or the reason why a record is none."""
    if isinstance(record, str):
        return record
    text = next((record[name] for name in QUESTION if isinstance(record.get(name), str)), "")
    if not text.strip():
        return "no question"
    labels, choices = _choices(record)
    if len(choices) < 2:
        return "fewer than two choices"
    if len(choices) > len(LETTERS):
        return f"more than {len(LETTERS)} choices"
    if any(not isinstance(choice, str | int | float) or not str(choice).strip() for choice in choices):
        return "an empty choice, or one that is no text"
    texts = tuple(str(choice) for choice in choices)
    try:
        answer = _answer(record, labels, texts)
    except ValueError as error:
        return str(error)
    subject = record.get("subject")
    groups = tuple((name, str(record[name])) for name in by if record.get(name) not in (None, ""))
    return Question(
        str(number if record.get("id") in (None, "") else record["id"]), text, texts, answer, subject if isinstance(subject, str) else "",
        str(record.get(cluster) or number) if cluster else "", groups,
    )  # fmt: skip


def _choices(record: dict[str, Any]) -> tuple[list[str], list[Any]]:
    """(labels, choices)."""
    for name in CHOICES:
        found = record.get(name)
        if isinstance(found, dict) and isinstance(found.get("text"), list):
            texts = found["text"]
            labels = found.get("label") if isinstance(found.get("label"), list) else list(LETTERS)
            return [str(label) for label in labels[: len(texts)]], texts
        if isinstance(found, dict):
            return [str(label) for label in found], list(found.values())
        if isinstance(found, list):
            return list(LETTERS[: len(found)]), found
    there = [letter for letter in LETTERS if record.get(letter) not in (None, "")]
    whole = there == list(LETTERS[: len(there)])
    return (there, [record[letter] for letter in there]) if whole else ([], [])


def _answer(record: dict[str, Any], labels: list[str], choices: tuple[str, ...]) -> int | None:
    """Index of the right choice; None where none is told. Raises ValueError where it is none of them."""
    given = next((record[name] for name in ANSWER if record.get(name) not in (None, "")), None)
    if given is None:
        return None
    if isinstance(given, float) and given.is_integer():
        given = int(given)
    if isinstance(given, int) and not isinstance(given, bool):
        if 0 <= given < len(choices):
            return given
        if given == -1:  # withheld, in some sets
            return None
    word = str(given).strip()
    bare = word.strip("().: ").upper()
    upper = [label.upper() for label in labels]
    for wanted, among in ((bare, upper), (word, [choice.strip() for choice in choices])):
        if among.count(wanted) == 1:
            return among.index(wanted)
    if bare.isdigit() and int(bare) < len(choices) and isinstance(given, str):
        return int(bare)
    raise ValueError(f"the answer is none of the choices ({str(given)[:40]!r} of {len(choices)}; an index counts from 0)")
