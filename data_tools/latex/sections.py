r"""A paper's body → title, abstract and sections, each still TeX; and what each section is.

Introduction: the first section so called (also Background or Motivation, when first); else unsectioned text of
MIN_UNSECTIONED words or more between the abstract and the first section, if it is not most of the paper. A letter without sections has neither.

Conclusion: the last section called conclusion; else the last called summary, closing or final remarks; else a last
subsection so called in the last section; else a last section called Discussion whose opening says what the paper did
("We have presented", "In this paper"), for such a Discussion closes the paper, and one that opens on a detail does not.
Sections without prose never count, the first section never is the conclusion.
"""

import itertools
import re
from dataclasses import dataclass

from data_tools.latex.headings.find import find_headings
from data_tools.latex.headings.spelled import LEVELS
from data_tools.latex.headings.titles import APPENDIX, BACK, BRIEF_BACK, CONCLUSION, INTRODUCTION, OPENING, SUMMARY, plain_title
from data_tools.latex.limits import MAX_SECTIONS, Deadline, PaperError
from data_tools.latex.macros import bracket, group, join
from data_tools.latex.names import DROP_ENVIRONMENTS
from data_tools.latex.tidy import HEADING

MIN_UNSECTIONED = 40
MAX_UNSECTIONED = 0.6
MAX_BRIEF = 150
_SPACE = re.compile(r"\s*")
_ENVIRONMENT = re.compile(r"\\(begin|end)\s{0,9}\{([a-zA-Z]{1,40})\*?\}")
_ABSTRACT = re.compile(
    r"\\begin\s{0,9}\{((?:onecol|singlecolumn|foreign|extended|en|eng|[eE]nglish|[fF]rench|[gG]erman|[sS]panish|[iI]talian)?[aA]bstracts?(?:[eE]n(?:g|glish)?|EN)?)\}|\\([aA]bstracts?)(?![a-zA-Z@])"
)
_WHO_DID_WHAT = re.compile(r"(?i:\b(?:contributed|conceived|wrote|led|designed|authors?)\b)|\b[A-Z]\. ?[A-Z]\.")
_OTHER_ABSTRACT = re.compile(
    r"(?:[a-zA-Z]{2,10})?[aA]bstract(?:[a-zA-Z]{2,10})?|[rR]esum[eo]n?|[zZ]usammenfassung|[sS]amenvatting|[sS]ommario|[rR]iassunto|[kK]urzfassung"
)
_OTHER_BEGIN = re.compile(r"\\begin\s{0,9}\{(" + _OTHER_ABSTRACT.pattern + r")\}")
_ARGUMENT = re.compile(r"^(?:\s{0,9}\{[^{}\n]{0,80}\})+(?=\s{0,9}\n)")  # whose abstract it is
_PART = re.compile(r"\\part(?![a-zA-Z@])\*?\s{0,9}")
_ENGLISH = frozenset("the of and to in is that for we are with this by as on which from these it be was".split())
_FRONT = re.compile(
    r"\\(title|author|affil|affiliation|altaffiltext|address|email|institute|keywords|date|correspondingauthor|maketitle|thanks"
    r"|begin\s{0,9}\{document\}|icmltitle|icmlauthor|shorttitle|shortauthors|subjectheadings|pacs|pagerange|preprint|and"
    r"|collaboration|offprints|received|accepted|end\s{0,9}\{(?:frontmatter|keywords?|titlepage)\})(?![a-zA-Z@])"
)
_THANKS = re.compile(r"\\(?:acknowledge?ments?|theacknowledgments|Acknowledge?ments?|ack)(?![a-zA-Z@])")
_AFTER_THANKS = re.compile(
    r"\\(?:chapter|section|appendix|bibliography|software|facilit(?:y|ies))(?![a-zA-Z])|\\begin\s{0,9}\{(?:appendi|thebib)"
)
_DISCUSSION = re.compile(
    r"^(?:general )?discussions?$|^discussions? (?:and|of) (?:future|outlook|perspectives?|prospects?|implications?|the results|results|our results)\b"
    r"|^results and discussions?$"
)
# what some journals put behind the discussion
_BEHIND = re.compile(
    r"^(?:(?:online |star )?methods?(?: summary)?|materials? and methods?|methods? and materials?|experimental (?:section|procedures|methods)|(?:figure|table) (?:legends?|captions?)|figures|tables)$"
)
_SAYS_WHAT_WAS_DONE = re.compile(
    r"(?i)\b(?:in this|this|the present) (?:research |short |first )?(?:paper|work|letter|note|article|study)\b"
    r"|\b(?:we|i) (?:have|has) (?:\w+ )?(?:\w+ed|shown|begun|found|made|given|seen|built|taken|undertaken)\b"
    r"|\b(?:we|i) (?:present|presented|developed|introduced|showed|implemented|described|demonstrated|explored|investigated|studied|derived)\b"
)
_GRATITUDE = re.compile(
    r"(?i)^(?:finally, |lastly, )?(?:(?:we|the authors?|i)(?: would| wish| also| all| gratefully| warmly| sincerely| like to| to){0,4} (?:thank|acknowledge|are grateful)\b"
    r"|it is (?:a|my|our) (?:great )?pleasure|special thanks\b|(?:many )?thanks (?:to|are)\b"
    r"|(?:this|these|some of the|parts? of th(?:is|e)|the)\s(?:\w+\s){0,2}?(?:work|research|project|paper|study|data|results|publication|material|observations?|programme?|author)\b"
    r"[^.]{0,80}?(?:(?:has |have )?ma(?:de|kes?) (?:extensive |partial )?use of|(?:was|were|is|are|has been|have been) (?:partly |partially |also |in part )?(?:supported|funded|developed at|performed (?:at|in part)|obtained (?:from|at|with)|made possible)|is based (?:up)?on (?:observations|data|work)|includes data collected|were obtained)"
    r"|(?:funding|support|financial support)(?: for [^.]{0,60})? (?:was|were|is|has|came|for)\b"
    r"|[A-Z][^a-z]{0,30}[^.]{0,3}[\w. ]{0,60}(?:acknowledges?|is grateful|are grateful|(?:was|were|is) (?:partially |partly |in part )?(?:supported|funded))\b"
    r"|comput(?:ing|ational|er) (?:resources|time|facilities)\b|based (?:in part )?on observations\b|\W*acknowled?ge?ments?\b)"
)


@dataclass
class Section:
    """One top-level section: title and text, TeX at first and words later; `kind` says what it is."""

    title: str
    kind: str  # "body", "introduction", "conclusion", "appendix" or "back"
    text: str


def cut_environments(text: str, deadline: Deadline) -> str:
    """Without floats, listings, bibliography and the like; one that never ends loses its \\begin only."""
    opened: dict[str, list[int]] = {}
    cuts: list[tuple[int, int]] = []
    for token in _ENVIRONMENT.finditer(text):
        deadline.check(every=1024)
        if token[2] not in DROP_ENVIRONMENTS and not _OTHER_ABSTRACT.fullmatch(token[2]):
            continue
        if token[1] == "begin":
            opened.setdefault(token[2], []).append(token.start())
        elif opened.get(token[2]):
            cuts.append((opened[token[2]].pop(), token.end()))
    out, at = [], 0
    for start, end in sorted(cuts):
        if start >= at:
            out.append(text[at:start])
        at = max(at, end)
    return join((*out, text[at:]))


def cut_title(text: str, deadline: Deadline) -> tuple[str, str]:
    """The title's TeX and the text without it."""
    for found in re.finditer(r"\\(?:icml|Main|main)?[tT]itle(?![a-zA-Z@])\s{0,9}", text):
        at = found.end()
        option = bracket(text, at) if text.startswith("[", at) else None
        at = _SPACE.match(text, option[1] if option else at).end()
        title = group(text, at, deadline) if text.startswith("{", at) else None
        if title and title[0].strip() and "#" not in title[0]:
            return title[0], join((text[: found.start()], text[title[1] :]))
    return "", text


def english_abstract(abstract: str, text: str, deadline: Deadline) -> tuple[str, str]:
    """Of the abstracts in several languages that a thesis has, the English one, and the text without it."""
    for _ in range(4):
        if not abstract or _is_english(abstract):
            break
        other, rest = cut_abstract(text, deadline)
        if not other:
            break
        text = rest
        if _is_english(other):
            return other, text
    return abstract, text


def _is_english(tex: str) -> bool:
    words = re.findall(r"[^\W\d_]+", re.sub(r"\\[a-zA-Z]+", " ", tex.lower()))
    return len(words) < 30 or sum(word in _ENGLISH for word in words) > len(words) / 8


def cut_abstract(text: str, deadline: Deadline) -> tuple[str, str]:
    r"""The abstract's TeX and the text after it as one: `\begin{abstract}`, `\abstract{...}`, A&A's five parts."""
    for found in itertools.chain(_ABSTRACT.finditer(text), _OTHER_BEGIN.finditer(text)):
        deadline.check()
        if found[1]:
            end = re.compile(r"\\end\s{0,9}\{" + found[1] + r"\}").search(text, found.end())
            if end and text[found.end() : end.start()].strip():
                inside = _ARGUMENT.sub("", text[found.end() : end.start()])
                return inside, text[: found.start()] + "\n\n\\maketitle\n\n" + text[end.end() :]
            continue
        at = _SPACE.match(text, found.end()).end()
        option = bracket(text, at) if text.startswith("[", at) else None
        at = option[1] if option else at
        parts = []
        while len(parts) < 5 and (part := _part(text, at, deadline)):
            parts.append(part[0].strip())
            at = part[1]
        if "".join(parts):
            return "\n".join(filter(None, parts)), text[: found.start()] + "\n\n\\maketitle\n\n" + text[at:]
    return "", text


def _part(text: str, at: int, deadline: Deadline) -> tuple[str, int] | None:
    at = _SPACE.match(text, at).end()
    return group(text, at, deadline) if text.startswith("{", at) else None


def cut_thanks(text: str) -> str:
    r"""Without what follows \acknowledgments, up to the next section, appendix or bibliography."""
    out, at = [], 0
    for found in _THANKS.finditer(text):
        if found.start() < at:
            continue
        out.append(text[at : found.start()])
        after = _AFTER_THANKS.search(text, found.end())
        at = after.start() if after else len(text)
    return join((*out, text[at:]))


def split_sections(text: str, deadline: Deadline) -> list[Section]:
    """The body as top-level sections in order, titles and texts TeX; text before the first has the title ""."""
    text, headings = find_headings(text, deadline)
    used = [name for name, *_ in headings if name in LEVELS]
    top = min(used, key=LEVELS.index) if used else ""
    cuts = [h for h in headings if h[0] in (top, "appendix", "matter")]
    if len(cuts) > MAX_SECTIONS:
        raise PaperError("too many sections", f"{len(cuts)} headings of one level; at most {MAX_SECTIONS} are read")
    if top == "chapter" and _PART.search(text):
        text, headings = find_headings(_without_parts(text, deadline), deadline)
        cuts = [h for h in headings if h[0] in (top, "appendix", "matter")]
    start = _front_end(text[: cuts[0][2]] if cuts else text, deadline)
    # before a book's first chapter stand title pages, never its introduction
    sections = [Section("", "front" if top == "chapter" else "body", text[start : cuts[0][2] if cuts else len(text)])]
    appendix = False
    for i, (name, title, _, end) in enumerate(cuts):
        appendix = (appendix or name == "appendix") and name != "matter"
        body = text[end : cuts[i + 1][2] if i + 1 < len(cuts) else len(text)]
        if name == "matter" or name == "appendix" and INTRODUCTION.search(plain_title(sections[-1].title)):
            sections[-1].text += body  # no paper ends there: the text goes on until something is a heading
        elif name != "appendix" or body.strip():
            sections.append(Section(title, "appendix" if appendix else "body", body))
    return sections


def _without_parts(text: str, deadline: Deadline) -> str:
    """A book without the titles of its parts, for they are of no chapter."""
    out, at = [], 0
    for found in _PART.finditer(text):
        option = bracket(text, found.end()) if text.startswith("[", found.end()) else None
        opening = _SPACE.match(text, option[1] if option else found.end()).end()
        title = group(text, opening, deadline) if text.startswith("{", opening) else None
        if title and found.start() >= at:
            out.append(text[at : found.start()])
            at = title[1]
    return join((*out, text[at:]))


def _front_end(text: str, deadline: Deadline) -> int:
    """Where the title, the authors and their addresses end."""
    end = 0
    for found in _FRONT.finditer(text):
        at = max(end, found.end())
        while True:
            at = _SPACE.match(text, at).end()
            option = bracket(text, at) if text.startswith("[", at) else None
            part = group(text, at, deadline) if text.startswith("{", at) else option
            if part is None:
                break
            at = part[1]
        end = max(end, at)
    return end


def classify(sections: list[Section]) -> tuple[Section | None, Section | None]:
    """Set every section's kind; the introduction and the conclusion, which may be a new Section cut from the last one."""
    for section in sections:
        title = plain_title(section.title)
        if _is_back(title, section.text):
            section.kind = "back"
        elif APPENDIX.match(title):
            section.kind = "appendix"
    body = [s for s in sections if s.kind == "body"]
    main = [s for s in body if _has_prose(s)]
    introduction = _introduction(main)
    if introduction:
        introduction.kind = "introduction"
    rest = main[main.index(introduction) + 1 :] if introduction else main[1:]
    conclusion = _conclusion(rest, still_to_write=any(_concludes(s.title) for s in body if s not in main))
    if conclusion in rest:
        conclusion.kind = "conclusion"
    for section in sections:
        section.kind = "body" if section.kind == "front" else section.kind
    return introduction, conclusion


def _is_back(title: str, text: str) -> bool:
    if BACK.search(title):
        return True
    if not BRIEF_BACK.search(title) or len(text.split()) > MAX_BRIEF:
        return False
    return not title.startswith("contribution") or _WHO_DID_WHAT.search(text) is not None


def _has_prose(section: Section) -> bool:
    """Whether it has more than headings."""
    return any(paragraph.strip() and HEADING not in paragraph for paragraph in section.text.split("\n\n"))


def _concludes(title: str) -> bool:
    return CONCLUSION.search(plain_title(title)) is not None or SUMMARY.search(plain_title(title)) is not None


def _introduction(main: list[Section]) -> Section | None:
    for i, section in enumerate(main[:8]):
        # behind summaries in other languages, prefaces and the like only what has no other name
        if (INTRODUCTION.search if i < 4 else INTRODUCTION.fullmatch)(plain_title(section.title)):
            return section
    if not main:
        return None
    titled = [s for s in main if s.title]
    words = [len(s.text.split()) for s in main]
    if not main[0].title and titled and words[0] >= MIN_UNSECTIONED and words[0] <= MAX_UNSECTIONED * sum(words):
        return main[0]
    return titled[0] if titled and OPENING.search(plain_title(titled[0].title)) else None


def _conclusion(rest: list[Section], still_to_write: bool) -> Section | None:
    for pattern in (CONCLUSION, SUMMARY):
        for section in reversed(rest):
            if pattern.search(plain_title(section.title)):
                return section
    while rest and _BEHIND.search(plain_title(rest[-1].title)):
        rest = rest[:-1]
    if not rest or still_to_write:
        return None
    last = rest[-1]
    part = _closing_part(last)
    if part:
        return part
    opening = " ".join(last.text.split()[:150])
    if _DISCUSSION.search(plain_title(last.title)) and _SAYS_WHAT_WAS_DONE.search(opening):
        return last
    return None


def _closing_part(section: Section) -> Section | None:
    """The last subsection of a section, if it is called conclusion or summary."""
    paragraphs = section.text.split("\n\n")
    headings = [i for i, paragraph in enumerate(paragraphs) if HEADING in paragraph]
    if headings and _concludes(paragraphs[headings[-1]]):
        return Section(paragraphs[headings[-1]], "conclusion", "\n\n".join(paragraphs[headings[-1] + 1 :]))
    return None


def cut_back_parts(text: str) -> str:
    """A section without its subsections of acknowledgements, availability statements and the like, and without closing thanks."""
    kept: list[str] = []
    for part in re.split(f"\n\n(?={HEADING})", text):
        title, _, below = part.partition("\n\n")
        if HEADING not in title or not _is_back(plain_title(title), below):
            kept += part.split("\n\n")
    # some authors thank people, grants and archives in the last paragraphs of their last section
    while kept and _GRATITUDE.match(kept[-1]):
        kept.pop()
    return "\n\n".join(kept)
