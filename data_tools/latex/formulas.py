r"""Mathematics out of the way: every formula becomes one mark in the text, its TeX waits in a list.

`a $x^2$ b` → `a <0> b` with `["$x^2$"]`, where `<` and `>` are two private characters. So no later stage can harm
a formula. Display environments become `$$...$$`; `\ensuremath` and `\ifmmode` are settled here, where the mode is known.
A `$` that never closes within its paragraph is dropped, and what followed it stays text.
"""

import re

from data_tools.latex.limits import MAX_BRACE_DEPTH, MAX_FORMULAS, Deadline, PaperError
from data_tools.latex.macros import apart
from data_tools.latex.names import MATH_ENVIRONMENTS

OPEN, CLOSE = "\ue000", "\ue001"
_MARKS = re.compile(f"(?:{OPEN}\\d+{CLOSE})+")
_INDEX = re.compile(r"\d+")
_TOKEN = re.compile(r"\\(begin|end)\s{0,9}\{([a-zA-Z]{1,40})(\*?)\}|\\([a-zA-Z@]*[a-zA-Z])|\\(.)|(\$\$?)|([{}])|(\n[ \t]*\n)", re.S)
_BRANCH = re.compile(r"\\(if[a-zA-Z]+|else|fi)(?![a-zA-Z])")
_TEXT_BOX = frozenset(("mbox", "text", "hbox", "textrm", "textnormal", "intertext", "textit", "textbf", "textsf", "texttt", "textsc"))
_STOP = frozenset(("section", "subsection", "subsubsection", "chapter", "maketitle", "caption", "bibliography"))
_ONE_ROW = frozenset(("equation", "displaymath", "math", "dmath", "mathletters"))
_NOISE = re.compile(
    r"\\(?:label|tag)\*?\s*\{[^{}]{0,200}\}|\\(?:nonumber|notag|displaystyle|protect|leavevmode|allowbreak|xspace|relax)(?![a-zA-Z])|\\@[a-zA-Z]{0,20}(?![a-zA-Z])"
)
_ONLY_SPACE = re.compile(r"(?:\{\}|\\[,;:! ]|\\q?quad|~|\s)+")
_NESTED = re.compile(r"\\(?:[mh]box|text)\s*\{\s*\\\(([^${}]{1,200}?)\\\)\s*\}")
_COLOR = re.compile(r"\\color\s*(?:\[[^\]]{0,40}\])?\{[^{}]{0,60}\}")


def protect(text: str, deadline: Deadline) -> tuple[str, list[str]]:
    """The text with a mark for each formula, and the formulas."""
    return _Protector(text, deadline).run()


def restore(text: str, formulas: list[str]) -> str:
    """The text with its formulas back."""

    def show(run: re.Match[str]) -> str:
        shown = [formulas[int(i)] for i in _INDEX.findall(run[0])]
        if any(formula.startswith("$$") for formula in shown):
            return " ".join(shown)
        return f"${' '.join(formula[1:-1] for formula in shown)}$"  # `$a$$b$` would read as a display

    return _MARKS.sub(show, text)


class _Protector:
    def __init__(self, text: str, deadline: Deadline) -> None:
        self._text = text
        self._deadline = deadline
        self._out: list[str] = []
        self._formula: list[str] = []
        self._formulas: list[str] = []
        self._modes: list[tuple[str, str, int]] = [("text", "", 0)]  # (mode, what opened it, brace depth there)
        self._depth = 0
        self._box_next = False
        self._branches = 0

    def run(self) -> tuple[str, list[str]]:
        at = 0
        while token := _TOKEN.search(self._text, at):
            self._deadline.check(every=2048)
            self._put(self._text[at : token.start()])
            at = self._handle(token)
        self._put(self._text[at:])
        if len(self._modes) > 1:
            self._abandon()
        return "".join(self._out), self._formulas

    def _put(self, piece: str) -> None:
        if piece:
            out = self._out if len(self._modes) == 1 else self._formula
            # what stood between a command and this may be gone: `\alpha\ifmmode x` is no \alphax
            out.append(apart(out[-1], piece) + piece if out and piece[0].isalpha() else piece)

    def _handle(self, token: re.Match[str]) -> int:
        """Deal with one token and say where to go on."""
        edge, environment, _, word, symbol, dollar, brace, blank = token.groups()
        boxed, self._box_next = self._box_next, False
        if edge:
            self._environment(token)
        elif word:
            return self._word(word, token)
        elif symbol:
            self._symbol(symbol, token[0])
        elif dollar:
            self._dollar(dollar)
        elif brace == "{":
            self._depth += 1
            if self._depth > MAX_BRACE_DEPTH:
                raise PaperError("nested too deeply", f"more than {MAX_BRACE_DEPTH} braces open at once")
            self._put("{")
            if boxed and self._modes[-1][0] == "math":
                self._modes.append(("text", "{", self._depth))
        elif brace:
            self._close_brace()
        elif blank:
            if self._modes[-1][1] in ("$", r"\("):
                self._abandon()
            self._put(blank if len(self._modes) == 1 else " ")
        return token.end()

    def _environment(self, token: re.Match[str]) -> None:
        edge, environment = token[1], token[2]
        if environment in MATH_ENVIRONMENTS:
            if edge == "begin" and len(self._modes) == 1:
                self._open("math", environment)
                return
            if edge == "end" and environment in [opener for _, opener, _ in self._modes]:
                while self._modes[-1][1] != environment:
                    self._modes.pop()
                self._close(environment)
                return
            if len(self._modes) == 1:
                return
        elif environment.startswith(("figure", "table", "itemize", "enumerate", "abstract", "deluxetable")) and len(self._modes) > 1:
            self._abandon()
        self._put(token[0])

    def _word(self, word: str, token: re.Match[str]) -> int:
        mode = self._modes[-1][0]
        if word == "ensuremath":
            brace = re.compile(r"\s*\{").match(self._text, token.end())
            if brace is None:
                return self._one_token(token.end()) if mode == "text" else token.end()
            if mode == "text":
                self._depth += 1
                self._open("math", "ensuremath")
                return brace.end()
            return token.end()
        if word == "ifmmode":
            if mode == "math":
                self._branches += 1
                return self._after_space(token.end())
            return self._branch(token.end(), ("else", "fi"))
        if word in ("else", "fi") and self._branches:
            self._branches -= word == "fi"
            if word == "else":
                self._branches -= 1
                return self._branch(token.end(), ("fi",))
            return token.end()
        if word in _STOP and len(self._modes) > 1:
            self._abandon()
        self._box_next = word in _TEXT_BOX
        self._put(token[0])
        return token.end()

    def _one_token(self, at: int) -> int:
        r"""`\ensuremath\alpha`, without a group: the place after what it makes a formula."""
        found = re.compile(r"\s*(\\[a-zA-Z]+|[^\s\\$}])").match(self._text, at)
        if found is None:
            return at
        self._open("math", "ensuremath")
        self._put(found[1])
        self._close("ensuremath")
        return found.end()

    def _branch(self, at: int, until: tuple[str, ...]) -> int:
        """The place after the \\else or \\fi that ends a branch not taken."""
        depth = 0
        for token in _BRANCH.finditer(self._text, at, min(len(self._text), at + 4000)):
            if token[1].startswith("if"):
                depth += token[1] != "iff"
            elif depth == 0 and token[1] in until:
                if token[1] == "else":
                    self._branches += 1
                    return self._after_space(token.end())
                return token.end()
            elif token[1] == "fi":
                depth -= 1
        return at

    def _after_space(self, at: int) -> int:
        return at + self._text.startswith(" ", at)

    def _symbol(self, symbol: str, token: str) -> None:
        mode, opener, _ = self._modes[-1]
        if symbol in "([" and mode == "text":
            self._open("math", "\\" + symbol)
        elif symbol == ")" and opener == r"\(" or symbol == "]" and opener == r"\[":
            self._close(opener)
        else:
            self._put(token)

    def _dollar(self, dollar: str) -> None:
        mode, opener, _ = self._modes[-1]
        if opener == dollar and mode == "math":
            self._close(opener)
        elif opener == "$" and dollar == "$$":  # `$a$$b$`: one ends, the next begins
            self._close("$")
            self._open("math", "$")
        elif mode == "text" and (dollar == "$" or len(self._modes) == 1):
            self._open("math", dollar)
        # a $ inside another kind of mathematics is an author's slip: dropped

    def _open(self, mode: str, opener: str) -> None:
        if len(self._modes) > 1 and opener == "$":
            self._put(r"\(")  # a formula in a text box in a formula: no $ inside a $
        elif len(self._modes) > 1 and opener == "ensuremath":
            self._put(r"\({")
        self._modes.append((mode, opener, self._depth))

    def _close(self, opener: str) -> None:
        self._depth = self._modes.pop()[2]
        if len(self._modes) > 1:
            self._put(r"\)" if opener == "$" else "")
            return
        tex = tidy("".join(self._formula))
        self._formula.clear()
        if not tex or _ONLY_SPACE.fullmatch(tex):
            self._put(" " if tex.strip("{}") else "{}")
            return
        if opener in ("$", r"\(", "ensuremath", "math"):
            shown = f"${tex}$"
        elif opener in ("$$", r"\[") or opener in _ONE_ROW:
            shown = f"$$ {tex} $$"
        else:
            tex = re.sub(r"^\{[0-9]\}\s*", "", tex)  # alignat's column count
            shown = rf"$$ \begin{{{opener}}} {tex} \end{{{opener}}} $$"
        if len(self._formulas) == MAX_FORMULAS:
            raise PaperError("too many formulas", f"more than {MAX_FORMULAS} outside tables")
        display = shown.startswith("$$")
        self._out.append(f"{' ' if display else ''}{OPEN}{len(self._formulas)}{CLOSE}{' ' if display else ''}")
        self._formulas.append(shown)

    def _close_brace(self) -> None:
        mode, opener, depth = self._modes[-1]
        if opener == "ensuremath" and self._depth == depth:
            self._close("ensuremath")
            if len(self._modes) > 1:
                self._put(r"}\)")
            self._depth -= 1
            return
        if opener == "{" and self._depth == depth:
            self._modes.pop()
        elif len(self._modes) > 1 and self._depth <= self._modes[1][2]:
            self._abandon()  # a brace from before the formula closes: it was never one
        self._depth = max(0, self._depth - 1)
        self._put("}")

    def _abandon(self) -> None:
        self._depth = self._modes[1][2]
        del self._modes[1:]
        self._out.append("".join(self._formula))
        self._formula.clear()


def tidy(tex: str) -> str:
    """A formula on one line, without labels and colours."""
    if "\\" in tex:
        tex = _COLOR.sub(_gap, _NOISE.sub(_gap, tex))
        tex = re.sub(r"\\textcolor\s*\{[^{}]{0,60}\}\s*(?=\{)", "", tex)
        tex = re.sub(r"\\(?:footnote|footnotemark|cite[a-z]{0,8})\s*(?:\[[^\]]{0,80}\]){0,2}\{[^{}]{0,300}\}", _gap, tex)
        tex = _NESTED.sub(r"{\1}", tex).replace(r"{^\circ}", r"^\circ").replace(r"{^{\circ}}", r"^{\circ}")
    return " ".join(tex.split())


def _gap(gone: re.Match[str]) -> str:
    """What must stand where something is taken out of a formula."""
    return apart(gone.string[max(0, gone.start() - 80) : gone.start()], gone.string[gone.end() : gone.end() + 1])
