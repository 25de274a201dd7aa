"""Turns → parts, as each chat format was published: what is a control token, what is text, and which words are the assistant's.

turns → the function that stands for the format in `FORMATS`, which reads like it, with the `Marks` of one vocabulary → parts
(`ChatTemplate` makes ids of them). `jinja` says the same for `tokenizer.apply_chat_template`, so that a published model carries its
format along.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data_tools.chat.encoder import TextEncoder
from data_tools.chat.turns import ChatError, Turn


@dataclass(frozen=True)
class Part:
    """A stretch of a rendered chat. `answer`: the model writes it, text and end token; `train`: and learns to."""

    text: str
    id: int | None = None  # of a control token
    answer: bool = False
    train: bool = False
    learned: tuple[tuple[int, int], ...] | None = None  # [start, end) of the characters that are learned, where `train`; None: all


class Marks:
    """A format's marks in one vocabulary: control tokens where it has them all, else plain text, and EOS for the end of an answer."""

    def __init__(self, name: str, encoder: TextEncoder, wanted: tuple[str, ...]) -> None:
        self.encoder, self.wanted = encoder, wanted
        self.are_tokens = all(mark in encoder.marks for mark in wanted)
        if wanted and self.are_tokens:
            encoder.protect(wanted)
        elif encoder.eos is None:
            raise ChatError(f"template {name}: the tokenizer has no EOS to end an answer with; name eos_token in tokenizer_config.json")

    def bos(self) -> list[Part]:
        """Empty where the tokenizer has none, or where it is the mark that opens a turn anyway (SmolLM2)."""
        bos = self.encoder.bos
        return [] if bos is None or (self.are_tokens and bos in self.wanted) else [Part(bos, self.encoder.marks[bos])]

    def mark(self, text: str) -> Part:
        return Part(text, self.encoder.marks[text] if self.are_tokens else None)

    def end(self, text: str | None, turn: Turn) -> Part:
        end = text if text is not None and self.are_tokens else self.encoder.eos
        assert end is not None
        return Part(end, self.encoder.marks[end], answer=True, train=turn.train)


def said(words: str, turn: Turn, before: str = "", after: str = "") -> Part:
    """An answer's words, all of the turn's or what trimming left of them; what the format writes around them is learned with them."""
    text, learned = before + words + after, turn.learned
    if learned is not None:
        shift = len(before) - turn.text.index(words)
        ends = [(0, len(before)), (len(before) + len(words), len(text))]
        moved = [(max(start + shift, len(before)), min(end + shift, len(before) + len(words))) for start, end in learned]
        learned = tuple((start, end) for start, end in sorted([*moved, *ends]) if start < end)
    return Part(text, answer=True, train=turn.train, learned=learned)


def _llama2(turns: Sequence[Turn], marks: Marks) -> list[Part]:
    """`<s>[INST] question [/INST] answer </s>`, once for each pair of turns: each has a BOS and an EOS, as LLaMA-2 was trained.

    The system prompt stands in the first question. The space before `</s>` belongs to the format: the model has to write it to
    get to its end token, so it is trained like that.
    """
    body, system = list(turns), ""
    if body[0].role == "system":
        system = f"<<SYS>>\n{body.pop(0).text}\n<</SYS>>\n\n"
    parts = []
    for asked, answer in zip(body[::2], body[1::2]):
        question = (system + asked.text).strip()
        parts += [*marks.bos(), Part(f"[INST] {question} [/INST]"), said(answer.text.strip(), answer, " ", " "), marks.end(None, answer)]
        system = ""
    return parts


def _llama3(turns: Sequence[Turn], marks: Marks) -> list[Part]:
    """One BOS; `<|start_header_id|>role<|end_header_id|>`, an empty line, the text, `<|eot_id|>`. Texts are trimmed."""
    parts = marks.bos()
    for turn in turns:
        role = {"tool": "ipython"}.get(turn.role, turn.role)
        parts += [marks.mark("<|start_header_id|>"), Part(role), marks.mark("<|end_header_id|>"), Part("\n\n")]
        if turn.role == "assistant":
            parts += [said(turn.text.strip(), turn), marks.end("<|eot_id|>", turn)]
        else:
            parts += [Part(turn.text.strip()), marks.mark("<|eot_id|>")]
    return parts


def _chatml(turns: Sequence[Turn], marks: Marks) -> list[Part]:
    """One BOS where the vocabulary has one; `<|im_start|>role`, a line end, the text as it is, `<|im_end|>`, a line end."""
    parts = marks.bos()
    for turn in turns:
        parts += [marks.mark("<|im_start|>"), Part(f"{turn.role}\n")]
        if turn.role == "assistant":
            parts += [said(turn.text, turn), marks.end("<|im_end|>", turn)]
        else:
            parts += [Part(turn.text), marks.mark("<|im_end|>")]
        parts.append(Part("\n"))
    return parts


@dataclass(frozen=True)
class Format:
    parts: Callable[[Sequence[Turn], Marks], list[Part]]
    marks: tuple[str, ...] = ()
    one_bos: bool = True


FORMATS = {
    "llama2": Format(_llama2, one_bos=False),
    "llama3": Format(_llama3, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    "chatml": Format(_chatml, ("<|im_start|>", "<|im_end|>")),
}

# END stands for the token that ends an answer, BOS for the start or nothing; `jinja` fills them in.
_JINJA = {
    "llama2": (
        "{%- set ns = namespace(system='') -%}"
        "{%- for message in messages -%}"
        "{%- if message['role'] == 'system' -%}"
        "{%- set ns.system = '<<SYS>>\\n' + message['content'] + '\\n<</SYS>>\\n\\n' -%}"
        "{%- elif message['role'] == 'assistant' -%}"
        "{{- ' ' + message['content'].strip() + ' ' + END -}}"
        "{%- else -%}"
        "{{- BOS + '[INST] ' + (ns.system + message['content']).strip() + ' [/INST]' -}}"
        "{%- set ns.system = '' -%}"
        "{%- endif -%}"
        "{%- endfor -%}"
    ),
    "llama3": (
        "{{- BOS -}}"
        "{%- for message in messages -%}"
        "{%- set role = 'ipython' if message['role'] == 'tool' else message['role'] -%}"
        "{{- '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' + message['content'].strip() -}}"
        "{{- END if role == 'assistant' else '<|eot_id|>' -}}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}"
    ),
    "chatml": (
        "{{- BOS -}}"
        "{%- for message in messages -%}"
        "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] -}}"
        "{{- (END if message['role'] == 'assistant' else '<|im_end|>') + '\\n' -}}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
    ),
}


def jinja(name: str, marks: Marks) -> str:
    """The format as a chat_template for this vocabulary: what transformers renders with it is what `FORMATS[name]` makes."""
    opening = "bos_token" if marks.bos() else "''"
    end = FORMATS[name].marks[-1:] if marks.are_tokens else ()
    return _JINJA[name].replace("BOS", opening).replace("END", repr(end[0]) if end else "eos_token")
