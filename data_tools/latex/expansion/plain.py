r"""Where a paper's text begins, in LaTeX, AmS-TeX and plain TeX; what plain TeX spells otherwise, as LaTeX spells it.

Plain TeX has no \begin{document}: its paper is all up to \bye, its title and authors are lines in the middle of a page.
"""

import re
from collections.abc import Callable

from data_tools.latex.limits import Deadline, PaperError
from data_tools.latex.macros import group

_BEGIN = re.compile(r"\\begin\s{0,9}\{document\}|\\document(?![a-zA-Z])(?!\s{0,9}[\[{])")
# what only plain TeX and the macro files made for it have
PLAIN = re.compile(
    r"\\(?:bye|magnification|beginsection|nopagenumbers|topmatter|newsec|listrefs|centerline|headline|footline|pageno|vfootnote|endabstract|supereject)(?![a-zA-Z])"
    r"|\\end\s*\Z"
)
_LAST = re.compile(r"\\(?:bye|enddocument)(?![a-zA-Z])|\\end(?![a-zA-Z])(?!\s{0,9}\{)")
_LAYOUT = re.compile(
    r"(?:\s+|\\(?:noindent|bigskip|medskip|smallskip|vfil|vfill|eject|par|null|nopagenumbers|relax|begingroup|bf|rm|frenchspacing)(?![a-zA-Z])"
    r"|\\(?:vskip|vglue|hskip)\s?-?[\d.]{1,6}\s?(?:true)?\s?[a-z]{2}(?:\s?plus\s?[\d.]{1,4}\s?[a-z]{2,4})?|\\[a-zA-Z]{1,20}\s?=\s?-?[\d.]{1,6}(?:\s?(?:true)?\s?[a-z]{2})?"
    r"|\\magnification\s?=?\s?(?:\\magstep\s?(?:half|\d)|\d{3,4})|\\font\\[a-zA-Z]{1,20}\s?=[^\n\\]{1,60}|\\baselineskip\s?=?\s?[\d.]{1,6}\s?[a-z]{2})*"
)
_CENTERED = re.compile(r"\\(?:centerline|leftline|rightline|line)\s{0,9}(?=\{)")
_LOUD = re.compile(r"\\(?:bf|[a-zA-Z]*(?:[bB]ig|[lL]arge|title|bold|LARGE|fourteen|seventeen|twelve)[a-zA-Z]*)(?![a-zA-Z])")
_OPENED = re.compile(
    r"\\(title|author|affil|address|abstract|keywords|thanks|email|date|subjclass|Refs|refs|topinsert|midinsert|pageinsert)(?![a-zA-Z])(?!\s{0,9}\{)"
)
_GONE = frozenset(("Refs", "refs", "topinsert", "midinsert", "pageinsert"))
_CITED = re.compile(r"\\(?:ref|Ref)\s{0,3}\\([a-zA-Z]{1,30})\s{0,3}(?=\{)")
_CITED_AGAIN = re.compile(r"\\(?:refs|refmark)\s{0,3}\{((?:[^{}]|\{[^{}]*\}){0,400})\}")
_REFERENCE = re.compile(r"\\(?:nref|REF|refdef|cited)\s{0,3}\\[a-zA-Z]{1,30}\s{0,3}(?=\{)")
_FOOTNOTE = re.compile(r"\\(v?footnote|foot|ftnote|fnote)(?![a-zA-Z])\s{0,3}(\*+|\\[a-zA-Z]{1,12}|\$[^$\n]{1,20}\$|\d)?\s{0,3}(?=\{)")
_TABBED = re.compile(r"\\\+[^\n]{0,2000}?\\cr(?![a-zA-Z])")
_ITEM = re.compile(r"\\item(?:item)?\s{0,3}\{([^{}\n\]]{0,20})\}")
_HARVMAC = re.compile(r"\\Title\s{0,3}(?=\{)")


def split_document(source: str, main: str, deadline: Deadline) -> tuple[str, str]:
    """What stands before a paper's text, and its text; PaperError where the file is of no TeX that is known here."""
    begin = _BEGIN.search(source)
    if begin is not None and begin[0].startswith(r"\begin"):
        return source[: begin.start()], source[begin.end() :]
    if begin is None and not PLAIN.search(source):
        raise PaperError("not LaTeX", f"{main} has no \\begin{{document}}, and nothing that plain TeX begins or ends with")
    head, body = (source[: begin.start()], source[begin.end() :]) if begin else ("", source)
    return _spelled(head, deadline), _as_latex(_LAST.split(body, maxsplit=1)[0], deadline)


def _as_latex(text: str, deadline: Deadline) -> str:
    text = _spelled(_TABBED.sub(" ", text), deadline)
    text = _CITED.sub(r"~\\cite{\1}\\cited\\\1", text)
    text = _CITED_AGAIN.sub(lambda m: f"~\\cite{{{','.join(re.findall(r'[a-zA-Z]+', m[1]))}}}", text)
    text = _without(_REFERENCE, text, lambda _: 1, deadline)
    text = _without(_FOOTNOTE, text, lambda note: 1 if note[2] else 2, deadline)  # the mark may stand in no braces
    text = _ITEM.sub(r"\\item[\1]", text)
    if found := _HARVMAC.search(text):  # \Title{number of the preprint}{title}
        number = group(text, found.end(), deadline)
        title = group(text, number[1], deadline) if number and text.startswith("{", number[1]) else None
        if title:
            at = _past_lines(text, title[1], deadline)[1]
            date = re.compile(r"\\Date(?![a-zA-Z])").search(text, at, at + 20_000)
            abstract = f"\\begin{{abstract}}{text[at : date.start()]}\\end{{abstract}}" if date else ""
            text = f"\\title{{{title[0]}}}\n\n{abstract}\n\n\\maketitle\n\n{text[date.start() if date else at :]}"
        return text
    found = re.search(r"\\title\s{0,9}(?=\{)", text)
    title = group(text, found.end(), deadline) if found else None
    if title is None:
        return _titled(text, deadline)
    return f"{text[: title[1]]}\n\n\\maketitle\n\n{text[_past_lines(text, title[1], deadline)[1] :]}"


def _spelled(text: str, deadline: Deadline) -> str:
    r"""`\title X\endtitle` as `\title{X}`, and no more figures between \topinsert and \endinsert."""
    out, at, endless = [], 0, set()
    for found in _OPENED.finditer(text):
        deadline.check(every=64)
        name = found[1]
        closing = r"\endinsert" if name.endswith("insert") else rf"\end{name}"
        end = text.find(closing, found.end()) if found.start() >= at and closing not in endless else -1
        if end < 0:
            endless |= {closing} if found.start() >= at else set()
            continue
        out += [text[at : found.start()], "" if name in _GONE else f"\\{name}{{{text[found.end() : end].strip()}}}"]
        at = end + len(closing)
    return "".join(out) + text[at:]


def _without(pattern: re.Pattern[str], text: str, groups: Callable[[re.Match[str]], int], deadline: Deadline) -> str:
    """Without a command and the groups that follow it, so many at most."""
    out, at = [], 0
    for found in pattern.finditer(text):
        if found.start() < at:
            continue
        end = found.end()
        for _ in range(groups(found)):
            part = group(text, end, deadline) if text.startswith("{", end) else None
            end = part[1] if part else end
        out.append(text[at : found.start()])
        at = end
    return "".join(out) + text[at:]


def _titled(text: str, deadline: Deadline) -> str:
    """The lines in the middle of the first page as LaTeX's title; those of authors and places go."""
    lines, at = _past_lines(text, 0, deadline)
    if not lines:
        return text
    loud = [bool(_LOUD.search(line)) for line in lines]
    first = next((i for i, is_loud in enumerate(loud) if is_loud), 0)  # before it the preprint's number and the date
    end = first + 1
    while end < len(lines) and loud[end]:
        end += 1
    return f"\\title{{{' '.join(lines[first:end])}}}\n\n\\maketitle\n\n{text[at:]}"


def _past_lines(text: str, at: int, deadline: Deadline) -> tuple[list[str], int]:
    """The lines in the middle of the page that come next, and the place after them."""
    lines: list[str] = []
    at = _LAYOUT.match(text, at).end()
    while len(lines) < 30 and (found := _CENTERED.match(text, at)):
        line = group(text, found.end(), deadline)
        if line is None or re.search(r"(?i)\b(?:abstract|introduction|summary)\b", line[0]):
            break
        lines.append(line[0].strip())
        at = _LAYOUT.match(text, line[1]).end()
    return lines, at
