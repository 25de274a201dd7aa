r"""siunitx outside mathematics → words: `\SI{5}{\kilo\metre\per\second}` → `5 km s$^{-1}$`."""

import re

from data_tools.latex_names import UNIT_PREFIXES, UNITS

UNIT_COMMANDS = {"SI": 2, "qty": 2, "num": 1, "si": 1, "unit": 1, "ang": 1, "SIrange": 3, "qtyrange": 3, "numrange": 2}
_PART = re.compile(r"\\([a-zA-Z]+)|\^\s{0,3}\{?\s{0,3}(-?\d{1,2})\}?|([^\\\s{}^.~]+)")
_POWERS = {"squared": "2", "cubed": "3"}


def quantity(command: str, arguments: list[str]) -> str:
    """The words of one siunitx command, its arguments given."""
    if command == "ang":
        degrees = arguments[0].split(";")
        return "".join(f"{value}{mark}" for value, mark in zip(degrees, "°'\"") if value.strip())
    if command == "num":
        return number(arguments[0])
    if command in ("si", "unit"):
        return unit(arguments[0])
    if command == "numrange":
        return f"{number(arguments[0])} to {number(arguments[1])}"
    if command in ("SIrange", "qtyrange"):
        return f"{number(arguments[0])} to {number(arguments[1])} {unit(arguments[2])}"
    shown = unit(arguments[1])
    return number(arguments[0]) + ("" if shown.startswith(("°", "%", "'", '"')) else " ") + shown


def number(text: str) -> str:
    """`1.5e6` → `$1.5 \\times 10^{6}$`; other numbers as they stand."""
    text = text.replace("+-", "±").replace(r"\pm", "±").strip()
    power = re.fullmatch(r"([^eE\\]{0,40})[eE]\s?([+-]?\d{1,4})", text)
    if power:
        mantissa = f"{power[1].strip()} \\times " if power[1].strip() else ""
        return f"${mantissa}10^{{{power[2].lstrip('+')}}}$"
    return re.sub(r"\\[a-zA-Z]+|[{}\\]", "", text)


def unit(text: str) -> str:
    """`\\kilo\\metre\\per\\second` → `km s$^{-1}$`."""
    shown: list[str] = []
    prefix, per, next_power = "", False, ""
    for part in _PART.finditer(text):
        word, power, plain = part.groups()
        if power or word in _POWERS:
            if shown:
                sign = "-" if "$^{-1}$" in shown[-1] else ""
                shown[-1] = re.sub(r"\$.*\$$", "", shown[-1]) + f"$^{{{sign}{power or _POWERS[word]}}}$"
        elif word == "per":
            per = True
        elif word in ("square", "cubic"):
            next_power = "2" if word == "square" else "3"
        elif word in UNIT_PREFIXES and word not in UNITS:
            prefix = UNIT_PREFIXES[word]
        else:
            name = prefix + (UNITS.get(word, word) if word else plain)
            exponent = ("-" if per else "") + (next_power or ("1" if per else ""))
            shown.append(name + (f"$^{{{exponent}}}$" if exponent else ""))
            prefix, per, next_power = "", False, ""
    return " ".join(shown)
