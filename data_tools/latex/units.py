r"""siunitx → plain LaTeX that is right in and out of mathematics.

`\SI{5}{\kilo\metre\per\second}` → `5 km s$^{-1}$` in words, `5\,\mathrm{km\,s^{-1}}` in a formula.
"""

import re

from data_tools.latex.names import UNIT_PREFIXES, UNITS

UNIT_COMMANDS = {"SI": 2, "qty": 2, "num": 1, "si": 1, "unit": 1, "ang": 1, "SIrange": 3, "qtyrange": 3, "numrange": 2}
_PART = re.compile(r"\\([a-zA-Z]+)|\^\s{0,3}\{?\s{0,3}(-?\d{1,2})\}?|([^\\\s{}^.~]+)")
_POWERS = {"squared": "2", "cubed": "3"}
_TIGHT = ("°", "%", "'", '"')


def quantity(command: str, arguments: list[str]) -> str:
    """LaTeX for one siunitx command, its arguments given."""
    if command == "ang":
        return "".join(
            f"{value}{mark}" for value, mark in zip(arguments[0].split(";"), (r"\ensuremath{^\circ}", "'", '"')) if value.strip()
        )
    if command == "num":
        return number(arguments[0])
    if command == "numrange":
        return rf"{number(arguments[0])}\ifmmode -\else\space to \fi {number(arguments[1])}"
    parts = unit(arguments[-1])
    words = " ".join(name + (f"$^{{{power}}}$" if power else "") for name, power in parts)
    formula = r"\,".join(name.replace("%", r"\%").replace("°", r"^\circ") + (f"^{{{power}}}" if power else "") for name, power in parts)
    words, formula = words.replace("%", r"\%"), {"°": r"^\circ", "%": r"\%"}.get(words) or rf"\,\mathrm{{{formula}}}"
    if command in ("si", "unit"):
        return rf"\ifmmode {formula}\else {words}\fi"
    values = number(arguments[0]) if len(arguments) == 2 else rf"{number(arguments[0])}\ifmmode -\else\space to \fi {number(arguments[1])}"
    space = "" if words.startswith((*_TIGHT, r"\%")) else r"\ "
    return rf"{values}\ifmmode {formula}\else {space}{words}\fi"


def number(text: str) -> str:
    r"""`1.5e6` → `\ensuremath{1.5 \times 10^{6}}`; other numbers as they stand."""
    text = text.replace("+-", r"\ensuremath{\pm}").strip()
    power = re.fullmatch(r"([0-9.,+\- ]{0,40})[eE]\s?([+-]?\d{1,4})", text)
    if power:
        mantissa = f"{power[1].strip()} \\times " if power[1].strip() else ""
        return rf"\ensuremath{{{mantissa}10^{{{power[2].lstrip('+')}}}}}"
    return text


def unit(text: str) -> list[tuple[str, str]]:
    r"""`\kilo\metre\per\second` → [("km", ""), ("s", "-1")]."""
    shown: list[tuple[str, str]] = []
    prefix, per, next_power = "", False, ""
    for part in _PART.finditer(text):
        word, power, plain = part.groups()
        if power or word in _POWERS:
            if shown:
                shown[-1] = (shown[-1][0], ("-" if shown[-1][1].startswith("-") else "") + (power or _POWERS[word]))
        elif word == "per":
            per = True
        elif word in ("square", "cubic"):
            next_power = "2" if word == "square" else "3"
        elif word in UNIT_PREFIXES and word not in UNITS:
            prefix = UNIT_PREFIXES[word]
        else:
            shown.append((prefix + (UNITS.get(word, word) if word else plain), ("-" if per else "") + (next_power or ("1" if per else ""))))
            prefix, per, next_power = "", False, ""
    return shown
