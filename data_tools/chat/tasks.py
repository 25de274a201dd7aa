"""One task's share of `prepare chat`: records → conversations → tokens and masks → a file of samples, in any process.

The file is a .npz of what the shards need, and of what is counted; `read_samples` gives its conversations back one by one.
A task and its result cross between processes, and lie on disk, as JSON: what `to_json` says.
"""

import functools
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_tools.chat.conversations import Conversation, Refused, read_record
from data_tools.chat.records import read_records
from data_tools.chat.template import ChatTemplate, Encoded

UNSUPERVISED = "no supervised token"
TOO_LONG = "longer than --seq-len"


@dataclass(frozen=True)
class EncodeTask:
    """Records start … stop - 1 of one input."""

    path: str
    source: str
    start: int
    stop: int
    first_row: int  # number of the first record among all of its source
    part: str  # file of samples to make
    tokenizer: str  # folder
    template: str
    seq_len: int | None
    long: Literal["truncate", "drop"]
    ignore: tuple[str, ...] = ()  # fields to read as if they were not there

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class TaskResult:
    source: str
    part: str  # file of samples
    kept: int
    dropped: list[tuple[str, str]]  # (id, reason)
    left_out: dict[str, int]  # what no template has a place for → conversations that were kept without it

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_json(cls, value: dict[str, Any]) -> "TaskResult":
        return cls(**value | {"dropped": [(id, reason) for id, reason in value["dropped"]]})


@dataclass(frozen=True)
class Sample:
    """One conversation, ready for the shards."""

    id: str
    tokens: np.ndarray
    mask: np.ndarray
    turns: int
    cut: bool  # to fit --seq-len
    place: float  # of the first question on the line from 0 to 1


def encode_records(task: dict[str, Any]) -> dict[str, Any]:
    """An EncodeTask → its file of samples, and what was kept and dropped, a TaskResult; both as JSON."""
    task = EncodeTask(**task)
    template, samples, dropped, left_out = load_template(task.tokenizer, task.template), [], [], Counter()
    for number, record in enumerate(read_records(task.path, task.start, task.stop), task.first_row):
        id = _record_id(task.source, number, record)
        try:
            conversations = read_record(record, task.ignore)
        except Refused as refused:
            dropped.append((id, str(refused)))
            continue
        for k, conversation in enumerate(conversations):
            id_k = id if len(conversations) == 1 else f"{id}/{k}"
            try:
                samples.append(_encode(id_k, conversation, template, task.seq_len, task.long))
                left_out.update(conversation.left_out)
            except Refused as refused:
                dropped.append((id_k, str(refused)))
    _save(Path(task.part), samples)
    return TaskResult(task.source, task.part, len(samples), dropped, dict(left_out)).to_json()


@functools.lru_cache(maxsize=2)
def load_template(tokenizer: str, template: str) -> ChatTemplate:
    return ChatTemplate.load(template, Path(tokenizer))


def _record_id(source: str, number: int, record: Any) -> str:
    """`lima/17`, with the record's own id behind it, so that an answer can be followed back to its paper."""
    given = [record.get(key) for key in ("id", "prompt_id", "question_id", "conversation_id")] if isinstance(record, dict) else []
    own = next((str(value) for value in given if isinstance(value, (str, int))), "")
    printable = own.encode("utf-8", "replace").decode()[:100]
    return f"{source}/{number}:{printable}" if printable else f"{source}/{number}"


def _encode(id: str, conversation: Conversation, template: ChatTemplate, seq_len: int | None, long: str) -> Sample:
    """Raises Refused."""
    encoded = template.encode(conversation.turns)
    if not any(encoded.mask):
        raise Refused(UNSUPERVISED)
    kept: Encoded | None = encoded
    if seq_len is not None and len(encoded.tokens) > seq_len:
        kept = encoded.cut(seq_len) if long == "truncate" else None
    if kept is None or not any(kept.mask):
        raise Refused(TOO_LONG)
    turns = len(conversation.turns) - 2 * (len(encoded.ends) - len(kept.ends))
    tokens, mask = np.array(kept.tokens, np.uint32), np.array(kept.mask, np.uint8)
    return Sample(id, tokens, mask, turns, kept is not encoded, _place(conversation))


def _place(conversation: Conversation) -> float:
    """The same for the same first question, whatever its case and spaces: a split never has it on both sides."""
    question = next(turn.text for turn in conversation.turns if turn.role == "user")
    digest = hashlib.sha256(" ".join(question.lower().split()).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _save(path: Path, samples: list[Sample]) -> None:
    empty = np.empty(0, np.uint32)
    arrays = {
        "ids": np.array([sample.id for sample in samples], dtype=np.str_),
        "tokens": np.concatenate([sample.tokens for sample in samples] or [empty]),
        "mask": np.concatenate([sample.mask for sample in samples] or [empty]),
        "lengths": np.array([len(sample.tokens) for sample in samples], np.int64),
        "turns": np.array([sample.turns for sample in samples], np.int64),
        "cut": np.array([sample.cut for sample in samples], bool),
        "places": np.array([sample.place for sample in samples], np.float64),
    }
    aside = path.with_suffix(".tmp.npz")  # the task's result, written after this, is what vouches for it
    np.savez(aside, **arrays)
    aside.replace(path)


def read_samples(path: Path) -> Iterator[Sample]:
    with np.load(path) as arrays:
        lengths, tokens, mask = arrays["lengths"], arrays["tokens"], arrays["mask"]
        facts = zip(arrays["ids"], arrays["turns"], arrays["cut"], arrays["places"])
    ends = np.cumsum(lengths)
    for start, end, (id, turns, cut, place) in zip(ends - lengths, ends, facts):
        yield Sample(str(id), tokens[start:end], mask[start:end], int(turns), bool(cut), float(place))
