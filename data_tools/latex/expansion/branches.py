r"""What a condition does: one branch is read on, the others are passed over, whichever way they are written.

`\if… \else … \fi` and `\ifthenelse{..}{..}{..}` alike. A branch not taken is passed over as TeX does it, without
replacing macros, over the edges of replacements and not over a file's. `\ifmmode` stays: formulas.py knows the mode.
"""

import re

from data_tools.latex.expansion.conditions import BRANCHED, ONE_BRANCH, PRIMITIVES, Conditions
from data_tools.latex.expansion.stream import AFTER_WORD, Stream
from data_tools.latex.limits import Deadline

_CONDITION = re.compile(
    r"\\\\|\\newif\s{0,9}\\if[a-zA-Z@]+|\\let\s{0,9}\\if[a-zA-Z@]+\s{0,9}=?\s{0,9}\\[a-zA-Z@]+|\\(if[a-zA-Z@]*|else|fi|or)(?![a-zA-Z@])"
)
_ASSIGNMENT = re.compile(r"[ \t]*=?[ \t]*(-?\d{1,9})[ \t]?")


class Branches:
    """The conditions that stand open in a stream."""

    def __init__(self, stream: Stream, conditions: Conditions, deadline: Deadline) -> None:
        self._stream, self._conditions, self._deadline = stream, conditions, deadline

    def unless(self, _: str) -> bool:
        r"""`\unless\if…`"""
        top = self._stream.here()
        found = re.compile(r"\s*\\(if[a-zA-Z@]*)").match(top.text, top.at)
        if found is None:
            return False
        top.at = found.end()
        return self.condition(found[1], turned=True)

    def condition(self, name: str, turned: bool = False) -> bool:
        r"""Act on an `\if…` that ends in `\fi`; False where it is none, or is left for later."""
        if name == "ifmmode":
            self._stream.open.append(False)
            return False
        top = self._stream.here()
        if name not in PRIMITIVES and name[2:] not in self._conditions.switches:
            closing = self._closing(("fi",))
            if closing is None or top.text.startswith("{", top.at):
                return False
        top.at = AFTER_WORD.match(top.text, top.at).end()
        kept, self._stream.testing = self._stream.testing, len(self._stream.open)
        found = self._conditions.primitive(name)
        self._stream.testing = kept
        if name == "ifcase":
            self._stream.open.append(True)
            for _ in range(max(0, int(found)) if int(found) >= 0 else 10_000):
                if self._skip(("or", "else", "fi")) != "or":
                    break
            return True
        self._stream.open.append(True)
        if bool(found) is turned:
            self._skip(("else", "fi"))
        self._gobble()
        return True

    def end_condition(self, name: str) -> bool:
        r"""Act on `\else`, `\or` and `\fi`; False where they belong to a condition that is left for later."""
        ours = bool(self._stream.open) and self._stream.open[-1]
        if name == "fi":
            if self._stream.open:
                self._stream.open.pop()
        elif ours:
            self._skip(("fi",))
        return ours

    def _gobble(self) -> None:
        top = self._stream.here()
        top.at = AFTER_WORD.match(top.text, top.at).end()

    def _skip(self, until: tuple[str, ...]) -> str:
        """Pass over text up to the \\else, \\or or \\fi of the open condition, and say which; to where it is, if there is none."""
        found = self._closing(until)
        if found is None:
            self._stream.open.pop()
            return ""
        which, depth, at = found
        del self._stream.stack[depth + 1 :]
        self._stream.stack[depth].at = at
        if which == "fi":
            self._stream.open.pop()
        self._stream.met = True
        return which

    def _closing(self, until: tuple[str, ...]) -> tuple[str, int, int] | None:
        """Where the open condition's branch ends: which command, the place in the stack, the place in its text."""
        return self._search(until, all_count=True) or self._search(until, all_count=False)

    def _search(self, until: tuple[str, ...], all_count: bool) -> tuple[str, int, int] | None:
        nested = 0
        for depth in range(len(self._stream.stack) - 1, -1, -1):
            pending = self._stream.stack[depth]
            if pending.last_fi() >= pending.at:
                for token in _CONDITION.finditer(pending.text, pending.at):
                    self._deadline.check(every=512)
                    word = token[1]
                    if word is None:
                        continue
                    if word[0] == "i":
                        nested += self._is_condition(word, all_count)
                    elif nested == 0 and word in until:
                        return word, depth, token.end()
                    elif word == "fi":
                        nested -= 1
            if pending.file:
                return None
        return None

    def _is_condition(self, word: str, all_count: bool) -> bool:
        if word in PRIMITIVES or word[2:] in self._conditions.switches:
            return True
        return all_count and word not in ("iff", *BRANCHED) and word not in self._stream.macros

    def choose(self, name: str) -> bool:
        """A condition that takes its branches as arguments."""
        arguments: list[str] = []
        if name not in ONE_BRANCH and BRANCHED[name] == 0 and not self._stream.here().text.startswith("{", self._stream.here().at):
            return self.condition(name)  # a switch of the author's by that name
        tested = 1 if name in ONE_BRANCH else BRANCHED[name]
        while len(arguments) < tested + (1 if name in ONE_BRANCH else 2):
            value = self._stream.argument()
            if value is None:
                self._stream.push("".join(f"{{{v}}}" for v in arguments))
                return False
            arguments.append(value)
        if name == "InputIfFileExists" and self._conditions.has_file(self._stream.flat(arguments[0])):
            self._stream.push(arguments[1] + rf"\input{{{arguments[0]}}}")
            return True
        found = self._conditions.branched(name, arguments[:tested])
        if name in ONE_BRANCH:
            self._stream.push(arguments[1] if found is ONE_BRANCH[name] else "")
        else:
            self._stream.push(arguments[tested] if found else arguments[tested + 1])
        return True

    def new_if(self, _: str) -> bool:
        r"""`\newif\ifx`: a switch that is off."""
        top = self._stream.here()
        found = re.compile(r"\s*\\if([a-zA-Z@]+)").match(top.text, top.at)
        if found:
            top.at = found.end()
            self._conditions.switches[found[1]] = False
        return found is not None

    def next_is(self, name: str) -> bool:
        r"""`\@ifnextchar[{..}{..}`, `\@ifstar{..}{..}`"""
        wanted = "*" if name == "@ifstar" else self._stream.token()
        found, other = self._stream.argument(), self._stream.argument()
        top = self._stream.here()
        at = AFTER_WORD.match(top.text, top.at).end()
        same = top.text.startswith("{" if wanted == r"\bgroup" else wanted or "\0", at)
        if same and name == "@ifstar":
            top.at = at + 1
        self._stream.push((found if same else other) or "")
        return True

    def count(self, name: str) -> bool:
        r"""Follow `\setcounter{x}{1}` and its kin, which stay in the text."""
        top = self._stream.here()
        self._conditions.values.follow(name, top.text, top.at)
        return False

    def new_count(self, _: str) -> bool:
        r"""`\newcount\x`"""
        top = self._stream.here()
        found = re.compile(r"\s*\\([a-zA-Z@]+)").match(top.text, top.at)
        if found:
            top.at = found.end()
            self._conditions.values.registers[found[1]] = 0
        return found is not None

    def assign(self, name: str) -> bool:
        r"""`\x=1`, for a register that the author declared."""
        top = self._stream.here()
        found = _ASSIGNMENT.match(top.text, top.at)
        if found:
            top.at = found.end()
            self._conditions.values.registers[name] = int(found[1])
        return found is not None

    def constant(self, _: str) -> bool:
        r"""`\chardef\x=1`"""
        top = self._stream.here()
        found = re.compile(r"\s*\\([a-zA-Z@]+)\s*=?").match(top.text, top.at)
        if found:
            top.at = found.end()
            self._conditions.values.registers[found[1]] = self._conditions.values.number()
        return found is not None
