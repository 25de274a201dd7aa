r"""What a definition does to a paper's names: \def, \newcommand, \let and their kin, in their groups.

Commands that this program itself understands (names.PROTECTED) are never replaced, nor is the machinery of packages.
"""

import re
from collections.abc import Callable
from dataclasses import replace

from data_tools.latex.expansion.conditions import Conditions
from data_tools.latex.expansion.inputs import Inputs
from data_tools.latex.expansion.scopes import Scopes
from data_tools.latex.expansion.stream import Stream
from data_tools.latex.limits import Deadline, PaperError
from data_tools.latex.macros import Macro, body_at, document_command, judged, name_at, new_command, new_command_x, tex_definition
from data_tools.latex.names import COUNTERS, PROTECTED

MAX_BODY = 100_000  # of a macro that is defined by itself, `\edef\a{\a\a}`
DEFINERS = {
    **dict.fromkeys(
        ("newcommand", "renewcommand", "providecommand", "DeclareRobustCommand", "newrobustcmd", "renewrobustcmd"), new_command
    ),
    **dict.fromkeys(("newcommandx", "renewcommandx", "providecommandx", "DeclareRobustCommandx"), new_command_x),
    **dict.fromkeys(("def", "gdef", "edef", "xdef"), tex_definition),
    **dict.fromkeys(("NewDocumentCommand", "RenewDocumentCommand", "ProvideDocumentCommand", "DeclareDocumentCommand"), document_command),
    **dict.fromkeys(("NewExpandableDocumentCommand", "DeclareExpandableDocumentCommand"), document_command),
}
_BY_NAME = re.compile(r"\s*\{?\s*\\csname\s*([^{}]{1,200}?)\\endcsname\s*\}?")
# LaTeX's own names for taking arguments and leaving some
_ARGUMENTS = {
    "@gobble": Macro("", ("m",)), "@gobbletwo": Macro("", ("m", "m")), "@firstofone": Macro("#1", ("m",)), "@iden": Macro("#1", ("m",)),
    "@firstoftwo": Macro("#1", ("m", "m")), "@secondoftwo": Macro("#2", ("m", "m")),
}  # fmt: skip


class Definitions:
    """The names of one paper; `machinery` are those of packages that are known and not carried out."""

    def __init__(
        self,
        stream: Stream,
        conditions: Conditions,
        inputs: Inputs,
        handlers: dict[str, Callable[[str], bool]],
        inert: frozenset[str],
        deadline: Deadline,
    ) -> None:
        self._stream, self._conditions, self._inputs, self._handlers, self._deadline = stream, conditions, inputs, handlers, deadline
        self.scopes = Scopes(stream, deadline)
        self.machinery: dict[str, Macro] = {}
        self.packaged: set[str] = set()  # names that packages define
        self._inert = inert  # of these, names that are not carried out
        stream.macros |= _ARGUMENTS

    def define_by(self, command: str) -> bool:
        top = self._stream.here()
        named = _BY_NAME.match(top.text, top.at)
        if named:
            top.text = f"{top.text[: top.at]}\\{self._stream.flat(named[1]).strip()}{top.text[named.end() :]}"
        definition = DEFINERS[command](top.text, top.at, self._deadline)
        if definition is None:
            return False
        name, macro, top.at = definition
        if command.lower().startswith("provide") and name in self._stream.macros:
            return True
        if command in ("edef", "xdef") and rf"\{name}" in macro.body:
            old = self._stream.macros[name].body if name in self._stream.macros else ""
            macro = replace(macro, body=re.sub(rf"\\{re.escape(name)}(?![a-zA-Z@])", lambda _: old, macro.body))
            if len(macro.body) > MAX_BODY:
                raise PaperError(
                    "endless macros", f"\\{name[:40]} is defined by itself again and again, {len(macro.body)} characters by now"
                )
        if command[0] not in "gx" and not self._is_global(command):
            self.scopes.defines(name)
        top.defined = top.at
        self._define(name, macro)
        return True

    def _is_global(self, command: str) -> bool:
        """Whether a definition's command, just read, stands behind \\global."""
        top = self._stream.stack[-1]
        start = top.text.rfind("\\" + command, 0, top.at)
        return start > 0 and re.search(r"\\global\s*(?:\\(?:long|outer|protected)\s*)?$", top.text[max(0, start - 30) : start]) is not None

    def _define(self, name: str, macro: Macro) -> None:
        if name[:3] == "the" and name[3:] in COUNTERS and not macro.kinds:  # how a counter is shown is asked for with the numbers
            self._stream.put(f"\\renewcommand{{\\{name}}}{{{macro.body}}}")
            return
        packaged = any(pending.file[-4:] == ".sty" for pending in self._stream.stack)
        if packaged:
            self.packaged.add(name)
        if name in PROTECTED or name in self._inert or "@" in name and packaged:  # a package's own machinery is not for readers
            self.machinery[name] = macro
        else:
            self._stream.macros[name] = judged(name, macro, self._stream.macros)

    def define_named(self, _: str) -> bool:
        name, body = self._stream.flat(self._stream.argument() or "").strip(), self._stream.argument()
        if name.isalpha() and body is not None:
            self.scopes.defines(name)
            self._define(name, Macro(body))
        return True

    def use_named(self, _: str) -> bool:
        macro = self._stream.macros.get(self._stream.flat(self._stream.argument() or "").strip())
        return macro is None or self._stream.call(macro) or True

    def let(self, _: str) -> bool:
        top = self._stream.here()
        found = re.compile(r"\s*\\([a-zA-Z@]+|.)\s*=?\s?(\\(?:[a-zA-Z@]+|.)|[^\s\\])").match(top.text, top.at)
        if found is None:
            return False
        top.at = found.end()
        name, target = found[1], found[2].lstrip("\\") or "\\"
        if not self._is_global("let"):
            self.scopes.defines(name)
        if name[:2] == "if" and target[:2] == "if" and target[2:] in self._conditions.switches:
            self._conditions.switches[name[2:]] = self._conditions.switches[target[2:]]
        elif target in ("undefined", "@undefined"):
            self._stream.macros.pop(name, None)
        else:
            self._let_be(name, target, found[2])
        return True

    def _let_be(self, name: str, target: str, shown: str) -> None:
        macro = self._stream.macros.get(target) or self._inputs.remarks.get(target)
        handler = self._handlers.get(target)
        if macro is None and handler is not None and name not in PROTECTED and name not in self._handlers:
            # what this program does itself it does under the new name, too
            self._stream.macros.pop(name, None)
            self._handlers[name] = lambda _: handler(target) or self._stream.put_command("\\" + target) or True
        else:
            nothing = target in ("empty", "@empty", "relax")
            self._define(name, macro or Macro("" if nothing else shown, stop=not nothing))

    def operator(self, _: str) -> bool:
        top = self._stream.here()
        name = name_at(top.text, top.at)
        body = body_at(top.text, name[1], self._deadline) if name else None
        if body is None:
            return False
        top.at = body[1]
        self._define(name[0], Macro(rf"\operatorname{{{body[0]}}}", stop=name[0] == "operatorname"))
        return True
