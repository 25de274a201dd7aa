r"""Numbers behind \ref, names behind \cite: what the reader of the printed paper would see.

References become the number that LaTeX would print, counted in order (rows of one equation environment by their
labels). Citations: see prose.py; names come from the natbib labels of the paper's own bibliography, if it has one.
"""

import re

from data_tools.latex.limits import Deadline
from data_tools.latex.names import MATH_ENVIRONMENTS

_COUNTED = re.compile(
    r"\\begin\s{0,9}\{([a-zA-Z]{1,40})(\*?)\}|\\end\s{0,9}\{([a-zA-Z]{1,40})\*?\}|\\(section|subsection|subsubsection|chapter)(?![a-zA-Z*])"
    r"|\\(appendix)(?![a-zA-Z])|\\label\s{0,9}\{([^{}\n]{1,200})\}|\\(item|figcaption)(?![a-zA-Z])"
)
_FIGURES = ("figure", "wrapfigure", "SCfigure", "sidewaysfigure", "floatingfigure")
_TABLES = (
    "table",
    "deluxetable",
    "longtable",
    "sidewaystable",
    "wraptable",
    "splitdeluxetable",
    "longdeluxetable",
    "rotatetable",
    "floattable",
)
_LEVELS = ("section", "subsection", "subsubsection")
_WORDS = {
    "figure": "Figure",
    "table": "Table",
    "equation": "Equation",
    "section": "Section",
    "appendix": "Appendix",
    "item": "item",
    "algorithm": "Algorithm",
}
_ALIAS = re.compile(r"\\defcitealias\s{0,9}\{([^{}\n]{1,200})\}\s{0,9}\{([^{}\n]{1,200})\}")
_ACRONYM = re.compile(
    r"\\(acro|acrodef|newacronym|DeclareAcronym|newacro)\*?\s{0,9}(?:\[[^\]\n]{0,80}\])?\{([^{}\n]{1,60})\}\s{0,9}"
    r"(?:\[([^\]\n]{0,80})\]|\{([^{}\n]{0,80})\}(?=\s{0,9}\{))?\s{0,9}\{([^{}]{1,300})\}"
)


ACRONYM = frozenset(
    "ac acp acl aclp acs acsp acf acfp Ac Acp Acl Aclp Acf gls glspl Gls Glspl glsentrylong acrshort acrlong acrfull".split()
)


def number_labels(text: str, deadline: Deadline) -> dict[str, tuple[str, str]]:
    """For each \\label its kind of thing ("Figure") and its number ("3", "2.1", "A")."""
    labels: dict[str, tuple[str, str]] = {}
    counts = dict.fromkeys((*_LEVELS, "figure", "table", "equation", "algorithm"), 0)
    place = [("section", "")]  # innermost last; what a \label here would number
    appendix = False
    labelled_rows = 0
    items: list[int] = []
    for token in _COUNTED.finditer(text):
        deadline.check(every=1024)
        begin, starred, end, level, is_appendix, label, other = token.groups()
        if level in _LEVELS:
            counts[level] += 1
            for lower in _LEVELS[_LEVELS.index(level) + 1 :]:
                counts[lower] = 0
            first = chr(ord("A") + (counts["section"] - 1) % 26) if appendix else str(counts["section"])
            number = ".".join((first, *(str(counts[name]) for name in _LEVELS[1 : _LEVELS.index(level) + 1])))
            place, items = [("appendix" if appendix else "section", number)], []
        elif is_appendix or begin in ("appendix", "appendices"):
            appendix = True
            counts["section"] = 0
        elif label is not None:
            kind, number = place[-1]
            if kind == "equation":
                labelled_rows += 1
                if labelled_rows > 1:
                    counts["equation"] += 1
                number = str(counts["equation"])
            labels.setdefault(label.strip(), (_WORDS.get(kind, ""), number))
        elif begin:
            kind = _kind(begin)
            if kind and not (kind == "equation" and starred):
                counts[kind] += 1
                labelled_rows = 0
                place.append((kind, str(counts[kind])))
            elif begin == "enumerate":
                items.append(0)
        elif end:
            if len(place) > 1 and _kind(end) == place[-1][0]:
                place.pop()
            elif end == "enumerate" and items:
                items.pop()
                if place[-1][0] == "item":
                    place.pop()
        elif other == "item" and items:
            items[-1] += 1
            if place[-1][0] == "item":
                place.pop()
            place.append(("item", str(items[-1])))
    return labels


def _kind(environment: str) -> str:
    if environment in _FIGURES:
        return "figure"
    if environment in _TABLES:
        return "table"
    if environment == "algorithm":
        return "algorithm"
    return "equation" if environment in MATH_ENVIRONMENTS and environment not in ("displaymath", "math") else ""


def citation_aliases(text: str) -> dict[str, str]:
    r"""The short names that \defcitealias gives to keys."""
    return {key.strip(): name for key, name in _ALIAS.findall(text)}


def acronyms(text: str, deadline: Deadline) -> dict[str, tuple[str, str]]:
    """For each acronym declared with the acronym or glossaries package its short and its long form."""
    found = {}
    for kind, key, short, shorter, long in _ACRONYM.findall(text):
        deadline.check(every=64)
        if kind == "DeclareAcronym":
            fields = dict(re.findall(r"(short|long)\s*=\s*\{?([^,{}]{1,200})", long))
            found[key] = (fields.get("short", key).strip(), fields.get("long", key).strip())
        else:
            found[key] = ((short or shorter or key).strip(), long.strip())
    return found


def acronym_words(word: str, short: str, long: str, new: bool) -> str:
    """What one command of the acronym or glossaries package shows; `new` where the acronym was not spelled out before."""
    plural = "s" if word.endswith(("p", "pl")) else ""
    new = new and "s" not in word[2:3]
    if not long or "short" in word or word[2:3] == "s" and word[:2] != "gl":
        shown = short + plural
    elif word[2:3] == "l" and word[:2].lower() == "ac" or "long" in word:
        shown = long + plural
    elif new or "full" in word or word[2:3] == "f":
        shown = f"{long}{plural} ({short}{plural})"
    else:
        shown = short + plural
    return shown[:1].upper() + shown[1:] if word[0] in "AG" else shown
