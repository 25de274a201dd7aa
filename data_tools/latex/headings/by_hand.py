r"""Headings set by hand → \section.

A paragraph of its own that is `{\bf 1. Introduction}`, `\centerline{\sc Introduction}`, `1. INTRODUCTION`; a letter's run-in
`\textit{Introduction.}---`. These are believed only together: one is called introduction or conclusion, the others look like it or
go on counting.
"""

import re
from dataclasses import dataclass

from data_tools.latex.headings.spelled import LEVELS
from data_tools.latex.headings.titles import BACK, CONCLUSION, INTRODUCTION, KNOWN, SUMMARY, plain_title
from data_tools.latex.layout import skip_layout
from data_tools.latex.limits import Deadline
from data_tools.latex.macros import group
from data_tools.latex.names import DROP

_SPACE = re.compile(r"\s*")
_TITLE = r"\s{0,9}((?:[0-9IVX]{1,4}\.\s{0,3})?[A-Z][\w ,&\\'()\ue000\ue001-]{2,80}?)\s{0,9}[.:]?\s{0,9}(?:---|--|\u2014)?\s{0,9}"
_RUN_IN = re.compile(
    r"(?:(?<=\n\n)|(?<=\n \n))[ \t]{0,9}(?:\\(?:noindent|medskip|bigskip|par|indent)\s{0,9}){0,3}(?:"
    r"\\(?:emph|textit|textbf|textsc)\s{0,9}\{" + _TITLE + r"\}\s{0,3}[.:]?\s{0,3}(?:---|--|\u2014|\\textemdash|(?<=[.:]\})|(?<=[.:]))"
    r"|\{\s{0,9}\\(?:it|em|bf|sc|itshape|bfseries)\s{1,9}"
    + _TITLE
    + r"\}\s{0,3}[.:]?\s{0,3}(?:---|--|\u2014|\\textemdash|(?<=[.:-]\})|(?<=[.:]))"
    r"|\\(?:centerline|leftline)\s{0,9}\{\s{0,9}\{?\s{0,9}(?:\\(?:bf|large|Large|sc|it)\s{1,9}){0,3}" + _TITLE + r"\}{1,2})"
)
_PARAGRAPH = re.compile(
    r"(?:\n[ \t]*\n|\\par(?![a-zA-Z@]))\s*|\\begin\s{0,9}\{document\}|\\maketitle(?![a-zA-Z])"
    r"|(?=\\item(?![a-zA-Z])\s{0,9}(?:\[[^\]\n]{0,20}\]\s{0,9})?(?:\{\s?\\(?:bf|sc|large|Large|bfseries)|\\(?:textbf|textsc|underline))(?![a-zA-Z]))"
    r"|(?=\\begin\s{0,9}\{(?:center|flushleft)\})|\n(?=[ \t]*\\(?:(?:big|med|small)skip|vskip|vspace|centerline|leftline|line)(?![a-zA-Z]))"
)
_ITEM = re.compile(r"\\item(?![a-zA-Z])\s{0,9}(?:\[[^\]\n]{0,20}\]\s{0,9})?")
_COMMAND = re.compile(r"\\([a-zA-Z@]+)\*?\s*|\\\\(?:\[[^\]]{0,20}\])?\s*")
_PLAIN_LAYOUT = frozenset(
    """
noindent indent par medskip bigskip smallskip newpage clearpage pagebreak goodbreak bigbreak medbreak smallbreak filbreak break nobreak null vfill hfill
hfil vfil eject relax leavevmode raggedright raggedleft samepage sloppy protect newline linebreak nopagebreak leavevmode hss strut boldmath quad qquad
begingroup endgroup unskip ignorespaces nointerlineskip offinterlineskip maketitle
""".split()
)
_STYLES = {
    name: style
    for style, names in {
        "bold": "bf bfseries textbf mathbf bfit bm",
        "caps": "sc scshape textsc",
        "slanted": "it itshape em emph textit sl slshape textsl",
        "sans": "sf sffamily textsf",
        "under": "underline uline underbar ul",
        "center": "centering centerline center centering",
        "": "large Large LARGE huge Huge normalsize small rm rmfamily textrm leftline rightline line hbox mbox fbox uppercase MakeUppercase MakeTextUppercase "
        "flushleft flushright noindent upshape mdseries normalfont textnormal twelvebf tenbf",
    }.items()
    for name in names.split()
}
_COLORED = re.compile(r"\\textcolor\s{0,3}(?:\[[^\]]{0,40}\])?\{[^{}]{0,40}\}\s{0,3}(?=\{)")
_EDGE = re.compile(r"\\(begin|end)\s{0,9}\{(center|flushleft|flushright|centering|large|Large|bf)\}\s*")
_COUNTED = re.compile(
    r"\s*(?:\\S\s?|§\s?|Section\s)?(?:(\d{1,2}(?:\.\d{1,2}){0,3})|([IVX]{1,5})|([A-Z]))(?:[.):]|(?=[\s~]|\\))(?:[\s~]|\\(?:quad|qquad|[ ,;]|hskip[^a-zA-Z]{0,9}em))*"
)
_AFTER = re.compile(
    r"(?:[ \t.:\u2014]|--{1,2}|\\(?:medskip|smallskip|bigskip|noindent|nobreak|hfill(?!\s?\\break)|hfil(?!\s?\\break)|vspace\*?\s?\{[^{}]{0,40}\}|label\s?\{[^{}]{0,80}\}|rm|/)(?![a-zA-Z]))*"
)
_WORD_OF_TITLE = re.compile(r"[^\W\d_]{2,}")
_SENTENCE = re.compile(r"[.?!;]\s+\S|,\s*$|=")
_MAX_TITLE = 100
_ROMAN = "I II III IV V VI VII VIII IX X XI XII".split()


@dataclass(frozen=True)
class _Heading:
    """A paragraph's opening that may be a heading: where, its TeX, how it looks and counts; `alone` on its line or in its paragraph."""

    start: int
    end: int
    title: str
    name: str
    styles: frozenset[str]
    number: int  # the first of its numbers, 0 for none or a letter
    depth: int  # of its number, 2 for `2.1`; 0 without one
    alone: bool
    capitals: bool
    item: bool  # of a list that makes the sections

    @property
    def look(self) -> tuple:
        return self.styles, self.depth > 0, self.alone, self.capitals and not self.styles, self.item

    @property
    def opens_or_closes(self) -> bool:
        return any(pattern.search(self.name) for pattern in (INTRODUCTION, CONCLUSION, SUMMARY))


def mark_by_hand(text: str, headings: list[tuple[str, str, int, int]], deadline: Deadline) -> str:
    """The body with its hand-made headings as sections; as it was where none can be believed."""
    found = _by_hand(text, deadline)
    taken = _among_real([h for h in found if not h.item], headings) if headings else _by_themselves(found)
    if not taken:
        return text
    top = min((h[0] for h in headings if h[0] in LEVELS), key=LEVELS.index) if headings else "section"
    out, at = [], 0
    for heading, level in taken:
        out += [text[at : heading.start], f"\n\n\\{(top, 'subsection', 'subsubsection')[level - 1]}*{{{heading.title}}}\n\n"]
        at = heading.end
    return "".join(out) + text[at:]


def _by_themselves(found: list[_Heading]) -> list[tuple[_Heading, int]]:
    """The headings of a paper that has none other: those that look as its introduction or conclusion does, and what counts below."""
    plain = [h for h in found if not h.styles and not h.capitals]
    if not ({h.number for h in plain} >= {1, 2} and any(INTRODUCTION.search(h.name) for h in plain)):
        found = [h for h in found if h.styles or h.capitals]  # the others are items of a list
    core = [h for h in found if h.opens_or_closes and (h.alone or h.depth == 1 or h.styles - {"slanted"})]
    if not core:
        numbers = [h for h in found if h.depth == 1 and h.alone and (h.styles or h.capitals)]
        core = numbers if len(numbers) >= 3 else []
    looks, chosen = {h.look for h in core}, set(core)
    counted = {h.look for h in core if h.depth}
    taken = []
    for h in found:
        if h in chosen or h.look in looks and h.depth < 2 and (h.alone or h.depth or KNOWN.search(h.name)):
            taken.append((h, 1))
        elif h.alone and (h.styles or h.capitals) and h.name == "abstract":
            taken.append((h, 1))
        elif h.alone and h.styles and BACK.search(h.name) or h.alone and h.capitals and KNOWN.search(h.name):
            taken.append((h, 1))
        elif h.alone and (h.depth > 1 and counted or h.styles and counted and not h.depth):
            taken.append((h, 2))
    return taken if sum(level == 1 for _, level in taken) > 1 else []


def _among_real(found: list[_Heading], headings: list[tuple[str, str, int, int]]) -> list[tuple[_Heading, int]]:
    """What a paper with headings has by hand beside them: an introduction before, a conclusion after, and what counts alike between."""
    names = [plain_title(title) for level, title, *_ in headings if level in LEVELS]
    first = min(start for level, _, start, _ in headings if level in LEVELS)
    core = []
    for h in found:
        if not h.alone or not (h.styles or h.capitals) or not h.opens_or_closes:
            continue
        opens = INTRODUCTION.search(h.name) is not None
        if opens and h.start < first and not any(INTRODUCTION.search(name) for name in names):
            core.append(h)
        elif not opens and h.start > first and not any(CONCLUSION.search(name) or SUMMARY.search(name) for name in names):
            core.append(h)
    looks, chosen = {h.look for h in core if h.depth}, set(core)
    taken = [(h, 1) for h in found if h in chosen or h.look in looks and h.depth == 1]
    # thanks and statements at a section's end, cut there and not further than the next heading
    back = [
        (h, 3)
        for h in found
        if h.styles and h.start > first and (BACK.search if h.alone else BACK.fullmatch)(h.name) and (h, 1) not in taken
    ]
    return sorted([*taken, *back], key=lambda each: each[0].start)


def _by_hand(text: str, deadline: Deadline) -> list[_Heading]:
    found: list[_Heading] = []
    for start in [0, *(m.end() for m in _PARAGRAPH.finditer(text))]:
        at: int | None = start
        while at is not None:
            deadline.check(every=256)
            heading = _heading_at(text, at, deadline) if not found or at >= found[-1].end else None
            at = heading.end if heading and heading.alone else None  # another may stand right below
            if heading:
                found.append(heading)
    return found


def _heading_at(text: str, at: int, deadline: Deadline) -> _Heading | None:
    start, styles = at, set()
    item = _ITEM.match(text, at)
    at = _past_layout(text, item.end() if item else at, styles)
    number = _COUNTED.match(text, at)  # 1.~{\bf Introduction}
    inner = _unwrap(text, number.end() if number else at, styles, deadline)
    if inner and not number and re.fullmatch(r"\s*(?:\d{1,2}|[IVX]{1,5})[.)]?\s*", inner[0]):  # {\bf 1.} {\bf Introduction}
        title = _unwrap(text, _SPACE.match(text, inner[1]).end(), styles, deadline)
        inner = title and (f"{inner[0].strip()} {title[0]}", title[1])
    elif inner and number:
        inner = f"{number[0]} {inner[0]}", inner[1]
    if inner is None:
        line = re.compile(
            r"[^\n\\{}$]{3,100}(?=\n|$|\\(?:par|label|medskip|smallskip|bigskip|rm|normalfont|normalsize|end\s?\{center\})(?![a-zA-Z])|\\\\)"
        ).match(text, at)
        if line is None or not (styles or _is_capital(line[0]) or number and _stands_alone(text, line.end())):
            return None
        title, end = line[0], line.end()
    else:
        title, end = inner
    raw = re.sub(r"\\(?:label|vspace|hspace)\*?\s?\{[^{}]{0,80}\}|\\\\|~", " ", title).strip(" \n.:")
    counted = _COUNTED.match(raw)
    shown = re.sub(r"\\[a-zA-Z]+\s?|[{}]", "", raw[counted.end() :] if counted else raw).strip()
    if not (3 <= len(shown) <= _MAX_TITLE) or len(shown.split()) > 12 or not _WORD_OF_TITLE.search(shown) or _SENTENCE.search(shown):
        if counted is None or not _WORD_OF_TITLE.search(shown) or len(shown.split()) > 12:
            return None
    if not shown[0].isupper() and not (counted and shown[0].isalnum()) and shown[0] not in "\ue000":
        return None
    end, alone = _past_heading(text, end)
    if inner is None and not alone:
        return None
    depth = counted[1].count(".") + 1 if counted and counted[1] else int(bool(counted and counted[2])) or 2 * bool(counted)
    capitals = _is_capital(shown)
    first = 0
    if counted and (counted[1] or counted[2]):
        first = int(counted[1].split(".")[0]) if counted[1] else _ROMAN.index(counted[2]) + 1 if counted[2] in _ROMAN else 0
    return _Heading(
        start, end, " ".join(raw.split()), plain_title(shown), frozenset(styles) - {""}, first, depth, alone, capitals, item is not None
    )


def number_before(text: str, at: int, deadline: Deadline) -> str:
    """The number of the heading set by hand that a label at this place stands in or right behind; "" where it has none."""
    window = max(0, at - 240)
    for found in reversed([*_PARAGRAPH.finditer(text, window, at)]):
        heading = _heading_at(text, found.end(), deadline)
        if heading is not None:
            counted = _COUNTED.match(heading.title)
            near = heading.start <= at and not _WORD_OF_TITLE.search(re.sub(r"\\[a-zA-Z]+", "", text[heading.end : at]))
            return next(filter(None, counted.groups()), "") if counted and near else ""
    return ""


def _stands_alone(text: str, end: int) -> bool:
    """Whether a line ends its paragraph."""
    return re.compile(r"\s*\\par(?![a-zA-Z])|[ \t]*\n[ \t]*(?:\n|$)").match(text, end) is not None


def _is_capital(text: str) -> bool:
    letters = [c for c in text if c.isalpha()]
    return len(letters) > 3 and all(c.isupper() for c in letters)


def _past_layout(text: str, at: int, styles: set[str]) -> int:
    """Past spaces, skips and the openings of centred lines; what styles were switched on there is noted."""
    for _ in range(40):  # more is no heading's
        at = _SPACE.match(text, at).end()
        edge = _EDGE.match(text, at)
        if edge:
            if edge[1] == "begin":
                styles.add(_STYLES.get(edge[2], ""))
            at = edge.end()
            continue
        command = _COMMAND.match(text, at)
        if command is None:
            return at
        word = command[1]
        if word is None or word in _PLAIN_LAYOUT:
            at = command.end()
        elif word in _STYLES and not text.startswith("{", command.end()):
            styles.add(_STYLES[word])
            at = command.end()
        elif layout := skip_layout(word, text, at + len(word) + 1):
            if text.startswith("{", layout[1]):
                return at
            at = layout[1]
        elif word in (
            "vspace",
            "setcounter",
            "addtocounter",
            "label",
            "addcontentsline",
            "setlength",
            "markboth",
            "pagestyle",
            "thispagestyle",
        ):
            at = command.end()
            for _ in range(DROP[word]):
                part = re.compile(r"\{(?:[^{}]|\{[^{}]{0,80}\}){0,200}\}\s*").match(text, at)
                at = part.end() if part else at
        else:
            return at
    return at


def _unwrap(text: str, at: int, styles: set[str], deadline: Deadline) -> tuple[str, int] | None:
    """The inside of what sets a heading in type at this place, its styles noted, and the place after it."""
    if color := _COLORED.match(text, at):
        at = color.end()
    if not text.startswith("{", at):
        command = _COMMAND.match(text, at)
        if command is None or command[1] not in _STYLES or not text.startswith("{", command.end()):
            return None
        styles.add(_STYLES[command[1]])
        at = command.end()
    # a heading's group is short, so a long one is not looked through
    closing = text.find("}", at, at + 300)
    found = group(text[: at + 600], at, deadline) if closing > 0 else None
    if found is None or len(found[0]) > 300:
        return None
    inside, end = found[0], found[1]
    inner = _past_layout(inside, 0, styles)
    deeper = _unwrap(inside, inner, styles, deadline) if len(inside) < 300 else None
    if deeper and not re.sub(r"\\(?:par|hfill|hfil|hss|/)(?![a-zA-Z])|[\s.:]", "", inside[deeper[1] :]):
        return deeper[0], end
    return (inside[inner:], end) if inside[inner:].strip() else None


def _past_heading(text: str, at: int) -> tuple[int, bool]:
    """Past what closes a heading; whether nothing else stands on its line."""
    at = _AFTER.match(text, at).end()
    closed = False
    while edge := re.compile(
        r"\s*(?:\\end\s{0,9}\{(?:center|flushleft|flushright|centering|large|Large|bf)\}|\\(?:par|newline|break|hfill\s?\\break|hfil\s?\\break|linebreak)(?![a-zA-Z@])|\\\\(?:\[[^\]]{0,20}\])?)"
    ).match(text, at):
        at, closed = edge.end(), True
    return at, closed or at >= len(text) or text[at] == "\n"


def name_run_in_headings(text: str) -> str:
    r"""A letter's `\textit{Introduction.}---` and `\centerline{\bf 1. INTRODUCTION}` as sections, if it has both a first and others."""
    found = [m for m in _RUN_IN.finditer(text) if m[2] or m[3] or m[1]]
    titles = [plain_title(m[1] or m[2] or m[3]) for m in found]
    if len(found) < 2 or not any(INTRODUCTION.search(t) or CONCLUSION.search(t) or SUMMARY.search(t) for t in titles):
        return text
    return _RUN_IN.sub(lambda m: f"\n\n\\section*{{{(m[1] or m[2] or m[3]).strip(' .:')}}}\n", text)
