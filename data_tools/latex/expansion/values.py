r"""Numbers and lengths as TeX reads them, for its comparisons: `2`, `-"FF`, `\value{page}`, `.5\textwidth`.

A register that nobody set holds what LaTeX begins with, or nothing.
"""

import re
from typing import Protocol

from data_tools.latex.macros import Macro

_CONSTANTS = {"pdfoutput": 1, "z@": 0, "@ne": 1, "tw@": 2, "thr@@": 3, "m@ne": -1, "pdftexversion": 140, "eTeXversion": 2, "@m": 1000, "@M": 10000,
              "year": 2020, "month": 1, "day": 1, "c@page": 1, "tracingonline": 0}  # fmt: skip
_POINTS = {
    "pt": 1.0,
    "in": 72.27,
    "cm": 28.4528,
    "mm": 2.84528,
    "pc": 12.0,
    "bp": 1.00375,
    "em": 10.0,
    "ex": 4.3,
    "sp": 1 / 65536,
    "dd": 1.07,
    "cc": 12.84,
}
_LENGTHS = dict.fromkeys("textwidth hsize linewidth columnwidth".split(), 345.0) | {"textheight": 550.0, "paperwidth": 614.3, "maxdimen": 16384.0,
                                                                                     "p@": 1.0, "parindent": 15.0}  # fmt: skip

_SETTING = re.compile(
    r"\s*\{?\s*\\?([a-zA-Z@]{1,60})\s*\}?(?:\s*\{\s*(-?\d{1,9})\s*\}|\s*\{?\s*(-?(?:\d{1,9}\.?\d{0,9}|\.\d{1,9}))\s*([a-z]{2}))?"
)


class Reader(Protocol):
    """What the expansion offers for a condition to read its tokens by."""

    macros: dict[str, Macro]

    def token(self) -> str | None: ...
    def expanded(self) -> str | None: ...
    def unread(self, text: str) -> None: ...
    def argument(self) -> str | None: ...
    def flat(self, text: str) -> str: ...


class Values:
    """Counters and lengths of one paper, and the numbers that come next in its text."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.counters: dict[str, int] = {}
        self.registers: dict[str, int] = {}
        self.lengths = dict(_LENGTHS)

    def follow(self, name: str, text: str, at: int) -> None:
        r"""Keep count of `\setcounter`, `\addtocounter`, `\stepcounter` and `\setlength`, which stay in the text."""
        found = _SETTING.match(text, at)
        if found is None:
            return
        target, number, length, unit = found.groups()
        if name == "setlength" and length and unit in _POINTS:
            self.lengths[target] = float(length) * _POINTS[unit]
        elif name in ("setcounter", "addtocounter") and number:
            self.counters[target] = int(number) + (self.counters.get(target, 0) if name[0] == "a" else 0)
        elif name == "stepcounter":
            self.counters[target] = self.counters.get(target, 0) + 1

    def numbers(self) -> bool:
        first = self.number()
        relation = self._relation()
        return compared(first, relation, self.number())

    def dimensions(self) -> bool:
        first = self.dimension()
        relation = self._relation()
        return compared(first, relation, self.dimension())

    def _relation(self) -> str:
        while (token := self._reader.expanded()) == " ":
            pass
        return token or "="

    def number(self) -> int:
        """The number that comes next."""
        sign, token = self._signed()
        if token is None:
            return 0
        if token.isdigit():
            return sign * int(self._digits(token, "0123456789"))
        if token in "'\"":
            return sign * int(self._digits("0", "01234567" if token == "'" else "0123456789ABCDEF"), 8 if token == "'" else 16)
        if token == "`":
            character = (self._reader.token() or "\0").lstrip("\\")[:1] or "\\"
            self._space()
            return sign * ord(character)
        if token in (r"\value", r"\numexpr"):
            if token == r"\value":
                return sign * self.counters.get((self._reader.argument() or "").strip(), 0)
            return sign * self._sum()
        name = token[1:]
        if name in self.registers:
            return sign * self.registers[name]
        return sign * self.counters.get(name.removeprefix("c@"), _CONSTANTS.get(name, int(self.lengths.get(name, 0.0) * 65536)))

    def _sum(self) -> int:
        total = self.number()
        while (token := self._reader.expanded()) in ("+", "-", "*", " "):
            if token != " ":
                value = self.number()
                total = total * value if token == "*" else total + value if token == "+" else total - value
        if token not in (None, r"\relax"):
            self._reader.unread(token)
        return total

    def dimension(self) -> float:
        """The length that comes next, in points."""
        sign, token = self._signed()
        if token is None:
            return 0.0
        factor = 1.0
        if token.isdigit() or token in ".,":
            digits = self._digits(token, "0123456789.,", keep_space=True).replace(",", ".")
            factor = float(digits) if re.fullmatch(r"\d*\.?\d*", digits) and digits != "." else 0.0
            while (token := self._reader.expanded()) == " ":
                pass
            if token is not None and token[0] != "\\":
                unit = token + (self._reader.expanded() or "")
                while unit == "tr":
                    self._reader.expanded(), self._reader.expanded()
                    unit = (self._reader.expanded() or "") + (self._reader.expanded() or "")
                self._space()
                return sign * factor * _POINTS.get(unit, 0.0)
        if token == r"\dimexpr":
            return sign * self.dimension()
        return sign * factor * self.lengths.get((token or "\\")[1:], 0.0)

    def _signed(self) -> tuple[int, str | None]:
        sign = 1
        while (token := self._reader.expanded()) is not None and token in "+- \n":
            sign = -sign if token == "-" else sign
        return sign, token

    def _digits(self, digits: str, alphabet: str, keep_space: bool = False) -> str:
        while (token := self._reader.expanded()) is not None and token in alphabet and len(digits) < 40:
            digits += token
        if token is not None and (token != " " or keep_space):
            self._reader.unread(token)
        return digits

    def _space(self) -> None:
        token = self._reader.expanded()
        if token not in (None, " "):
            self._reader.unread(token)


def compared(first: float, relation: str, second: float) -> bool:
    """Whether a relation of TeX's, `<`, `=` or `>`, holds."""
    return first < second if relation == "<" else first > second if relation == ">" else first == second
