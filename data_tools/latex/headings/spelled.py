r"""Headings as classes and macro files spell them → \section and its kin, and where these stand.

`\section *{X}`, KOMA's \addsec, \begin{section}{X}, amsppt's \head X \endhead, plain TeX's \beginsection.
"""

import re

from data_tools.latex.headings.titles import CONCLUSION, INTRODUCTION
from data_tools.latex.limits import Deadline
from data_tools.latex.macros import bracket, group

LEVELS = ("chapter", "section", "subsection", "subsubsection", "paragraph")
_SPACE = re.compile(r"\s*")
_HEADING = re.compile(
    r"\\(chapter|section|subsection|subsubsection|paragraph)(?![a-zA-Z@])\*?\s{0,9}(?=[\[{])"
    r"|\\(appendix|mainmatter|backmatter)(?![a-zA-Z@])\*?|\\(begin|end)\s{0,9}\{(?:appendix|appendices)\}"
)

_STARRED = re.compile(r"\\(part|chapter|(?:sub){0,2}section|(?:sub)?paragraph)(?![a-zA-Z@])\s{0,9}(?:(\*)\s{0,9})?(?=[\[{])")
_EMPTY = re.compile(r"\\(?:sub){0,2}section\*?\s?\{\s{0,9}\}")
_ALIASES = {
    name: level
    for level, names in {
        "part": "addpart",
        "chapter": "addchap Chapter chapterstar unnumberedchapter mychapter",
        "section": "addsec Section SECTION specialsection head heading sectionhead titlea bmhead nonumsection unnumberedsection sectionstar starsection"
        " mysection nsection newsection asection newsec",
        "subsection": "subhead subheading titleb Subsection SubSection subsectionstar addsubsec mysubsection nsubsection subsec",
        "subsubsection": "subsubhead subsubheading titlec Subsubsection SubSubSection subsubsectionstar mysubsubsection subsubsec",
    }.items()
    for name in names.split()
}
_ALIAS = re.compile(r"\\([a-zA-Z]{4,24})\s{0,9}\*?\s{0,9}(?=[\[{])")
_ENDED = re.compile(r"\\((?:sub){0,2}head|heading|subheading)(?![a-zA-Z{])\s{0,9}([^\n{}]{1,200}?)\s{0,9}\\end\1(?![a-zA-Z])")
_BEGINSECTION = re.compile(r"\\beginsection(?![a-zA-Z])\s{0,9}(.{1,200}?)\s{0,9}(?:\\par(?![a-zA-Z])|\n[ \t]*\n)", re.S)
_AS_ENVIRONMENT = re.compile(
    r"\\begin\s{0,9}\{((?:sub){0,2}section|chapter)\*?\}\s{0,9}(?=[\[{])|\\end\s{0,9}\{(?:(?:sub){0,2}section|chapter)\*?\}"
)
_NAMED = re.compile(r"\\begin\s{0,9}\{(introduction|conclusions?|methods)\}|\\end\s{0,9}\{(?:introduction|conclusions?|methods)\}", re.I)
# an author's or a class's own command for a heading, `\SpecialSection{X}`, and what only says how headings look
_NAMES_A_LEVEL = re.compile(
    r"[a-zA-Z]{0,14}?(?:[sS]ub|SUB){0,2}([sS]ection|SECTION|[cC]hapter)(?:[sS]tar|NoNum|[nN]onum|[uU]nnumbered|[A-Z]|Heading|Title)?"
)
_LAYOUT_OF_HEADINGS = re.compile(
    r"[fF]ont|[mM]ark|[nN]ame|[fF]ormat|style|numbering|[cC]lear|[rR]ef|the|toc|in|by|at[a-z]|after|before|every|add|cross|inter|dis"
)
_ANNEX = re.compile(r"\\(?:[aA]nnexe?|Appendix|[aA]pp(?:endix)?(?:[cC]hapter|[sS]ection))(?![a-zA-Z@])\s{0,9}\*?\s{0,9}(?=[\[{])")
_CHAPTER = re.compile(r"\\chapter(?![a-zA-Z@])")
_TITLE = re.compile(r"\{\s{0,9}([^{}\n]{3,60}?)\s{0,9}\}")
_PNAS = re.compile(r"\\(?:matmethods|materialsandmethods)(?![a-zA-Z])\s{0,9}\{")
# Copernicus' classes name two sections by commands of their own
_COPERNICUS = re.compile(r"\\(introduction|conclusions)(?![a-zA-Z])\s{0,9}(?:\[([^\]\n]{1,80})\])?(?!\s{0,9}\{)")


def spell_headings(text: str) -> str:
    r"""`\section *{X}`, `\addsec{X}`, `\begin{section}{X}`, `\head X\endhead` and the like as `\section*{X}`."""
    text = _EMPTY.sub("\n\n", text)
    text = _AS_ENVIRONMENT.sub(lambda m: f"\n\n\\{m[1]}" if m[1] else "\n\n", text)
    text = _STARRED.sub(lambda m: f"\\{m[1]}{m[2] or ''}", text)
    chapters = _CHAPTER.search(text) is not None
    text = _ANNEX.sub(rf"\n\n\\appendix\n\\{'chapter' if chapters else 'section'}*", text)
    text = _ALIAS.sub(lambda m: _alias(m, chapters), text)
    if r"\end" in text:
        text = _ENDED.sub(lambda m: f"\n\n\\{_ALIASES[m[1]]}*{{{m[2]}}}\n", text)
    text = _BEGINSECTION.sub(lambda m: f"\n\n\\section*{{{' '.join(m[1].split())}}}\n\n", text)
    text = _PNAS.sub("\n\n\\\\section*{Materials and Methods}\n{", text)
    text = _NAMED.sub(lambda m: f"\n\n\\section*{{{m[1].capitalize()}}}\n" if m[1] else "\n\n", text)
    return _COPERNICUS.sub(lambda m: f"\n\n\\section{{{m[2] or m[1].capitalize()}}}\n", text)


def _alias(found: re.Match[str], chapters: bool) -> str:
    name = found[1]
    named = _NAMES_A_LEVEL.fullmatch(name)
    if name in LEVELS or name not in _ALIASES and (named is None or _LAYOUT_OF_HEADINGS.search(name)):
        return found[0]
    level = _ALIASES.get(name) or "sub" * name.lower().count("sub") + named[1].lower()
    title = _TITLE.match(found.string, found.end()) if chapters and level == "section" and named else None
    if title and (INTRODUCTION.search(title[1].lower()) or CONCLUSION.search(title[1].lower())):
        level = "chapter"  # among chapters a section that is called so stands beside them, not in one
    return f"\n\n\\{level}*"


def headings_of(text: str, deadline: Deadline) -> list[tuple[str, str, int, int]]:
    """(level, title, start, end) of every heading that has a title, and where the appendix begins or ends."""
    headings = []
    for found in _HEADING.finditer(text):
        deadline.check(every=64)
        if found[1] is None:
            begins = found[2] == "appendix" or found[3] == "begin"
            headings.append(("appendix" if begins else "matter", "", found.start(), found.end()))
            continue
        at = found.end()
        for _ in range(2):  # memoir has one for the contents and one for the page's head
            option = bracket(text, at) if text.startswith("[", at) else None
            at = _SPACE.match(text, option[1] if option else at).end()
        title = group(text, at, deadline) if text.startswith("{", at) else None
        shown = re.sub(r"\\(?:begin|end)\s?\{[^{}]{0,40}\}|\\[a-zA-Z]+", "", title[0]) if title else ""
        if re.search(r"\w", shown) and "#" not in title[0] and len(title[0]) < 1000:
            headings.append((found[1], title[0], found.start(), title[1]))
    return headings
