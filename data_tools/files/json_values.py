"""Records of a file that is JSON as a whole: an array, one object or several, an object of records or of columns; read as a stream.

[{"id": 1}, {"id": 2}]      {"data": [{"id": 1}, …]}      {"0704.0001": {"title": …}, …}      {"id": [1, 2], "text": ["a", "b"]}
"""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

BLOCK = 1 << 20
BLANKS = re.compile(r"[\s,]*")


class JsonError(ValueError):
    """What is no JSON; the message says where."""


class Written(float):
    """A number with a point or an exponent, that still knows how it was written: ids like 704.0010 end in zeros that count."""

    def __new__(cls, text: str) -> "Written":
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __str__(self) -> str:
        return self.text


def is_whole(file: BinaryIO) -> bool:
    """Whether a file of JSON is one value rather than one a line; the file stands anywhere behind this look."""
    line = file.readline(BLOCK).removeprefix(codecs.BOM_UTF8).strip()
    while not line and (line := file.readline(BLOCK)):
        line = line.strip()
    if not line.startswith((b"{", b"[")):
        return False
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        # `{` alone begins an object over several lines; a damaged line among lines does not
        return (
            line.startswith(b"[")
            or len(line) < 100
            and not re.search(rb"\}\s*$", line)
            and not file.readline(BLOCK).lstrip().startswith(b"{")
        )
    if isinstance(value, list):
        return True
    return not file.readline(BLOCK).strip() and records_in(value) != [value]


def read_whole(file: BinaryIO) -> Iterator[Any]:
    """The records, each as soon as it is read. Raises JsonError."""
    text = _Text(file)
    while (sign := text.next_sign()) == "[":
        text.at += 1
        while (sign := text.next_sign()) not in ("]", ""):
            yield text.value()
        if not sign:
            raise JsonError(f"the array that should end before character {text.behind + text.at} does not: the file was cut short")
        text.at += 1
    while sign:
        yield from records_in(text.value())
        sign = text.next_sign()


def records_in(value: Any) -> list[Any]:
    """Records of an object that may hold them: by name, in columns, or as its one list; else it is a record itself."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict) or not value:
        return [value]
    inside = list(value.values())
    if all(isinstance(each, dict) and each for each in inside):
        keys = list(inside[0])
        if all(key.isdigit() for key in keys) and all(list(each) == keys for each in inside):  # as pandas writes a table
            return [{name: column[key] for name, column in value.items()} for key in keys]
        return [each if "id" in each else {"id": name, **each} for name, each in value.items()]
    if len(inside) > 1 and all(isinstance(each, list) and len(each) == len(inside[0]) for each in inside):
        return [dict(zip(value, row)) for row in zip(*inside)]
    lists = [each for each in inside if isinstance(each, list) and each and all(isinstance(row, dict) for row in each)]
    if len(lists) == 1 and not {"id", "text", "title", "abstract"} & value.keys():
        return lists[0]
    return [value]


class _Text:
    """A growing piece of the file, of which values are taken from the front."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.text, self.at, self.behind, self.ended = file, "", 0, 0, False
        self.decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self.decoder = json.JSONDecoder(parse_float=Written)

    def more(self, size: int = BLOCK) -> bool:
        """False when the file has ended."""
        data = self.file.read(size)
        self.ended = not data
        try:
            fresh = self.decode(data, final=self.ended)
        except UnicodeDecodeError as error:
            raise JsonError(f"not UTF-8 behind character {self.behind + len(self.text)} ({error.reason})") from None
        self.behind, self.text, self.at = self.behind + self.at, self.text[self.at :] + fresh, 0
        return not self.ended

    def next_sign(self) -> str:
        """The first sign that is no blank and no comma; "" at the end."""
        while True:
            self.at = BLANKS.match(self.text, self.at).end()
            if self.at < len(self.text) or not self.more():
                return self.text[self.at : self.at + 1]

    def value(self) -> Any:
        size = BLOCK
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
                if end < len(self.text) or self.ended:
                    self.at = end
                    return value
            except json.JSONDecodeError as error:
                if self.ended:
                    raise JsonError(f"not JSON at character {self.behind + error.pos} ({error.msg})") from None
                if error.pos < len(self.text) - (1 << 10) and "nterminated" not in error.msg:
                    raise JsonError(f"not JSON at character {self.behind + error.pos} ({error.msg})") from None
            except RecursionError:
                raise JsonError(f"nested too deeply behind character {self.behind + self.at}") from None
            self.more(size)
            size *= 2  # so that a long value is not begun too often
