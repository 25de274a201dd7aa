"""A tokenizer's own chat template → parts whose mask is proven, or a refusal.

The template is rendered with stand-ins for the texts, which shows what is the template's and what is the conversation's; then
with the real texts, which must give the same; then without each answer, which must give its beginning. Nothing is guessed: a
template that rewrites earlier turns, puts words into an answer or has no end token is refused.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_tools.chat.encoder import TextEncoder, read_config
from data_tools.chat.formats import Part, said
from data_tools.chat.turns import ChatError, Refused, Turn


def read_template(folder: Path) -> str:
    """The chat template of a tokenizer's folder: chat_template.jinja, else the (default) one in tokenizer_config.json. Raises ChatError."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = read_config(folder).get("chat_template")
    if isinstance(template, list):
        template = next((item["template"] for item in template if item.get("name") == "default"), None)
    if not isinstance(template, str):
        raise ChatError(f"{folder}: this tokenizer brings no chat template; choose --template llama2, llama3 or chatml")
    return template


class ModelTemplate:
    """`parts(turns)` by a jinja template. Raises ChatError when not even one question and answer can be proven."""

    def __init__(self, template: str, encoder: TextEncoder) -> None:
        import jinja2

        self.encoder = encoder
        self._skeletons: dict[tuple[str, ...], list[str | int]] = {}
        self._marks = re.compile("|".join(re.escape(mark) for mark in sorted(encoder.marks, key=len, reverse=True)) or r"(?!)")
        try:
            self._template = _environment().from_string(template)
            parts = self.parts([Turn("user", "question"), Turn("assistant", "answer")])
        except (jinja2.TemplateError, Refused) as error:
            raise ChatError(f"the tokenizer's chat template cannot be used: {error}; choose --template llama2, llama3 or chatml") from error
        encoder.protect({part.text for part in parts if part.id is not None})
        if [part.text for part in parts[:2]] == [encoder.bos] * 2:
            raise ChatError("the tokenizer's chat template writes BOS twice at the start; choose --template llama2, llama3 or chatml")

    def parts(self, turns: Sequence[Turn]) -> list[Part]:
        """Raises Refused when the template does not take these turns, or its mask cannot be proven for them."""
        text = self._render(turns)
        places = self._places(text, turns)
        answers = [self._answer(text, turns, number, places) for number, turn in enumerate(turns) if turn.role == "assistant"]
        words = set(places.values())  # everything between them is the template's own
        cuts = sorted({0, len(text), *(edge for place in words for edge in place), *(edge for answer in answers for edge in answer[:2])})
        parts: list[Part] = []
        for start, end in zip(cuts, cuts[1:]):
            turn = next((turn for first, last, turn in answers if first <= start < last), None)
            is_words = any(first <= start < last for first, last in words)
            for piece, id in [(text[start:end], None)] if is_words else self._split(text[start:end]):
                if turn is not None and is_words:
                    parts.append(said(piece, turn))
                else:
                    parts.append(Part(piece, id, answer=turn is not None, train=turn is not None and turn.train))
        return parts

    def _render(self, turns: Sequence[Turn], *, texts: Sequence[str] | None = None, ask: bool = False) -> str:
        """`ask`: up to where the model is to answer."""
        import jinja2

        messages = [{"role": turn.role, "content": text} for turn, text in zip(turns, texts or [turn.text for turn in turns])]
        try:
            return self._template.render(messages=messages, tools=None, documents=None, add_generation_prompt=ask, **self.encoder.special)
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
            raise Refused(f"the chat template fails: {str(error)[:120]}") from error

    def _skeleton(self, turns: Sequence[Turn]) -> list[str]:
        """What the template writes around the texts of turns with these roles: [literal, number of a turn, literal, number …, literal]."""
        roles = tuple(turn.role for turn in turns)
        if roles not in self._skeletons:
            stand_ins = [f"\ue000{number}\ue001" for number in range(len(roles))]
            pieces = re.split("\ue000([0-9]+)\ue001", self._render(turns, texts=stand_ins))
            if sorted(map(int, pieces[1::2])) != list(range(len(roles))):
                raise Refused("the chat template leaves a turn out, or repeats one")
            self._skeletons[roles] = pieces
        return self._skeletons[roles]

    def _places(self, text: str, turns: Sequence[Turn]) -> dict[int, tuple[int, int]]:
        """Where each turn's text stands in the rendered chat, as it is or trimmed, proven by the whole being made of just that."""
        first, *rest = self._skeleton(turns)
        places, position = {}, len(first)
        whole = text.startswith(first)
        for number, literal in zip(map(int, rest[::2]), rest[1::2]):
            as_given = turns[number].text
            for words in (as_given, as_given.strip(), as_given.rstrip(), as_given.lstrip()):
                if text.startswith(words + literal, position):
                    break
            else:
                whole = False
            places[number] = (position, position + len(words))
            position += len(words) + len(literal)
        if not whole or position != len(text):
            raise Refused("the chat template changes the words of a turn")
        return places

    def _answer(self, text: str, turns: Sequence[Turn], number: int, places: dict[int, tuple[int, int]]) -> tuple[int, int, Turn]:
        """Where answer `number` starts and where its end token ends: all that the model writes, given the turns before."""
        prompt = self._render(turns[:number], ask=True)
        if not text.startswith(prompt):
            raise Refused("the chat template writes earlier turns differently once an answer follows")
        start, end = places[number]
        if len(prompt) > start or text[len(prompt) : start].strip():
            raise Refused(f"the chat template puts words of its own before an answer: {text[len(prompt) : start][:40]!r}")
        gap = re.compile(r"\s*").match(text, end)
        mark = self._marks.match(text, gap.end()) if gap else None
        last = self._skeleton(turns[: number + 1])
        if mark is None or last[-2] != str(number) or not last[-1].startswith(text[end : mark.end()]):
            raise Refused("the chat template writes no end token after an answer")
        return len(prompt), mark.end(), turns[number]

    def _split(self, literal: str) -> list[tuple[str, int | None]]:
        pieces, position = [], 0
        for mark in self._marks.finditer(literal):
            pieces += [(literal[position : mark.start()], None), (mark.group(), self.encoder.marks[mark.group()])]
            position = mark.end()
        return [(piece, id) for piece, id in [*pieces, (literal[position:], None)] if piece]


def _environment() -> Any:
    """Jinja as transformers sets it up for chat templates, in the sandbox; without a clock, so that the same chat gives the same ids."""
    import jinja2.ext
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """`{% generation %}` marks what transformers supervises; here what is supervised is proven instead."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    class PublicNamespace(jinja2.utils.Namespace):
        """Without underscore names, by which a template could reach into Python."""

        def __setitem__(self, name: str, value: Any) -> None:
            if str(name).startswith("_"):
                raise jinja2.exceptions.SecurityError(f"namespace attribute {name!r}")
            super().__setitem__(name, value)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, **{"ensure_ascii": False} | options)
    environment.globals |= {"raise_exception": _raise_exception, "namespace": PublicNamespace}
    return environment


def _raise_exception(message: str) -> None:
    import jinja2

    raise jinja2.TemplateError(message)
