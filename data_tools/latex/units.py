r"""siunitx, units, SIunits and nicefrac → plain LaTeX that is right in and out of mathematics.

`\SI{5}{\kilo\metre\per\second}` → `5 km s$^{-1}$` in words, `5\,\mathrm{km\,s^{-1}}` in a formula. Units are read by the
macros' names (old and new), by the author's own \DeclareSIUnit, or literally, as `km.s^{-1}` and `M_\odot` are written.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from data_tools.latex.names import UNIT_PREFIXES, UNITS

# what each command takes: "o" an option, "m" an argument
UNIT_COMMANDS = {
    **dict.fromkeys(("SI", "qty"), "omom"),
    **dict.fromkeys(("num", "si", "ang", "numlist", "numproduct"), "om"),
    **dict.fromkeys(("SIrange", "qtyrange"), "ommom"),
    **dict.fromkeys(("numrange", "SIlist", "qtylist", "qtyproduct"), "omm"),
    "unit": "om",
    **dict.fromkeys(("unitfrac", "nicefrac", "sfrac", "slantfrac", "case"), "omm"),
    **dict.fromkeys(("textsuperscript", "textsubscript"), "m"),
    "DeclareSIUnit": "omm",
    "isotope": "oom",
    "newunit": "mm",
    **dict.fromkeys(("DeclareSIPrefix", "DeclareBinaryPrefix", "DeclareSIPower"), "mmm"),
    "DeclareSIQualifier": "mm",
}
_PART = re.compile(
    r"\\(?P<word>[a-zA-Z]+)(?:\s*\{(?P<of>[^{}]{0,40})\})?|\^\s{0,3}\{?\s{0,3}(?P<power>[-+−]?\d{1,2}(?:[./]\d{1,2})?)\}?"
    r"|_\s?(?:\{(?P<below>[^{}]{0,30})\}|(?P<letter>\\[a-zA-Z]+|\w))|(?P<plain>[^\\\s{}^.~_,;]+)"
)
_MAX_UNIT, _MAX_PARTS = 2_000, 60
_POWERS = {"squared": "2", "cubed": "3"}
_BEFORE = {"square": "2", "cubic": "3"}
_MATHS = frozenset(
    "odot oplus mu Omega omega circ prime lambda alpha beta gamma sigma tau nu star earth sun bigodot bullet ell hbar chi phi pi".split()
)
_TIGHT = ("°", "%", "'", '"')
_SIGNED = re.compile(r"\s*([-+\u2212\u2013]{1,2}|\\textminus\s?|\\pm\s?)?\s*(\d{0,9}(?:[.,/]\d{1,9})?)\s*")
_EXPONENT = re.compile(r"(.*?[\d.)]|)\s*[eEdD]\s?([+-]?\d{1,4})")


@dataclass
class Units:
    """The units that a paper declares, and what each command shows; `macros` says what an author's macro without arguments stands for."""

    macro: Callable[[str], str | None] = lambda name: None
    own: dict[str, str] = field(default_factory=dict)
    prefixes: dict[str, str] = field(default_factory=dict)
    powers: dict[str, str] = field(default_factory=dict)

    def shown(self, command: str, given: list[str], around: tuple[str, str]) -> str | None:
        """LaTeX for one command, given its options and arguments and the characters beside it; None to leave the command as it is."""
        if command.startswith(("Declare", "newunit")):
            return self._declare(command, given)
        if command in ("textsuperscript", "textsubscript"):
            return script(command, given[0], around)
        if command in ("nicefrac", "sfrac", "slantfrac", "case"):
            mixed = " " if around[0].isdecimal() else ""
            return rf"\ifmmode\frac{{{given[1]}}}{{{given[2]}}}\else {mixed}{given[1].strip()}/{given[2].strip()}\fi"
        if command == "isotope":
            return (rf"\ensuremath{{^{{{given[0]}}}}}" if given[0] else "") + given[2]
        if command == "ang":
            return _angle(given[1])
        if command == "num":
            return number(given[1])
        if command == "numrange":
            return _range(given[1], given[2])
        if command in ("numlist", "numproduct"):
            return _list(given[1]) if command == "numlist" else number(given[1])
        if command == "unitfrac":
            return self._fraction(*given)
        if command in ("si", "unit"):
            value, unit = (given[0], given[1]) if command == "unit" and "=" not in given[0] else ("", given[1])
            return self._quantity(number(value) if value.strip() else "", unit)
        if command in ("SIlist", "qtylist"):
            return self._quantity(_list(given[1]), given[2])
        if command in ("SIrange", "qtyrange"):
            return self._quantity(_range(given[1], given[2]), given[4])
        return self._quantity(number(given[1]), given[-1])

    def _declare(self, command: str, given: list[str]) -> str | None:
        name = given[-2].strip().lstrip("\\") if command in ("DeclareSIUnit", "newunit") else given[0].strip().lstrip("\\")
        if command == "newunit" and not given[0].strip().startswith("\\"):
            return None
        if command in ("DeclareSIPrefix", "DeclareBinaryPrefix"):
            self.prefixes[name] = given[1]
        elif command == "DeclareSIPower":
            self.powers[name], self.powers[given[1].strip().lstrip("\\")] = "<" + given[2], given[2]
        elif command != "DeclareSIQualifier":
            self.own[name] = given[-1]
        return ""

    def _quantity(self, value: str, unit: str) -> str:
        words, formula = self._both(unit)
        if not value or not words:
            return value or rf"\ifmmode {formula}\else {words}\fi"
        tight = words.replace("\\%", "%") in _TIGHT or words[0] in "'\""
        return rf"{value}\ifmmode {formula}\else {'' if tight else chr(92) + ' '}{words}\fi"

    def _fraction(self, value: str, above: str, below: str) -> str:
        (upper, over), (lower, under) = self._both(above), self._both(below)
        bare = over.removeprefix(r"\,"), under.removeprefix(r"\,")
        start, space = (number(value), r"\ ") if value.strip() else ("", "")
        return rf"{start}\ifmmode \,{bare[0]}/{bare[1]}\else {space}{upper}/{lower}\fi"

    def _both(self, unit: str) -> tuple[str, str]:
        """A unit as words and as mathematics."""
        parts = self.parts(unit)
        words = " ".join(_word(name, power) for name, power in parts)
        formula = r"\,".join(_symbol(name) + (f"^{{{power}}}" if power else "") for name, power in parts)
        return words, {"°": r"^\circ", r"\%": r"\%"}.get(words) or (rf"\,\mathrm{{{formula}}}" if formula else "")

    def parts(self, text: str, depth: int = 0) -> list[tuple[str, str]]:
        r"""`\kilo\metre\per\second` → [("km", ""), ("s", "-1")]."""
        shown: list[tuple[str, str]] = []
        prefix, per, next_power = "", False, ""
        for part in _PART.finditer(_unwrapped(text[:_MAX_UNIT])):
            if len(shown) > _MAX_PARTS:  # a macro that multiplies
                break
            word, power = part["word"], part["power"]
            after = self.powers.get(word, _POWERS.get(word, "")) if word else ""
            if word in ("tothe", "raiseto"):
                power, next_power = (part["of"], next_power) if word == "tothe" else ("", part["of"] or "")
            if after.startswith("<"):
                next_power = after[1:]
            elif power or after:
                if shown:
                    shown[-1] = (shown[-1][0], _signed(power or after, shown[-1][1].startswith("-")))
            elif part["below"] is not None or part["letter"] or word == "of":
                if shown:
                    below = part["below"] if part["below"] is not None else part["letter"] or part["of"] or ""
                    shown[-1] = (
                        f"{shown[-1][0]}_{{{below}}}" if len(below) > 1 and below[0] != "\\" else f"{shown[-1][0]}_{below}",
                        shown[-1][1],
                    )
            elif word == "per":
                per = True
            elif word == "mu":
                prefix = "µ"
            elif word in _BEFORE:
                next_power = _BEFORE[word]
            elif word in ("raiseto", "cdot", "times", "quad", "space", "cancel", "highlight"):
                continue
            else:
                body = self._meant(word) if word else None
                if body is not None and depth < 5:
                    several = self.parts(body, depth + 1)[:_MAX_PARTS]
                elif word and (word in self.prefixes or word in UNIT_PREFIXES and word not in UNITS):
                    prefix = self.prefixes.get(word) or UNIT_PREFIXES[word]
                    continue
                else:
                    several = [(f"\\{word}" if word in _MATHS else UNITS.get(word, word) if word else part["plain"], "")]
                for i, (name, own) in enumerate(several):
                    raised = (
                        own if not next_power else str(int(own or "1") * int(next_power)) if own.lstrip("-").isdecimal() or not own else own
                    )
                    shown.append((prefix + name if i == 0 else name, _signed(raised or "1", per) if per else raised))
                prefix, per, next_power = "", False, ""
        return shown

    def _meant(self, word: str) -> str | None:
        """What a unit macro of the paper's own stands for."""
        return self.own.get(word) if word in self.own else self.macro(word)


def _unwrapped(text: str) -> str:
    text = re.sub(
        r"\\(?:text|mathrm|mbox|hbox|textrm|ensuremath|mathit|operatorname)\s*\{((?:[^{}]|\{[^{}]{0,60}\}){0,200})\}", r"\1", text
    )
    return re.sub(r"\\(?:rm|mathrm|[,;:! ])(?![a-zA-Z])|\$", " ", text)


def _signed(power: str, inverse: bool) -> str:
    power = power.replace("−", "-").lstrip("+")
    if not inverse:
        return power
    return f"-{power}" if power[:1] != "-" else power[1:] if power != "-1" else ""


def _symbol(name: str) -> str:
    return name.replace("%", r"\%").replace("°", r"^\circ")


def _word(name: str, power: str) -> str:
    if re.search(r"[\\_]", name):
        return rf"\ensuremath{{\mathrm{{{_symbol(name)}}}{f'^{{{power}}}' if power else ''}}}"
    return name.replace("%", r"\%") + (f"$^{{{power}}}$" if power else "")


def _angle(text: str) -> str:
    marks = (r"\ensuremath{^\circ}", "'", '"')
    return "".join(f"{number(value)}{mark}" for value, mark in zip(text.split(";"), marks) if value.strip())


def _range(first: str, last: str) -> str:
    return rf"{number(first)}\ifmmode -\else\space to \fi {number(last)}"


def _list(text: str) -> str:
    values = [number(value) for value in text.split(";") if value.strip()]
    if len(values) < 2:
        return "".join(values)
    return rf"\ifmmode {', '.join(values)}\else {', '.join(values[:-1])} and {values[-1]}\fi"


def number(text: str) -> str:
    r"""`1.5e6` → `\ensuremath{1.5 \times 10^{6}}`; other numbers as they stand."""
    text = re.sub(r"(?<![\d.])\.(?=\d)", "0.", text.strip().replace("+-", r"\pm "))
    text = re.sub(r"(?<=[\d)])\s*x\s*(?=[-+\d.])", r" \\times ", text)
    power = _EXPONENT.fullmatch(text)
    if power:
        value = power[1].strip()
        value = f"({value})" if r"\pm" in value else value
        mantissa = rf"{value} \times " if value else ""
        return rf"\ensuremath{{{mantissa}10^{{{power[2].lstrip('+')}}}}}"
    return rf"\ensuremath{{{text}}}" if re.search(r"\\(?:pm|times|sim|approx|l[et]q?|g[et]q?|ll|gg|pi|sqrt)(?![a-zA-Z])", text) else text


def script(command: str, text: str, around: tuple[str, str]) -> str | None:
    r"""A raised or lowered number as mathematics, for `10\textsuperscript{-3}` is no 10-3; letters raised (5th) stay as they are."""
    inside = text.strip().replace("$", "")
    found = _SIGNED.fullmatch(inside)
    signed = found is not None and bool(found[1] or found[2])
    if command == "textsubscript":
        return rf"\ensuremath{{_{{{inside}}}}}" if signed else rf"\ensuremath{{_{{\rm {inside}}}}}" if inside.isalnum() else None
    if not signed:
        return None
    if not found[1] and not (around[0].isalnum() or around[0] in ")]}$" or around[1].isalpha()):
        return None  # a mark before an address
    sign = (found[1] or "").strip()
    sign = "-" if sign in ("--", "\u2212", "\u2013", "\\textminus") else sign
    return rf"\ensuremath{{^{{{sign}{found[2]}}}}}"
