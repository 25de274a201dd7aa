r"""A paper's files → one text: inputs in their places, conditions decided, the author's own macros replaced.

The stream (stream.py) reads; here is what each command does. Commands that this program itself understands
(names.PROTECTED) are never replaced.
"""

import re
from collections.abc import Callable

from data_tools.latex.expansion.branches import Branches
from data_tools.latex.expansion.conditions import BRANCHED, ONE_BRANCH, PRIMITIVES, Conditions
from data_tools.latex.expansion.definitions import DEFINERS, Definitions
from data_tools.latex.expansion.inputs import Inputs
from data_tools.latex.expansion.stream import Stream
from data_tools.latex.limits import Deadline, PaperError
from data_tools.latex.macros import (
    Macro,
    body_at,
    counts_at,
)
from data_tools.latex.names import ASTRONOMY
from data_tools.latex.tree import Files
from data_tools.latex.units import UNIT_COMMANDS, Units

MAX_INERT = 20
_ENVIRONMENT_DEFINERS = frozenset("newenvironment renewenvironment provideenvironment NewEnviron RenewEnviron".split())
_INPUTS = frozenset("input include subfile subfileinclude variable @input @@input expandableinput".split())
_IMPORTS = frozenset("import subimport includefrom inputfrom subincludefrom subinputfrom".split())
_COUNTS = frozenset("setcounter addtocounter stepcounter newcounter setlength".split())
# commands of mathematics that take their arguments as tokens: `\frac\a\b` is {..}{..} whatever \a and \b stand for
_TAKES_TOKENS = frozenset(
    "frac dfrac tfrac cfrac sqrt binom mathrm mathbf mathit mathsf mathcal mathbb boldsymbol operatorname text mbox".split()
)
_HIDERS = frozenset(("excludecomment", "excludeversion"))
_SHOWERS = frozenset(("includecomment", "includeversion"))


def expand(open_files: Callable[[], Files], main: str, deadline: Deadline) -> str:
    """The paper that begins in the main file, as one text; PaperError when it does not end.

    Where it is the machinery of a package that never ends, begun by conditions that only TeX can decide, it is read without that.
    """
    inert: set[str] = set()
    while True:
        expander = _Expander(open_files(), main, deadline, frozenset(inert))
        try:
            return expander.run()
        except PaperError:
            looping = expander.looping() - inert
            if not looping or len(inert) > MAX_INERT:
                raise
            inert |= looping


class _Expander:
    def __init__(self, files: Files, main: str, deadline: Deadline, inert: frozenset[str]) -> None:
        self._deadline = deadline
        self._stream = Stream(files.main(), main, deadline)
        self._conditions = Conditions(self._stream, lambda name: self._inputs.has(name), self._is_known)
        self._branches = Branches(self._stream, self._conditions, deadline)
        self._inputs = Inputs(self._stream, files, main, self._conditions)
        self._handlers: dict[str, Callable[[str], bool]] = {}
        self._definitions = Definitions(self._stream, self._conditions, self._inputs, self._handlers, inert, deadline)
        self._environments: dict[str, tuple[Macro, str]] = {}
        self._hidden = {"anfxnote", "anfxwarning", "anfxerror", "anfxfatal"}
        self._unclosed: object = None  # where, and by which name, a hidden part has no end
        self._at_is_letter = False
        self._units = Units(self._unit_macro)
        self._handlers |= self._table()
        self._stream.handle, self._stream.decide = self._handle, self._branches.condition

    def run(self) -> str:
        """The whole paper."""
        return self._stream.run()

    def looping(self) -> set[str]:
        """The macro that never ended, if a package defines it."""
        return {self._stream.last} & self._definitions.packaged if self._stream.loops else set()

    def _is_known(self, name: str) -> bool:
        return name in self._definitions.machinery or name in self._handlers

    def _table(self) -> dict[str, Callable[[str], bool]]:
        branches, inputs = self._branches, self._inputs
        table: dict[str, Callable[[str], bool]] = {
            "let": self._definitions.let, "begin": self._edge, "end": self._edge, "xspace": self._xspace, "DeclareMathOperator": self._definitions.operator,
            "else": branches.end_condition, "or": branches.end_condition, "fi": branches.end_condition, "unless": branches.unless,
            "newif": branches.new_if, "newcount": branches.new_count, "chardef": branches.constant, "csname": self._stream.by_name,
            "usepackage": inputs.package, "RequirePackage": inputs.package, "documentclass": inputs.package, "documentstyle": inputs.package,
            "endinput": inputs.end_input, "includeonly": inputs.include_only, "inputencoding": inputs.inputencoding,
            "DeclareOption": inputs.declare_option, "ExecuteOptions": inputs.execute_options, "opt": inputs.optional_text,
            "FXRegisterAuthor": self._author_of_remarks, "comment": self._comment, "NewDocumentEnvironment": self._environment_x,
            "makeatletter": self._at_letter, "makeatother": self._at_letter, "@ifnextchar": branches.next_is, "@ifstar": branches.next_is,
            "expandafter": self._expand_after, "@namedef": self._definitions.define_named, "@nameuse": self._definitions.use_named,
        }  # fmt: skip
        for names, handler in (
            (DEFINERS, self._definitions.define_by), (_ENVIRONMENT_DEFINERS, self._new_environment), (_INPUTS, inputs.input),
            (_IMPORTS, inputs.import_from), (_COUNTS, branches.count), (BRANCHED, branches.choose), (ONE_BRANCH, branches.choose),
            (UNIT_COMMANDS, self._unit), (_HIDERS | _SHOWERS, self._hide), (_TAKES_TOKENS, self._takes_tokens),
            (PRIMITIVES, branches.condition), (("begingroup", "bgroup", "endgroup", "egroup"), self._grouped),
        ):  # fmt: skip
            table |= dict.fromkeys(names, handler)
        return table

    def _handle(self, name: str) -> bool:
        """Act on a command; False to leave it as it stands."""
        if name in self._stream.macros:
            self._stream.last = name
            return self._stream.call(self._stream.macros[name])
        handler = self._handlers.get(name)
        if handler is not None:
            return handler(name)
        if name in self._inputs.remarks:
            return self._stream.call(self._inputs.remarks[name])
        if name[:2] == "if" and name != "iff":
            return self._branches.condition(name)
        if "@" in name and not self._at_is_letter and self._stream.stack[-1].file[-4:] not in ("", ".sty"):
            return self._before_at(name)
        if name in ASTRONOMY:
            self._stream.met = True
            self._stream.put(ASTRONOMY[name])
            return True
        if name in self._conditions.values.registers:
            return self._branches.assign(name)
        return self._conditions.set_by(name) or name > "\uffff" and self._definitions.scopes.leave(name)

    def _at_letter(self, name: str) -> bool:
        self._at_is_letter = name == "makeatletter"
        return False

    def _before_at(self, name: str) -> bool:
        r"""`\name@x` where @ is no letter: the command ends before it."""
        word, top = name.partition("@")[0], self._stream.stack[-1]
        if not word or not top.text.endswith(name, 0, top.at):
            return False
        top.at -= len(name) - len(word)
        if not self._handle(word):
            self._stream.put_command("\\" + word)
        return True

    def _unit(self, name: str) -> bool:
        top = self._stream.here()
        at, given = top.at, []
        before = top.text[max(0, at - len(name) - 2) : at - len(name) - 1] if at > len(name) + 1 else ""
        for kind in UNIT_COMMANDS[name]:
            follows = re.compile(r"\s{0,9}([{\\])").match(top.text, top.at)
            token = follows is not None and (follows[1] == "{" or name[:2] not in ("ca", "te"))  # not \case\x, \textsuperscript\x
            value = self._stream.optional("") if kind == "o" else self._stream.argument() if token else None
            if value is None:
                top.at = at
                return False
            given.append(value)
        if name == "unit" and top.text.startswith("{", top.at):  # of SIunits, a value and its unit
            name, given = "SI", [*given, self._stream.argument() or ""]
        shown = self._units.shown(name, given, (before, top.text[top.at : top.at + 1]))
        if shown is None:
            top.at = at
            return False
        self._stream.push(shown)
        return True

    def _unit_macro(self, name: str) -> str | None:
        macro = self._stream.macros.get(name)
        return macro.body if macro and not macro.kinds else None

    def _takes_tokens(self, name: str) -> bool:
        """Put groups around macros that stand as arguments, for what they stand for may be more than one token."""
        top = self._stream.here()
        found = re.compile(r"[ \t]*\\([a-zA-Z@]+)[ \t]*").match(top.text, top.at)
        if found is None or found[1] not in self._stream.macros or self._stream.macros[found[1]].kinds:
            return False
        second = re.compile(r"\\([a-zA-Z@]+)").match(top.text, found.end()) if name.endswith(("frac", "binom")) else None
        end = found.end()
        pushed = f"{{\\{found[1]}}}"
        if second and second[1] in self._stream.macros and not self._stream.macros[second[1]].kinds:
            end, pushed = second.end(), f"{pushed}{{\\{second[1]}}}"
        top.at = end
        self._stream.put_command("\\" + name)
        self._stream.push(pushed)
        return True

    def _expand_after(self, _: str) -> bool:
        r"""`\expandafter\x\fi`: the condition ends before \x takes its arguments; of its other uses only the order would differ."""
        top = self._stream.here()
        found = re.compile(r"\s*\\([a-zA-Z@]+)\s*\\(else|fi|or)(?![a-zA-Z@])\s?").match(top.text, top.at)
        if found and self._stream.open:
            top.at = found.end()
            self._handle(found[2])
            self._stream.push(f"\\{found[1]}")
        return True

    def _xspace(self, _: str) -> bool:
        for pending in reversed(self._stream.stack):
            text, at = pending.text, pending.at
            if at < len(text):
                follows = text[at]
                if follows.isalnum() or follows in "($[<=+\\" and not re.compile(r"\\[ ,/;'!%)\]]").match(text, at):
                    self._stream.put(" ")
                break
        return True

    # -- environments

    def _edge(self, which: str) -> bool:
        top = self._stream.here()
        name = re.compile(r"\s{0,9}\{([^{}\n]{1,60})\}").match(top.text, top.at)
        if name is None:
            return False
        if name[1] == "document":
            return which == "end" and self._end_document()
        (self._definitions.scopes.begin if which == "begin" else self._definitions.scopes.end)(name[1])
        if which == "begin" and name[1] in self._hidden and self._unclosed != (top, name[1]):
            end = re.compile(rf"\\end\s{{0,9}}\{{{re.escape(name[1])}\}}").search(top.text, name.end())
            if end:
                top.at = end.end()
                return True
            self._unclosed = top, name[1]
            return False
        if name[1] not in self._environments:
            return False
        top.at = name.end()
        macro, end = self._environments[name[1]]
        if which == "end":
            self._stream.push(end)
            return True
        return self._stream.call(macro) or True

    def _end_document(self) -> bool:
        """The end of the document ends its file, and the main file's ends all."""
        stack = self._stream.stack
        while len(stack) > 1 and not stack[-1].file:
            stack.pop()
        stack[-1].at = len(stack[-1].text)
        return True

    def _new_environment(self, command: str) -> bool:
        top = self._stream.here()
        text = top.text
        name = re.compile(r"\*?\s*\{([a-zA-Z@]{1,60}\*?)\}").match(text, top.at)
        if name is None:
            return False
        kinds, at = counts_at(text, name.end())
        begin = body_at(text, at, self._deadline)
        if begin and command.endswith("Environ"):  # its body stands for itself as \BODY, or is not shown
            top.at = begin[1]
            self._hide_environment(name[1], r"\BODY" not in begin[0])
            return True
        end = body_at(text, begin[1], self._deadline) if begin else None
        if end is None:
            return False
        top.at = end[1]
        if re.search(r"\\setbox.{0,40}\\(?:vbox|hbox)\s*\\bgroup\s*$|\\begin\{(?:lrbox|comment)\}", begin[0]) and not re.search(
            r"\\(?:un)?[hv]?(?:box|copy)\b|\\usebox", end[0]
        ):
            self._hide_environment(name[1], True)
        elif r"\begin" in begin[0] and r"\end" in end[0] and name[1] != "abstract" and f"{{{name[1]}}}" not in begin[0]:
            self._environments[name[1]] = (Macro(begin[0], kinds), end[0])
        return True

    def _environment_x(self, _: str) -> bool:
        name, spec, begin, end = self._stream.argument(), self._stream.argument(), self._stream.argument(), self._stream.argument()
        if name and spec and not (begin or "").strip() and not (end or "").strip() and re.search(r"(?<!\w)b", spec):
            self._hide_environment(name, True)
        return True

    def _hide(self, command: str) -> bool:
        name = self._stream.argument()
        if name:
            self._hide_environment(name.strip(), command in _HIDERS)
        return True

    def _hide_environment(self, name: str, hidden: bool) -> None:
        (self._hidden.add if hidden else self._hidden.discard)(name)

    def _comment(self, name: str) -> bool:
        r"""`\comment ... \endcomment`, the environment in plain dress; else a remark."""
        top = self._stream.here()
        if not re.compile(r"\s*[\[{]").match(top.text, top.at) and self._unclosed != (top, name):
            end = top.text.find(r"\endcomment", top.at)
            if end >= 0:
                top.at = end + len(r"\endcomment")
                return True
            self._unclosed = top, name
        return self._stream.call(self._inputs.remarks[name])

    def _author_of_remarks(self, _: str) -> bool:
        prefix, environment, _ = self._stream.argument(), self._stream.argument(), self._stream.argument()
        for level in ("note", "warning", "error", "fatal"):
            self._stream.macros[f"{prefix}{level}"] = self._inputs.remarks["fxnote"]
            self._hidden.add(f"{environment}{level}")
        return True

    def _grouped(self, edge: str) -> bool:
        r"""`\begingroup` and `\bgroup`, and their ends."""
        (self._definitions.scopes.begin if edge[0] == "b" else self._definitions.scopes.end)("\\begingroup")
        return False
