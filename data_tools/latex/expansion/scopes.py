r"""Definitions that end with their group: `{\def\x{..} .. }`, `\begin{quote}\renewcommand..\end{quote}`, \begingroup.

Where a definition stands in a group, a mark is put behind the group's closing brace, and passing it brings back what the
name meant before. A brace that may open a command's argument is no group here: `\AtBeginDocument{\def..}` holds on.
"""

import re
from dataclasses import dataclass, field

from data_tools.latex.expansion.stream import Pending, Stream
from data_tools.latex.limits import Deadline
from data_tools.latex.macros import Macro

MAX_MARKS = 60_000
_FIRST_MARK = 0xF0000  # a private plane: `\` and one of its characters stand in no paper
_MAX_GROUP = 100_000
_BRACE = re.compile(r"\\.|[{}]", re.S)
# what a brace stands behind that opens a group and no argument: words, lines, other groups' ends are left out for their doubt
_BARE = re.compile(
    r"(?:^|[^\]}a-zA-Z@*\s]|(?<![\\a-zA-Z@])[a-zA-Z]+|\n[ \t]*\n|\\(?:begin|end)\s?\{[^{}\n]{1,40}\}|\{"
    r"|\\(?:par|noindent|indent|bf|it|rm|sl|sc|sf|tt|em|large|Large|LARGE|small|footnotesize|scriptsize|normalsize|centering|newpage|clearpage|medskip|bigskip"
    r"|smallskip|maketitle|hfill|vfill|item|ignorespaces|relax|global|long|mbox|hbox|vbox|centerline|leftline|rightline|textbf|textit|emph|textrm|textsf|texttt))\s*$"
)


# commands whose later arguments are done in another place
_KEEPS = re.compile(
    r"At[A-Z]|Add[A-Z]|[a-z]*(?:app|pre|patch)(?:to)?(?:cmd)?$|@if|If|if|[a-z]*new|renew|provide|Declare|every|on[A-Z]|tikz|pgf|document|title|set[a-z]"
)
_WORD = re.compile(r"\\([a-zA-Z@]+)\s*$")


@dataclass(eq=False)
class _Group:
    """An environment or \\begingroup that stands open, where it began, and what names meant before it."""

    name: str
    pending: Pending
    at: int
    before: list[tuple[str, Macro | None]] = field(default_factory=list)


class Scopes:
    """The groups that stand open in a stream."""

    def __init__(self, stream: Stream, deadline: Deadline) -> None:
        self._stream, self._deadline = stream, deadline
        self._groups: list[_Group] = []
        self._marks: list[tuple[str, Macro | None]] = []

    def begin(self, name: str) -> None:
        """An environment, or a group without braces, begins."""
        top = self._stream.stack[-1]
        self._groups.append(_Group(name, top, top.at))

    def end(self, name: str) -> None:
        """It ends, and all that began in it."""
        for i in range(len(self._groups) - 1, max(-1, len(self._groups) - 12), -1):
            if self._groups[i].name == name:
                for group in reversed(self._groups[i:]):
                    for defined, before in reversed(group.before):
                        self._restore(defined, before)
                del self._groups[i:]
                return

    def defines(self, name: str) -> None:
        """A name is about to get another meaning, which ends with the innermost group."""
        before = self._stream.macros.get(name)
        group = self._groups[-1] if self._groups else None
        for pending in reversed(self._stream.stack):
            opened = _open_brace(pending)
            if group is not None and group.pending is pending and group.at > opened:
                break
            if opened >= 0:
                self._until_brace(pending, opened, name, before)
                return
        if group is not None:
            group.before.append((name, before))

    def leave(self, mark: str) -> bool:
        """Bring back what a name meant before the group that ends at this mark; False where it is no mark."""
        index = ord(mark) - _FIRST_MARK
        if not 0 <= index < len(self._marks):
            return False
        self._restore(*self._marks[index])
        return True

    def _restore(self, name: str, before: Macro | None) -> None:
        if before is None:
            self._stream.macros.pop(name, None)
        else:
            self._stream.macros[name] = before

    def _is_group(self, pending: Pending, opened: int) -> bool:
        """Whether a brace opens a group, and no argument of a command that was left as it stands."""
        before = pending.text[max(0, opened - 60) : opened]
        if len(pending.text[:opened].rstrip()) == pending.defined > 0 or _BARE.search(before):
            return True
        if before.rstrip()[-1:] not in ("}", "]"):
            word = _WORD.search(before)
            return word is not None and word[1] in self._stream.macros  # it was carried out, and left the brace alone
        head = _WORD.search(pending.text[: _before_groups(pending.text, opened)][-60:])
        return head is None or not _KEEPS.match(head[1])

    def _until_brace(self, pending: Pending, opened: int, name: str, before: Macro | None) -> None:
        if len(self._marks) >= MAX_MARKS or not self._is_group(pending, opened):
            return
        self._deadline.check()
        depth = 0
        for token in _BRACE.finditer(pending.text, pending.at, pending.at + _MAX_GROUP):
            depth += (token[0] == "{") - (token[0] == "}")
            if depth < 0:
                mark = "\\" + chr(_FIRST_MARK + len(self._marks))
                self._marks.append((name, before))
                pending.text = f"{pending.text[: token.end()]}{mark}{pending.text[token.end() :]}"
                pending.fi = -2
                return


def _before_groups(text: str, at: int) -> int:
    """Where the groups begin that stand before a place one behind the other."""
    for _ in range(9):
        start = len(text[max(0, at - 2000) : at].rstrip()) + max(0, at - 2000)
        if start == 0 or text[start - 1] not in "}]":
            return start
        closing = text[start - 1]
        depth, opening = 0, {"}": "{", "]": "["}[closing]
        for i in range(start - 1, max(-1, start - 2000), -1):
            depth += (text[i] == closing) - (text[i] == opening)
            if depth == 0:
                at = i
                break
        else:
            return start
    return at


def _open_brace(pending: Pending) -> int:
    """Where the innermost brace opens that is open where a text is read; -1 for none."""
    if pending.at > pending.looked:
        for token in _BRACE.finditer(pending.text, pending.looked, pending.at):
            if token[0] == "{":
                pending.braces.append(token.start())
            elif token[0] == "}" and pending.braces:
                pending.braces.pop()
        pending.looked = pending.at
    return pending.braces[-1] if pending.braces else -1
