"""Conversations → (tokens, mask), built together: the mask says which tokens the assistant wrote, its end token included.

turns → `FORMATS[name]` or the tokenizer's own template → parts → ids part by part, each with its mask → `Encoded`

    template = ChatTemplate.load("llama2", Path("models/llama-2-7b"))
    encoded = template.encode([Turn("user", "What is a blazar?"), Turn("assistant", "A galaxy whose jet points at us.")])
    encoded.tokens, encoded.mask                       # two lists of one length; 1 = train on this token
    template.prompt([Turn("user", "What is a blazar?")])   # what a model is given to answer: a prefix of the above
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.chat.encoder import TextEncoder
from data_tools.chat.formats import FORMATS, Marks, Part, jinja
from data_tools.chat.model_template import ModelTemplate, read_template
from data_tools.chat.turns import ChatError, Refused, Turn

NAMES = (*FORMATS, "model")


@dataclass(frozen=True)
class Encoded:
    tokens: list[int]
    mask: list[int]  # as long as tokens; 1 = train on this token
    ends: tuple[int, ...]  # number of tokens up to and with the end token of the 1st, 2nd … answer

    def cut(self, seq_len: int) -> "Encoded | None":
        """The longest beginning of at most `seq_len` tokens that stops after an answer; None where not even the first one fits."""
        if len(self.tokens) <= seq_len:
            return self
        ends = tuple(end for end in self.ends if end <= seq_len)
        return Encoded(self.tokens[: ends[-1]], self.mask[: ends[-1]], ends) if ends else None


class ChatTemplate:
    """A chat format in one tokenizer's ids. Make it with `ChatTemplate.load`."""

    def __init__(self, name: str, encoder: TextEncoder, parts: Callable[[Sequence[Turn]], list[Part]], facts: dict[str, Any]) -> None:
        self.name, self._encoder, self._parts = name, encoder, parts
        # for the manifest; and for a published model, whose chat_template is `jinja`, with `tokenizer_config` put into its
        # tokenizer_config.json: so transformers makes the ids that were trained on
        self.facts = {"name": name} | facts

    @classmethod
    def load(cls, name: str, folder: Path) -> "ChatTemplate":
        """`name`: one of NAMES. Raises ChatError when the tokenizer cannot say this format, ShardError when there is no tokenizer."""
        folder = Path(folder)
        if name not in NAMES:
            raise ChatError(f"template {name!r}: there are {', '.join(NAMES)}")
        encoder = TextEncoder.load(folder, as_transformers=name == "model")
        if name == "model":
            text = read_template(folder)
            own = ModelTemplate(text, encoder)
            template = cls(
                name, encoder, own.parts, {"marks": "as the tokenizer's own template writes them", "jinja": text, "tokenizer_config": {}}
            )
        else:
            format, marks = FORMATS[name], Marks(name, encoder, FORMATS[name].marks)
            facts = {"bos": "one" if format.one_bos else "one for each pair of turns", "jinja": jinja(name, marks)}
            facts["tokenizer_config"] = encoder.settings()
            facts["marks"] = "control tokens" if marks.are_tokens and format.marks else f"plain text; answers end with {encoder.eos}"
            template = cls(name, encoder, lambda turns: format.parts(turns, marks), facts)
        template._try_out(folder)
        return template

    def encode(self, turns: Sequence[Turn]) -> Encoded:
        """turns: as `check` leaves them. Raises Refused where the tokenizer or its template cannot hold these words."""
        tokens: list[int] = []
        mask: list[int] = []
        ends: list[int] = []
        for part, ids in self._encode_parts(self._parts(turns)):
            tokens += ids
            mask += [int(part.train)] * len(ids) if part.learned is None else self._learned(part, ids)
            if part.answer and part.id is not None:
                ends.append(len(tokens))
        return Encoded(tokens, mask, tuple(ends))

    def prompt(self, turns: Sequence[Turn]) -> list[int]:
        """Ids up to where the model answers the last turn, a user's: exactly those that stand before the answer in training."""
        parts = self._parts([*turns, Turn("assistant", "answer")])
        while not parts[-1].answer:
            parts.pop()
        while parts[-1].answer:
            parts.pop()
        return [id for _, ids in self._encode_parts(parts) for id in ids]

    @property
    def end_ids(self) -> set[int]:
        """Ids that end an answer."""
        parts = self._parts([Turn("user", "question"), Turn("assistant", "answer")])
        return {part.id for part in parts if part.answer and part.id is not None}

    def _encode_parts(self, parts: Sequence[Part]) -> list[tuple[Part, list[int]]]:
        """Neighbouring texts are encoded as one, as the formats' own programs do, but for the edge between a prompt and its answer.

        There the ids are split where generation will start. Both sides are what inference sees, and for the published formats
        they add up to the ids of the whole (`[INST] question [/INST] answer `), since a space opens a token.
        """
        encoded: list[tuple[Part, list[int]]] = []
        after_text = False
        for part in _join_texts(parts):
            if part.id is not None:
                ids = [part.id]
            elif after_text:
                ids = self._encoder.go_on(part.text)
            else:
                ids = self._encoder.run(part.text, first=not encoded)
            if part.answer and part.id is None:
                self._check_words(part.text, ids, after_text)
            encoded.append((part, ids))
            after_text = part.id is None
        return encoded

    def _learned(self, part: Part, ids: list[int]) -> list[int]:
        """1 for the ids whose characters are all learned; the spaces inside a token that has words do not count."""
        back = self._encoder.decode(ids)
        shift = len(back) - len(part.text)  # the tokenizer's own space in front
        learned = [True] * shift + [False] * len(part.text)
        for start, end in part.learned or ():
            learned[start + shift : end + shift] = [True] * (end - start)
        mask: list[int] = []
        first = place = 0  # of the ids, and of the characters, that are not accounted for yet
        for stop in range(1, len(ids) + 1):
            piece = self._encoder.decode(ids[first:stop])
            if stop < len(ids) and not back.startswith(piece, place):  # a character whose bytes are several tokens: they go together
                continue
            until = place + len(piece) if stop < len(ids) else len(back)
            places = [k for k in range(place, until) if not back[k].isspace()] or range(place, until)
            mask += [int(part.train and all(learned[k] for k in places))] * (stop - first)
            first, place = stop, until
        return mask

    def _check_words(self, text: str, ids: list[int], after_text: bool) -> None:
        """The promise itself: the supervised ids read back as the assistant's words."""
        back = self._encoder.decode(ids)
        if back != text and (after_text or back != f" {text}"):
            raise Refused("the tokenizer cannot write an answer back as it was")

    def _try_out(self, folder: Path) -> None:
        """Before any data: ids of plain chats against the tokenizer's own for the whole text. Raises ChatError."""
        for chat in (["What is a blazar?", "A galaxy, of  course: 3.5 Gpc away.\n\n- é 星"], ["a", "b", "c", "d"]):
            turns = [Turn("assistant" if number % 2 else "user", text) for number, text in enumerate(chat)]
            try:
                parts = self._parts(turns)
                ids = self.encode(turns).tokens
            except Refused as error:
                if len(chat) == 2:
                    raise ChatError(f"{folder}: template {self.name}: {error}; choose another template or tokenizer") from error
                continue  # a template for single questions: longer conversations are refused one by one
            whole = self._encoder.whole("".join(part.text for part in parts)) if self.name == "model" else None
            if whole is not None and whole != ids:
                raise ChatError(f"{folder}: no ids can be proven for the tokenizer's own template; choose --template {', '.join(FORMATS)}")


def _join_texts(parts: Sequence[Part]) -> list[Part]:
    joined: list[Part] = []
    for part in parts:
        before = joined[-1] if joined else None
        if before is not None and part.id is None is before.id and (part.answer, part.train) == (before.answer, before.train):
            joined[-1] = Part(before.text + part.text, None, part.answer, part.train, _joined_spans(before, part))
        elif part.text or part.id is not None:
            joined.append(part)
    return joined


def _joined_spans(before: Part, part: Part) -> tuple[tuple[int, int], ...] | None:
    if before.learned is None is part.learned:
        return None
    spans = [piece.learned if piece.learned is not None else ((0, len(piece.text)),) for piece in (before, part)]
    return (*spans[0], *((start + len(before.text), end + len(before.text)) for start, end in spans[1]))
