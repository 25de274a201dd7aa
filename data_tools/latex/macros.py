r"""Author's macros → plain LaTeX: definitions are collected as they come, uses are replaced, `\iffalse` is cut.

One pass over a stack of pending texts, never recursive in Python. Calls, depth and size are bounded, so `\def\a{\a\a}`
ends in a PaperError. Commands that this program itself understands (names.PROTECTED) are never replaced.
"""

import re
from dataclasses import dataclass

from data_tools.latex.limits import MAX_MACRO_CALLS, MAX_MACRO_DEPTH, MAX_PAPER_CHARS, Deadline, PaperError
from data_tools.latex.names import ASTRONOMY, PROTECTED
from data_tools.latex.units import UNIT_COMMANDS, quantity

_TOKEN = re.compile(r"\\(?:([a-zA-Z@]+)|(.))", re.S)
_BRACE = re.compile(r"\\.|[{}]", re.S)
_BRACKET = re.compile(r"\\.|[{}\]]|\n\n", re.S)
_SPACE = re.compile(r"[ \t]*\n?[ \t]*")
_PARAMETER = re.compile(r"#(#|[1-9])")
_CONDITION = re.compile(r"\\(if(?!f[^a-zA-Z@])[a-zA-Z@]*|else|fi)(?![a-zA-Z@])")
_COMMENT_NAME = re.compile(r"(?i)todo|fixme|comment$|^note$|^remark$|^authornote$")
_LAYOUT = re.compile(r"\\(?:text)?color\*?\s*(?:\[[^\]]{0,80}\])?\s*\{[^{}]{0,80}\}|\\[a-zA-Z@]+\*?|[{}\s~]")
_STACKED = re.compile(
    r"(?s)^(?=.{0,200}[<>])(?=.{0,200}\\sim\b)(?=.{0,200}\\(?:buildrel|lower|raise|rlap|raisebox|stackrel)).{0,200}$"
)  # a home-made less-or-about sign
_NEW = frozenset(("newcommand", "renewcommand", "providecommand", "DeclareRobustCommand"))
_DEF = frozenset(("def", "gdef", "edef", "xdef"))
_DOCUMENT_COMMAND = frozenset(("NewDocumentCommand", "RenewDocumentCommand", "ProvideDocumentCommand", "DeclareDocumentCommand"))
_ENVIRONMENT = frozenset(("newenvironment", "renewenvironment"))


@dataclass(frozen=True)
class Macro:
    """A replacement text with #1..#9; `default` is the first argument's when it is optional."""

    arguments: int
    default: str | None
    body: str
    stop: bool = False  # put out as it stands and not looked at again


def expand(source: str, deadline: Deadline) -> str:
    """The source with the author's own macros replaced; PaperError when they do not end."""
    return _Expander(source, deadline).run()


def group(text: str, at: int, deadline: Deadline) -> tuple[str, int] | None:
    """The inside of the brace group that opens at `at`, and the place after it; None when it does not close."""
    depth = 0
    deadline.check(every=64)
    for count, token in enumerate(_BRACE.finditer(text, at)):
        if token[0] == "{":
            depth += 1
        elif token[0] == "}":
            depth -= 1
            if depth == 0:
                return text[at + 1 : token.start()], token.end()
        if count % 1024 == 1023:
            deadline.check()
    return None


def bracket(text: str, at: int) -> tuple[str, int] | None:
    """The inside of the [optional argument] that opens at `at`, and the place after it; None when it does not close soon."""
    depth = 0
    for token in _BRACKET.finditer(text, at + 1, at + 3000):
        if token[0] == "{":
            depth += 1
        elif token[0] == "}":
            depth -= 1
        elif token[0] == "]" and depth <= 0:
            return text[at + 1 : token.start()], token.end()
        if depth < 0 or token[0] == "\n\n":
            return None
    return None


def _is_comment(name: str, macro: Macro) -> bool:
    r"""Whether a macro sets an author's remark to a co-author, as `\newcommand{\ann}[1]{\textcolor{red}{[Ann: #1]}}` does."""
    if macro.arguments == 0 or f"#{macro.arguments}" not in macro.body:
        return False
    if _COMMENT_NAME.search(name) and ("color" in macro.body or re.search("(?i)todo|fixme", name)):
        return True
    shown = _LAYOUT.sub("", macro.body)
    return "color" in macro.body and re.search(r"[\[(*]+[^#]{0,40}#\d|[A-Za-z]{2,}:#\d", shown) is not None


class _Expander:
    def __init__(self, source: str, deadline: Deadline) -> None:
        self._macros: dict[str, Macro] = {}
        self._environments: dict[str, tuple[Macro, str]] = {}
        self._flags = {"false": False, "true": True}
        self._conditions: list[bool] = []  # one an open \if: is it ours, so that \else and \fi are to go
        self._stack: list[list] = [[source, 0]]
        self._out: list[str] = []
        self._deadline = deadline
        self._calls = 0
        self._last = ""
        self._room = MAX_PAPER_CHARS

    def run(self) -> str:
        while self._stack:
            text, at = self._stack[-1]
            token = _TOKEN.search(text, at)
            if token is None:
                self._out.append(text[at:])
                self._stack.pop()
                continue
            self._deadline.check(every=1024)
            self._out.append(text[at : token.start()])
            self._stack[-1][1] = token.end()
            name = token[1] or token[2]
            if not self._handle(name):
                self._out.append(token[0])
        return "".join(self._out)

    def _handle(self, name: str) -> bool:
        """Act on a command; False to leave it as it stands."""
        if name in self._macros:
            self._last = name
            return self._call(self._macros[name])
        if name in _NEW:
            return self._read_new(name == "providecommand")
        if name in _DEF:
            return self._read_def()
        if name == "let":
            return self._read_let()
        if name in ("begin", "end"):
            return bool(self._environments) and self._environment(name)
        if name == "xspace":
            self._xspace()
            return True
        if name in ("else", "fi") or name.startswith("if") and name not in ("iff", "ifthenelse"):
            return self._condition(name)
        if name == "newif":
            return self._read_newif()
        if name[-4:] == "true" and name[:-4] in self._flags:
            self._flags[name[:-4]] = True
            return True
        if name[-5:] == "false" and name[:-5] in self._flags:
            self._flags[name[:-5]] = False
            return True
        if name == "DeclareMathOperator":
            return self._read_operator()
        if name in _ENVIRONMENT:
            return self._read_environment()
        if name in _DOCUMENT_COMMAND:
            return self._read_document_command()
        if name in UNIT_COMMANDS:
            return self._unit(name)
        if name in ASTRONOMY:
            self._out.append(ASTRONOMY[name])
            return True
        return False

    # -- uses

    def _call(self, macro: Macro) -> bool:
        if macro.stop:
            self._out.append(macro.body)
            return True
        values: list[str] = []
        if macro.arguments and macro.default is not None:
            values.append(self._optional(macro.default))
        while len(values) < macro.arguments:
            value = self._argument()
            if value is None:
                # the name stays, and so do the arguments that were there
                self._stack.append(["".join(f"{{{v}}}" for v in values), 0])
                return False
            values.append(value)
        body = (
            _PARAMETER.sub(lambda m: "#" if m[1] == "#" else values[int(m[1]) - 1] if int(m[1]) <= len(values) else "", macro.body)
            if values or "#" in macro.body
            else macro.body
        )
        self._push(body)
        return True

    def _unit(self, name: str) -> bool:
        self._optional("")
        arguments = []
        while len(arguments) < UNIT_COMMANDS[name]:
            value = self._argument()
            if value is None:
                self._push("".join(f"{{{v}}}" for v in arguments))
                return False
            arguments.append(value)
        self._push(quantity(name, arguments))
        return True

    def _push(self, body: str) -> None:
        self._calls += 1
        self._room -= len(body)
        if len(self._stack) > MAX_MACRO_DEPTH or self._calls > MAX_MACRO_CALLS or self._room < 0:
            raise PaperError(
                "endless macros", f"\\{self._last[:40]} calls itself, or macros go beyond {MAX_MACRO_CALLS} calls, {MAX_MACRO_DEPTH} deep"
            )
        self._stack.append([body, 0])

    def _environment(self, which: str) -> bool:
        text, at = self._stack[-1]
        name = re.compile(r"\s{0,9}\{([^{}\n]{1,60})\}").match(text, at)
        if name is None or name[1] not in self._environments:
            return False
        self._stack[-1][1] = name.end()
        macro, end = self._environments[name[1]]
        if which == "end":
            self._push(end)
            return True
        return self._call(macro) or True

    def _xspace(self) -> None:
        for text, at in reversed(self._stack):
            if at < len(text):
                follows = text[at]
                if follows.isalnum() or follows in "($[<=+\\" and not re.compile(r"\\[ ,/;'!%)\]]").match(text, at):
                    self._out.append(" ")
                return

    def _argument(self) -> str | None:
        while self._stack:
            text, at = self._stack[-1]
            at = _SPACE.match(text, at).end()
            if at < len(text):
                break
            if len(self._stack) == 1:
                return None
            self._stack.pop()
        if text[at] == "{":
            found = group(text, at, self._deadline)
            if found is None:
                return None
            self._stack[-1][1] = found[1]
            return found[0]
        if text[at] in "}\n":
            return None
        token = _TOKEN.match(text, at)
        self._stack[-1][1] = token.end() if token else at + 1
        return token[0] if token else text[at]

    def _optional(self, default: str) -> str:
        text, at = self._stack[-1]
        at = _SPACE.match(text, at).end()
        if at < len(text) and text[at] == "[":
            found = bracket(text, at)
            if found:
                self._stack[-1][1] = found[1]
                return found[0]
        return default

    # -- conditions

    def _condition(self, name: str) -> bool:
        if name in ("else", "fi"):
            ours = bool(self._conditions) and self._conditions[-1]
            if name == "fi" and self._conditions:
                self._conditions.pop()
            elif ours:
                self._skip(("fi",))
                self._conditions.pop()
            return ours
        known = self._flags.get(name[2:])
        self._conditions.append(known is not None)
        if known is False and self._skip(("else", "fi")) == "fi":
            self._conditions.pop()
        return known is not None

    def _skip(self, until: tuple[str, ...]) -> str:
        """Pass over text up to the \\else or \\fi of the open condition; to where it is, if there is none."""
        text, at = self._stack[-1]
        depth = 0
        for token in _CONDITION.finditer(text, at):
            self._deadline.check(every=512)
            if token[1].startswith("if"):
                depth += 1
            elif depth == 0 and token[1] in until:
                self._stack[-1][1] = token.end()
                return token[1]
            elif token[1] == "fi":
                depth -= 1
        return "fi"

    # -- definitions

    def _define(self, name: str, macro: Macro) -> None:
        if name in PROTECTED or "@" in name:  # a package's own machinery is not for readers
            return
        if _is_comment(name, macro):
            macro = Macro(macro.arguments, macro.default, "")
        elif not macro.arguments and _STACKED.search(macro.body):
            macro = Macro(0, None, r"\ensuremath{\gtrsim}" if ">" in macro.body else r"\ensuremath{\lesssim}")
        self._macros[name] = macro

    def _name(self, text: str, at: int) -> tuple[str, int] | None:
        found = re.compile(r"\*?\s*(?:\{\s*\\([a-zA-Z@]+|.)\s*\}|\\([a-zA-Z@]+|.))\s*").match(text, at)
        return (found[1] or found[2], found.end()) if found else None

    def _counts(self, text: str, at: int) -> tuple[int, str | None, int]:
        found = re.compile(r"\s*\[\s*([0-9])\s*\]\s*").match(text, at)
        count, at = (int(found[1]), found.end()) if found else (0, _SPACE.match(text, at).end())
        if count and text[at : at + 1] == "[":
            default = bracket(text, at)
            if default:
                return count, default[0], _SPACE.match(text, default[1]).end()
        return count, None, at

    def _body(self, text: str, at: int) -> tuple[str, int] | None:
        at = re.compile(r"\s*").match(text, at).end()
        if text[at : at + 1] == "{":
            return group(text, at, self._deadline)
        token = _TOKEN.match(text, at)
        return (token[0], token.end()) if token else None

    def _read_new(self, only_if_new: bool) -> bool:
        text, at = self._stack[-1]
        name = self._name(text, at)
        if name is None:
            return False
        count, default, at = self._counts(text, name[1])
        body = self._body(text, at)
        if body is None:
            return False
        self._stack[-1][1] = body[1]
        if not (only_if_new and name[0] in self._macros):
            self._define(name[0], Macro(count, default, body[0]))
        return True

    def _read_def(self) -> bool:
        text, at = self._stack[-1]
        found = re.compile(r"\s*\\([a-zA-Z@]+|.)([^{}\n\\]{0,60})(?=\{)").match(text, at)
        if found is None:
            return False
        body = group(text, found.end(), self._deadline)
        if body is None:
            return False
        self._stack[-1][1] = body[1]
        parameters = found[2].replace(" ", "")
        if parameters == "".join(f"#{i + 1}" for i in range(parameters.count("#"))):
            self._define(found[1], Macro(parameters.count("#"), None, body[0]))
        return True

    def _read_let(self) -> bool:
        text, at = self._stack[-1]
        found = re.compile(r"\s*\\([a-zA-Z@]+|.)\s*=?\s?(\\(?:[a-zA-Z@]+|.)|[^\s\\])").match(text, at)
        if found is None:
            return False
        self._stack[-1][1] = found.end()
        target = found[2].lstrip("\\") or "\\"
        self._define(found[1], self._macros.get(target, Macro(0, None, found[2], stop=True)))
        return True

    def _read_newif(self) -> bool:
        text, at = self._stack[-1]
        found = re.compile(r"\s*\\if([a-zA-Z@]+)").match(text, at)
        if found:
            self._stack[-1][1] = found.end()
            self._flags[found[1]] = False
        return found is not None

    def _read_operator(self) -> bool:
        text, at = self._stack[-1]
        name = self._name(text, at)
        body = self._body(text, name[1]) if name else None
        if body is None:
            return False
        self._stack[-1][1] = body[1]
        self._define(name[0], Macro(0, None, rf"\operatorname{{{body[0]}}}"))
        return True

    def _read_environment(self) -> bool:
        text, at = self._stack[-1]
        name = re.compile(r"\*?\s*\{([a-zA-Z@]{1,60}\*?)\}").match(text, at)
        if name is None:
            return False
        count, default, at = self._counts(text, name.end())
        begin = self._body(text, at)
        end = self._body(text, begin[1]) if begin else None
        if end is None:
            return False
        self._stack[-1][1] = end[1]
        if r"\begin" in begin[0] and r"\end" in end[0] and name[1] != "abstract" and f"{{{name[1]}}}" not in begin[0]:
            self._environments[name[1]] = (Macro(count, default, begin[0]), end[0])
        return True

    def _read_document_command(self) -> bool:
        text, at = self._stack[-1]
        name = self._name(text, at)
        spec = self._body(text, name[1]) if name else None
        body = self._body(text, spec[1]) if spec else None
        if body is None:
            return False
        self._stack[-1][1] = body[1]
        plain = re.fullmatch(r"\s*(?:O\s*\{([^{}]{0,200})\}|(o))?\s*((?:m\s*)*)", spec[0])
        if plain:
            optional = plain[1] is not None or plain[2] is not None
            self._define(name[0], Macro(optional + plain[3].count("m"), (plain[1] or "") if optional else None, body[0]))
        return True
