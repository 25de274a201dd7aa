"""A question as it is put to a model, and what of its answer counts.

letters    MMLU's: the question, its options behind letters, `Answer:`; the likeliest letter
answers    ARC's: `Question: … Answer:`; the likeliest choice, in full
generated  a model that knows a chat is asked to write JSON with its letter; any other goes on from the letters' prompt
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from train.evaluation.choice.questions import Question

DESCRIPTION = "The following are multiple choice questions (with answers) about {subject}.\n\n"
ASK = """Choose the one right answer to this question.

{question}

{options}

Reply with a JSON object and nothing else: {"ANSWER": "the letter", "EXPLANATION": "why, in one sentence"}"""
FORMS = (  # from what was asked for to what models write instead; the first form with a match counts
    re.compile(r'"?ANSWER"?\s*:\s*"?\(?([A-Z])\b', re.IGNORECASE),
    re.compile(r"\banswer\s+is\s*:?\s*\**\(?([A-Z])\b", re.IGNORECASE),
    re.compile(r"^\W*([A-Z])(?:[).:,]|\s*$)", re.MULTILINE),
    re.compile(r"^\W*([A-Z])\b"),
)


@dataclass(frozen=True)
class Prompts:
    """shots: answered questions that stand before each. own: a prompt of the user's with {question} and {options}, "" for ours."""

    shots: tuple[Question, ...] = ()
    own: str = ""

    def letters(self, question: Question) -> tuple[str, str]:
        """The prompt, and what stands between it and the letter."""
        if self.own:
            shown = [f"{self._filled(shot)}{shot.letters[shot.answer or 0]}\n\n" for shot in self.shots]
            return "".join(shown) + self._filled(question), ""
        head = DESCRIPTION.format(subject=question.subject.replace("_", " ")) if question.subject else ""
        shown = [f"{_as_mmlu(shot)} {shot.letters[shot.answer or 0]}\n\n" for shot in self.shots]
        return head + "".join(shown) + _as_mmlu(question), " "

    def answers(self, question: Question) -> str:
        """The prompt; a choice follows after a blank."""
        shown = [f"Question: {shot.text.strip()}\nAnswer: {shot.choices[shot.answer or 0]}\n\n" for shot in self.shots]
        return "".join(shown) + f"Question: {question.text.strip()}\nAnswer:"

    def generated(self, question: Question, tokenizer: Any) -> list[int] | str:
        """The ids of a chat that ends where the answer begins; a text where the model knows no chat."""
        if not tokenizer.chat_template:
            return self.letters(question)[0]
        asked = self._filled(question) if self.own else fill(ASK, question)
        told = "".join(f"{fill(ASK, shot)}\n{json.dumps({'ANSWER': shot.letters[shot.answer or 0]})}\n\n" for shot in self.shots)
        messages = [{"role": "user", "content": told + asked}]
        return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))

    def _filled(self, question: Question) -> str:
        return fill(self.own, question)


def fill(template: str, question: Question) -> str:
    """{question} and {options} replaced, all other braces left as they are."""
    options = "\n".join(f"{letter}: {choice}" for letter, choice in zip(question.letters, question.choices, strict=True))
    put_in = {"{question}": question.text.strip(), "{options}": options}
    return re.sub(r"\{question\}|\{options\}", lambda found: put_in[found[0]], template)


def letter_in(text: str, question: Question) -> int | None:
    """Which choice a written answer gives, by its letter, or by naming it and no other; None where it does neither."""
    for form in FORMS:
        for found in form.findall(text):
            if found.upper() in question.letters:
                return question.letters.index(found.upper())
    named = [k for k, choice in enumerate(question.choices) if re.search(rf"(?<!\w){re.escape(choice.strip())}(?!\w)", text)]
    return named[0] if len(named) == 1 else None


def _as_mmlu(question: Question) -> str:
    options = "".join(f"{letter}. {choice}\n" for letter, choice in zip(question.letters, question.choices, strict=True))
    return f"{question.text.strip()}\n{options}Answer:"
