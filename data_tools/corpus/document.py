"""A record → the document that a corpus makes of it, by the command's rule, or the reason why it makes none."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

BAD = (
    "not UTF-8",
    "not JSON",
    "not a JSON object",
    "the text is not a string",
    "broken Unicode",
    "not a row of the table",
)  # faults of the file; other reasons are choices


@dataclass(frozen=True)
class Rule:
    """Which records are taken, from which fields their text and id come, and what is held out."""

    where: tuple[tuple[str, str], ...]  # (field, value that it must have)
    text_fields: tuple[str, ...]  # joined by a blank line
    id_field: str
    splits: tuple[tuple[str, float], ...]  # (name, share)

    @classmethod
    def of_json(cls, value: dict[str, Any]) -> "Rule":
        where, splits = (tuple((name, what) for name, what in value[key]) for key in ("where", "splits"))
        return cls(where, tuple(value["text_fields"]), value["id_field"], splits)


@dataclass(frozen=True)
class Document:
    id: str
    text: str
    split: int  # 0: train, k: the k-th held-out side


def to_document(record: dict[str, Any] | str, rule: Rule) -> Document | str:
    """The document, or the reason why the record is none; a record that could not be read is its reason already."""
    if isinstance(record, str):
        return record
    for name, wanted in rule.where:
        if not is_so(field(record, name), wanted):
            return f"not {name}={wanted}"
    texts = []
    for name in rule.text_fields:
        text = field(record, name)
        if text is None:
            return f"no {name}" if name in record else f"no field {name}"
        if not isinstance(text, str):
            return f"the text is not a string ({name} is {type(text).__name__})"
        texts.append(text)
    text = "\n\n".join(texts)
    if not text.strip():
        return "empty text"
    try:
        data = text.encode()
    except UnicodeEncodeError:
        return "broken Unicode (half a surrogate pair)"
    id = field(record, rule.id_field)
    # without an id of its own a document is named by its content: the name must not depend on where in which file it lies
    id = str(id) if isinstance(id, str | int | float) and id == id and str(id) else f"sha256:{hashlib.sha256(data).hexdigest()[:16]}"
    if not id.isprintable():
        return "broken Unicode (in the id)"
    return Document(id, text, split_of(id, rule.splits))


def is_so(value: Any, wanted: str) -> bool:
    """Whether a field's value is what `--where FIELD=…` asks for: the same text, truth, nothing, or number, however either is written.

    `true` is True, TRUE and JSON's true; `null` or nothing is JSON's null, None and an empty cell; 2001 is 2001.0. But a text is compared
    as a text: 001 is not 1, and 1.10 is not 1.1.
    """
    if str(value) == wanted:
        return True
    said, asked = _plain(value), _plain(wanted)
    if said == asked:
        return True
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return Decimal(str(value)) == Decimal(wanted.strip())
        except InvalidOperation:
            return False
    return False


def _plain(value: Any) -> str:
    text = str(value).strip()
    if text.lower() in ("none", "null", "") and (value is None or isinstance(value, str)):
        return "null"
    if text.lower() in ("true", "false"):
        return text.lower()
    whole = re.fullmatch(r"(0|-?[1-9]\d*)\.0+", text)  # as a table of numbers with gaps writes whole ones
    return whole[1] if whole else text


def field(record: dict[str, Any], name: str) -> Any:
    """A field by name; `meta.year` looks into an object."""
    if name in record or "." not in name:
        return record.get(name)
    head, _, rest = name.partition(".")
    inner = record.get(head)
    return field(inner, rest) if isinstance(inner, dict) else None


def split_of(id: str, splits: Sequence[tuple[str, float]]) -> int:
    """0 for train, k for the k-th held-out split: by a hash of the id alone, so that no re-ordering or new paper moves another."""
    if not splits:
        return 0
    place = int.from_bytes(hashlib.sha256(f"split:{id}".encode()).digest()[:8], "big") / 2**64
    for k, (_, share) in enumerate(splits, 1):
        if place < share:
            return k
        place -= share
    return 0
