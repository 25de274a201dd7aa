r"""Bibliography → who is cited; a citing command → the words that stand for it in a sentence.

Names come from the labels of natbib and its kin (`\bibitem[Lee et al.(2014)Lee, Kim]{key}`, `\citeauthoryear`, `\citename`,
`\harvarditem`) and from biblatex's own .bbl. One in parentheses (\citep and kin) goes without trace unless its notes say
something beyond "see, e.g., Fig. 3 of": these stay. One that is a part of speech (\citet) becomes `Lee et al. (2014)`
where the bibliography tells, and `[citation]` where it does not.
"""

import re

from data_tools.latex.limits import Deadline

CITATION = "[citation]"
CITE = re.compile(r"[cC]ite[a-zA-Z]*|(?:paren|foot|auto|text|Text|Paren|Auto|smart|Smart|full|super)cites?[a-z]*|onlinecite|defcitealias")
_PARENTHETICAL = re.compile(
    r"[cC]itep|(?:paren|auto|foot|smart|super|full|Paren|Auto|Smart)cites?|citepalias|citetitle|citenum|citeurl|citedate"
)
_TEXTUAL = frozenset("citet Citet textcite Textcite textcites citetalias cites citeA citeN".split())
_BARE = frozenset("citealt Citealt citealp Citealp citeNP citealias".split())
_AUTHORS = frozenset("citeauthor Citeauthor citefullauthor Citefullauthor citeauthorNP citeauthort".split())
_YEARS = frozenset("citeyear citeyearpar citeyearNP".split())
_PART_OF_SPEECH = re.compile(
    r"(?:^|[.;:]\s|(?:^|\s)(?i:by|in|of|from|with|to|following|than|per|using|both|and|or|as|see|e\.g\.|like|for|on|Refs?\.?))\s*$"
)
_SUBJECT = re.compile(
    r"[ ~\n]\s?(?:also |later |recently |then |first |[a-z]{2,12}ly )?(?:[a-z]{2,12}[^e]ed|found|finds?|shows?|uses?|presents?|reports?|"
    r"suggests?|argues?|notes?|gives?|gave|made)\b"
)
# what a note says about where to look, and not about the matter
_APPARATUS = re.compile(
    r"(?i)(?:\b(?:see|also|e\.? ?g\b\.?|i\.? ?e\b\.?|cf\b\.?|and|or|references?|refs?\b\.?|therein|there|for|a|an|the|more|further|other|many|examples?"
    r"|details?|discussions?|reviews?|recent|overviews?|instance|of|in|from|by|their|our|his|her|fig(?:ure)?s?\b\.?|tab(?:le)?s?\b\.?"
    r"|sec(?:tion|t)?s?\b\.?|eqs?\b\.?|eqns?\b\.?|equations?|chap(?:ter)?s?\b\.?|ch\b\.?|appendix|appendices|app\b\.?|pp?\b\.?|pages?"
    r"|vol(?:ume)?\b\.?|but|however|though|among|others|works?|papers?|citations?|[ivxlc]+|[a-z]?\d+[a-z]?|[a-z])\b"
    r"|\\?[\s.,;:~§()\[\]'\"&/–—-])*"
)
_FOR = re.compile(r"(?i)[\s,;:]*(?:(?:see|e\.g\.|also)[\s,;:]*)*for\b[^()]{0,90}")  # `[see][for a derivation of this]`
_TRAILING = re.compile(r"(?i)[\s,;:]*(?:\b(?:see|also|e\.g\.|cf\.|and|for example|for instance)[\s,;:]*)*$")
_ET_AL = re.compile(r"\bet\.? al\b\.?")
_NEEDS_NAME = re.compile(r"(?i)\b(?:by|of|in|from|than|to|with|following|after|as|unlike|per|includes?|including|like)[\s,;:]*$")
_CONTINUES = re.compile(r"(?i)^[\s,;:]*(?:who|whose|which|where|but|and|using|based|have|has|had|found|finds?|is|are|was|were)\b")

Work = tuple[str, str]  # the authors as printed, the year


def cites_by_name(command: str, before: str, following: str) -> bool:
    r"""Whether a citing command between these two is a part of its sentence: \citet always, \cite and \citealt by what stands around."""
    if command in _TEXTUAL:
        return True
    if command not in _BARE and command != "cite":
        return False
    inside = before.rfind("(") > before.rfind(")") if command in _BARE else before.endswith("(")
    return not inside and (_PART_OF_SPEECH.search(before) is not None or _SUBJECT.match(following) is not None)


def cite_words(command: str, works: list[Work | None], notes: tuple[str, str], by_name: bool) -> str:
    """The words for one citing command: authors and years in words already, the notes before and after, both perhaps empty."""
    works = [work and (_ET_AL.sub("et al.", work[0]), work[1]) for work in works]
    before, after = (_kept(note) for note in notes)
    if command in _AUTHORS:
        shown = _join(list(dict.fromkeys(work[0] for work in works))) if all(works) else CITATION
    elif command in _YEARS:
        years = ", ".join(work[1] for work in works) if all(works) else ""
        shown = years and (f"({years})" if command == "citeyearpar" else years) or " "
    elif by_name:
        shown = _named(works, before, after, bare=command in _BARE)
    else:
        inside = _parenthesis(works, before, after, notes[0])
        shown = inside if command in _BARE or not inside else f" ({inside})"
    return shown[:1].upper() + shown[1:] if command[0] in "CT" else shown or " "


def _kept(note: str) -> str:
    """A note without what only says where to look; "" where it says no more."""
    if len(note) > 600:  # a passage, whatever it says
        return note
    if _APPARATUS.fullmatch(note) or _FOR.fullmatch(note):
        return ""
    return _TRAILING.sub("", note).strip(" ,;")


def _parenthesis(works: list[Work | None], before: str, after: str, said_before: str) -> str:
    if not (before or after):
        return ""
    linked = _NEEDS_NAME.search(before) is not None or _CONTINUES.match(after) is not None
    who = "; ".join(f"{work[0]} {work[1]}".strip() for work in works) if all(works) else CITATION
    if linked or after and all(works):
        return f"{before or said_before} {who}".strip() + (f", {after}" if after else "")
    return "; ".join(filter(None, (before, after)))


def _named(works: list[Work | None], before: str, after: str, bare: bool) -> str:
    if not all(works):
        inside = "; ".join(filter(None, (before, after)))
        return CITATION + (f" ({inside})" if inside else "")
    years: dict[str, list[str]] = {}
    for names, year in works:
        years.setdefault(names, []).append(year)
    said = []
    for i, (names, several) in enumerate(years.items()):
        year = _years(several)
        if i == 0 and before:
            year = f"{before} {year}".strip()
        if i == len(years) - 1 and after:
            year = ", ".join(filter(None, (year, after)))
        said.append(f"{names} {year}".strip() if bare or not year else f"{names} ({year})")
    return _join(said)


def _years(years: list[str]) -> str:
    """`2014a`, `2014b`, `2015` → `2014a,b, 2015`."""
    shown = ""
    for i, year in enumerate(years):
        same = i and re.fullmatch(r"\d{4}[a-z]", year) and years[i - 1][:4] == year[:4]
        shown += f",{year[4:]}" if same else f", {year}" if shown and year else year
    return shown


def _join(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# -- bibliographies

_ITEM = re.compile(r"\\(bibitem|harvarditem|entry)(?![a-zA-Z@])\s{0,9}(?:(\[)|\{([^{}\n]{1,200})\})")
_TOKEN = re.compile(r"\\.|[{}\]()]", re.S)
_KEY = re.compile(r"\s{0,9}%?\s{0,9}\{\s{0,9}([^{}\n]{1,200}?)\s{0,9}\}")
_WORDS_OF_STYLES = [
    (re.compile(pattern), shown)
    for pattern, shown in (
        (r"\\BOthers(?:Period)?(?![a-zA-Z])\s*(?:\{[^{}]{0,20}\})?\s*\.?", "et al."),
        (r"\\(?:&|BBA(?![a-zA-Z])|harvardand(?![a-zA-Z]))\s*(?:\{\})?", " and "),
        (r"\\(?:citenamefont|bibf?namefont|natexlab)(?![a-zA-Z])", ""),
        (r"\\bibinit(?:period|delim)(?![a-zA-Z])\s*(?:\{\})?", " "),
    )
]
_FORMS = re.compile(r"\\(citeauthoryear|citename|astroncite|BCAY|cite@?authoryear)(?![a-zA-Z])\s{0,9}(?=\{)")
_ONLY_YEAR = re.compile(r"[\s{(]*((?:18|19|20)\d\d[a-z]?)[\s})]*")
_INITIALS = re.compile(r"(?:\b[A-Z][a-z]?\.[\s~-]{0,2}){1,4}|\b(?:Jr|Sr)\.?|(?<!\\)\b[A-Z]{1,3}\b\.?(?![\\{])")
_MAX_LABEL = 40_000  # a collaboration's long list of authors
_NAMES_SHOWN = re.compile(r"max(?:cite)?names\s{0,3}=\s{0,3}(\d{1,3})")
_FAMILY = re.compile(r"(?<![a-z])(family|prefix)\s{0,3}=\s{0,3}(?=\{)")


def citation_names(bibliography: str, deadline: Deadline) -> dict[str, Work]:
    """For each key of a bibliography the authors as printed and the year, both TeX still."""
    names: dict[str, Work] = {}
    shown = _NAMES_SHOWN.search(bibliography)
    for item in _ITEM.finditer(bibliography):
        deadline.check(every=16)
        if item[1] == "entry":
            end = bibliography.find(r"\endentry", item.end(), item.end() + _MAX_LABEL)
            work = _biblatex(bibliography[item.end() : end], int(shown[1]) if shown else 3) if end > 0 and item[3] else None
            key = item[3]
        elif item[1] == "harvarditem":
            work, key = _harvard(bibliography, item.end() - 1)
        elif item[2]:
            end = _end(bibliography, item.end(), "]")
            found = _KEY.match(bibliography, end + 1) if end else None
            work, key = (_label(bibliography[item.end() : end]), found[1]) if found else (None, "")
            year = _ONLY_YEAR.fullmatch(bibliography[item.end() : end]) if found and work is None else None
            if year:
                work = _first_words(bibliography[found.end() : found.end() + 600], year[1])
        else:
            continue
        if work and work[0].strip():
            names.setdefault(key.strip(), tuple(_spelled(part) for part in work))
    return names


def _spelled(tex: str) -> str:
    for pattern, shown in _WORDS_OF_STYLES:
        tex = pattern.sub(shown, tex)
    return tex.strip(" ,~\n")


def _end(text: str, at: int, closing: str) -> int:
    """Where the first `closing` outside braces stands; 0 when there is none."""
    depth = 0
    for token in _TOKEN.finditer(text, at, at + _MAX_LABEL):
        if token[0] == closing and depth == 0:
            return token.start()
        depth += (token[0] == "{") - (token[0] == "}")
        if depth < 0:
            return 0
    return 0


def _groups(text: str, at: int, most: int) -> list[str]:
    """Up to `most` {groups} that follow one another from `at`."""
    found: list[str] = []
    while len(found) < most:
        at += len(text[at:]) - len(text[at:].lstrip(" \n%")) if text[at : at + 1] in (" ", "\n", "%") else 0
        end = _end(text, at + 1, "}") if text.startswith("{", at) else 0
        if not end:
            return found
        found.append(text[at + 1 : end])
        at = end + 1
    return found


def _label(label: str) -> Work | None:
    label = label.replace(r"\protect", "").strip()
    while label.startswith("{") and _end(label, 1, "}") == len(label) - 1:
        label = label[1:-1].strip()
    form = _FORMS.search(label)
    if form:
        parts = _groups(label, form.end(), 3)
        if form[1] == "citename" and len(parts) == 1:
            return parts[0], label[form.end() + len(parts[0]) + 2 :].strip(" {}")
        return (parts[-2], parts[-1]) if len(parts) > 1 else None
    opening = _end(label, 0, "(")
    closing = _end(label, opening + 1, ")") if opening else 0
    if closing and closing - opening < 60:
        return label[:opening], label[opening + 1 : closing]
    plain = re.fullmatch(r"(.*[^\W\d_][.}]{0,3})[,~\s]{1,4}\{?((?:18|19|20)\d\d(?:\{?\\natexlab\s?\{\w\}\}?|[a-z])?)\}?", label, re.S)
    return (plain[1], plain[2]) if plain and len(label) < 300 else None


def _first_words(item: str, year: str) -> Work | None:
    """Who is cited by an item whose label is the year alone, as in A&A's of old: `Baraffe I., El Eid M., 1990, A&A 238, 1`."""
    end = re.search(rf"[,:.;~\s]{{0,4}}\(?{year[:4]}|\n\s*\n|\\bibitem", item)
    people = re.sub(r"\\(?:it|sc|bf|rm|newblock)(?![a-zA-Z])", "", item[: end.start()]) if end else ""
    more = re.search(r"(?:\\?\bet|and)[\s~]+(?:al|others)\b.*", people, re.S)
    people = people[: more.start()] if more else people
    names = []
    for part in re.split(r",|;|\\?&|\band\b", people):
        name = " ".join(_INITIALS.sub(" ", part.replace("~", " ")).split()).strip(" .:")
        if re.search(r"[^\W\d_]{2}", name):
            names.append(name)
    if not names or len(names[0]) > 60:
        return None
    return (f"{names[0]} et al." if more or len(names) > 2 else " and ".join(names)), year


def _harvard(text: str, at: int) -> tuple[Work | None, str]:
    short = ""
    if text.startswith("[", at):
        end = _end(text, at + 1, "]")
        short, at = text[at + 1 : end], end + 1
    else:
        at = text.rfind("{", 0, at + 1)
    parts = _groups(text, at, 3)
    return ((short or parts[0], parts[1]), parts[2]) if len(parts) == 3 else (None, "")


def _biblatex(entry: str, most: int) -> Work | None:
    r"""Authors and year of what stands between \entry and \endentry: all authors up to `most`, else the first and `et al.`."""
    lists = {kind: at for kind in ("editor", "author", "labelname") if (at := entry.find(f"\\name{{{kind}}}")) >= 0}
    if not lists:
        return None
    # \name{author}{2}{options}{names}, and without the options of late
    parts = _groups(entry, entry.index("{", list(lists.values())[-1]), 4)
    people = [name for one in _groups(parts[-1], 0, 100) if (name := _person(one))] if len(parts) > 2 else []
    if not people:
        return None
    year, letter = (
        re.search(rf"\\field\{{{field}\}}\{{([^{{}}]{{1,20}})\}}", entry) for field in ("(?:label)?year", "extra(?:date|year|alpha)")
    )
    more = re.search(r"\\true\{more(?:label(?:name)?|author|names?)\}", entry)
    if len(people) > most or more:
        said = f"{people[0]} et al."
    else:
        said = _join(people) if len(people) < 3 else f"{', '.join(people[:-1])}, and {people[-1]}"
    suffix = chr(96 + int(letter[1])) if letter and letter[1].isdecimal() and 0 < int(letter[1]) < 27 else ""
    return said, (year[1] + suffix if year else "")


def _person(name: str) -> str:
    parts = {found[1]: (_groups(name, found.end(), 1) or [""])[0] for found in _FAMILY.finditer(name)}
    if not parts:
        old = _groups(name, 0, 9)  # {hash}{family}{f.}{given}{g.}{prefix}...
        parts = {"family": old[1], "prefix": old[5] if len(old) > 5 else ""} if len(old) > 3 else {}
    return f"{parts.get('prefix', '')} {parts.get('family', '')}".strip()
