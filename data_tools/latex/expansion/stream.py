r"""The texts that wait to be read, as TeX reads them: token by token, across the edges of files and replacements.

What meets at an edge meets as tokens: `\noindent` before a file that begins "The" stays a command and a word. One pass
over a stack, never recursive in Python beyond MAX_FLAT; calls, depth and size are bounded, so `\def\a{\a\a}` ends in
a PaperError.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from data_tools.latex.limits import MAX_MACRO_CALLS, MAX_MACRO_DEPTH, MAX_PAPER_CHARS, Deadline, PaperError
from data_tools.latex.macros import NO_VALUE, SPACE, TOKEN, Macro, apart, bracket, fill, group, same_line

MAX_FLAT = 12
AFTER_WORD = re.compile(r"[ \t]*(?:\n(?![ \t]*\n)[ \t]*)?")
_BLANK = re.compile(r"[ \t]*")


@dataclass(slots=True, eq=False)
class Pending:
    """A text that is being read, and the place in it."""

    text: str
    at: int = 0
    file: str = ""  # whose text it is; empty for a replacement
    fi: int = -2  # where its last \fi stands, once it was looked for
    defined: int = 0  # where its last definition ends
    looked: int = 0  # how far its braces were looked at
    braces: list[int] = field(default_factory=list)  # where those open that are open there

    def last_fi(self) -> int:
        """Where its last \\fi stands."""
        if self.fi == -2:
            self.fi = self.text.rfind(r"\fi")
        return self.fi


class Stream:
    """The pending texts, the macros that are replaced in them, and what was put out."""

    def __init__(self, text: str, file: str, deadline: Deadline) -> None:
        self.stack = [Pending(text, file=file)]
        self.macros: dict[str, Macro] = {}
        self.handle: Callable[[str], bool] = lambda name: False  # acts on a command; False leaves it as it stands
        self.decide: Callable[[str], bool] = lambda name: False  # acts on an \if
        self.open: list[bool] = []  # one an open \if: is it ours, so that \else and \fi are to go
        self.testing = 1 << 30  # how many conditions stood open when the test began that is being read
        self.last = ""  # the macro called last
        self.loops = False  # whether that is what never ended
        self.met = False  # what comes next was not beside what was put last
        self._deadline = deadline
        self._out: list[str] = []
        self._calls = self._flat = 0
        self._room = MAX_PAPER_CHARS
        self._took: tuple[Pending, int] | None = None  # where the last token was taken

    def here(self) -> Pending:
        """The text that what comes next stands in."""
        while len(self.stack) > 1 and self.stack[-1].at >= len(self.stack[-1].text) and not self.stack[-1].file:
            self.stack.pop()
            self.met = True
        return self.stack[-1]

    def run(self) -> str:
        """What comes of all that is pending."""
        while self.stack:
            top = self.stack[-1]
            token = TOKEN.search(top.text, top.at)
            if token is None:
                self.put(top.text[top.at :])
                self.stack.pop()
                self.met = True
                continue
            self._deadline.check(every=1024)
            if token.start() > top.at:
                self.put(top.text[top.at : token.start()])
            top.at = token.end()
            name = token[1] or token[2]
            if self.handle(name):
                self.met = True
            else:
                self.put_command(token[0])
        return "".join(self._out)

    def put(self, piece: str) -> None:
        """Put out a text, its tokens kept apart from those before."""
        if not piece:
            return
        if self.met and self._out:
            self.met = False
            last = self._out[-1]
            piece = apart(last, piece) + piece
            if piece[0] == "[" and (last == r"\item" or last == r"\\"):
                piece = "{}" + piece
            else:
                piece = same_line(self._out, piece)
        self._out.append(piece)

    def put_command(self, token: str) -> None:
        """Put out a command as it stands."""
        self._out.append(token)
        self.met = False

    def token(self) -> str | None:
        """The next token, a character or `\\name`; None at the end of all."""
        while self.stack:
            top = self.stack[-1]
            if top.at >= len(top.text):
                if len(self.stack) == 1:
                    return None
                self.stack.pop()
                self.met = True
                continue
            at = top.at
            if top.text[at] != "\\":
                self._took = top, at
                top.at += 1
                if top.text[top.at - 1] in " \t\n":
                    top.at = _BLANK.match(top.text, top.at).end()
                    return " "
                return top.text[top.at - 1]
            found = TOKEN.match(top.text, at)
            if found is None:
                top.at = len(top.text)
                return "\\"
            self._took = top, at
            top.at = AFTER_WORD.match(top.text, found.end()).end() if found[1] else found.end()
            return found[0]
        return None

    def expanded(self) -> str | None:
        """The next token that is no macro and no condition."""
        for _ in range(1000):
            token = self.token()
            if token is None or token[0] != "\\" or len(token) == 1:
                return token
            name = token[1:]
            macro = self.macros.get(name)
            if macro is not None and not macro.stop:
                self.last = name
                if self.call(macro):
                    continue
                return token
            if macro is not None and re.fullmatch(r"\\[a-zA-Z@]+|.", macro.body):
                return macro.body
            if name in ("fi", "else", "or"):
                if len(self.open) > self.testing and self.handle(name):
                    continue
                self.unread(token)
                return r"\relax"
            if name in ("the", "number", "expandafter", "noexpand", "string", "protect", "arabic"):
                continue
            if name == "detokenize" or name == "unexpanded":
                self.unread((self.argument() or "").replace("\\", ""))
                continue
            if name == "csname":
                self.by_name(name)
                continue
            if name in ("pdfstrcmp", "strcmp"):
                first, second = self.flat(self.argument() or ""), self.flat(self.argument() or "")
                self.unread(str((first > second) - (first < second)))
                continue
            if name[:2] == "if" and name != "ifmmode" and self.decide(name):
                continue
            return token
        self.loops = True
        raise PaperError("endless macros", f"\\{self.last[:40]} never ends in a condition")

    def unread(self, text: str) -> None:
        """Put a text, a token taken last or another, before what comes next."""
        if not text:
            self._took = None
            return
        if self._took and self.stack and self._took[0] is self.stack[-1] and self.stack[-1].text.startswith(text, self._took[1]):
            self.stack[-1].at = self._took[1]
        else:
            self.push(text)
        self._took = None

    def argument(self, braced: bool = False) -> str | None:
        """The next group's inside or token; None, and nothing taken, where there is none."""
        while self.stack:
            top = self.stack[-1]
            text, at = top.text, SPACE.match(top.text, top.at).end()
            if at < len(text):
                break
            if len(self.stack) == 1:
                return None
            self.stack.pop()
            self.met = True
        else:
            return None
        if text[at] == "{":
            found = group(text, at, self._deadline)
            if found is None:
                return None
            top.at = found[1]
            return found[0]
        if braced or text[at] in "}\n":
            return None
        token = TOKEN.match(text, at)
        top.at = token.end() if token else at + 1
        return token[0] if token else text[at]

    def optional(self, default: str) -> str:
        """The inside of the [optional argument] that comes next, or the default."""
        top = self.here()
        at = SPACE.match(top.text, top.at).end()
        if at < len(top.text) and top.text[at] == "[":
            found = bracket(top.text, at)
            if found:
                top.at = found[1]
                return found[0]
        return default

    def flat(self, text: str) -> str:
        """A short text carried out by itself."""
        if "\\" not in text:
            return text
        if self._flat >= MAX_FLAT:
            raise PaperError("nested too deeply", f"conditions and names more than {MAX_FLAT} deep in each other at \\{self.last[:40]}")
        kept = self.stack, self._out, self.met, self.open
        self.stack, self._out, self.met, self.open = [Pending(text)], [], False, []
        self._flat += 1
        try:
            return self.run()
        finally:
            self.stack, self._out, self.met, self.open = kept
            self._flat -= 1

    # -- uses

    def call(self, macro: Macro) -> bool:
        """Replace a macro and its arguments; False, and nothing taken, where an argument is not there."""
        if macro.stop:
            self.met = True
            self.put(macro.body)
            return True
        top = self.here()
        at = top.at
        values: list[str] = []
        for kind in macro.kinds:
            value = self._value(kind)
            if value is None:
                if top in self.stack:
                    del self.stack[self.stack.index(top) + 1 :]
                    top.at = at
                elif values:
                    self.push("".join(f"{{{v}}}" for v in values))
                return False
            if kind[0] != "d":
                values.append(value)
        self.push(fill(macro.body, values))
        return True

    def _value(self, kind: str) -> str | None:
        if kind in ("m", "b"):
            return self.argument(braced=kind == "b")
        if kind == "x":
            return None
        top = self.here()
        if kind[0] == "d":
            found = top.text.startswith(kind[1:], top.at)
            top.at += len(kind) - 1 if found else 0
            return "" if found else None
        if kind[0] == "u":
            return self._up_to(top, kind[1:])
        if kind == "s":
            starred = top.text.startswith("*", top.at)
            top.at += starred
            return r"\BooleanTrue" if starred else r"\BooleanFalse"
        return self.optional(NO_VALUE if kind == "o" else kind[1:])

    def _up_to(self, top: Pending, delimiter: str) -> str | None:
        """All before a delimiter that stands in no group."""
        at = top.at
        for _ in range(200):
            end = top.text.find(delimiter, at, at + 3000)
            brace = top.text.find("{", at, end) if end >= 0 else -1
            if end < 0:
                return None
            if brace < 0:
                value, top.at = top.text[top.at : end], end + len(delimiter)
                whole = group(value, 0, self._deadline) if value.startswith("{") else None
                return whole[0] if whole and whole[1] == len(value) else value
            found = group(top.text, brace, self._deadline)
            if found is None:
                return None
            at = found[1]
        return None

    def push(self, body: str, file: str = "") -> None:
        """Let a text, of a file or not, be read next."""
        self._calls += 1
        self._room -= len(body)
        if len(self.stack) > MAX_MACRO_DEPTH or self._calls > MAX_MACRO_CALLS or self._room < 0:
            self.loops = True
            raise PaperError(
                "endless macros", f"\\{self.last[:40]} calls itself, or macros go beyond {MAX_MACRO_CALLS} calls, {MAX_MACRO_DEPTH} deep"
            )
        if body or file:
            self.stack.append(Pending(body, file=file))

    def by_name(self, _: str) -> bool:
        r"""`\csname x\endcsname`"""
        top = self.here()
        end = top.text.find(r"\endcsname", top.at, top.at + 300)
        if end < 0:
            return False
        name, top.at = self.flat(top.text[top.at : end]).strip(), end + len(r"\endcsname")
        if name in self.macros or re.fullmatch("[a-zA-Z]+", name):
            self.push(rf"\{name}" if name.isalpha() else self.macros[name].body)
        return True
