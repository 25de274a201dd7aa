r"""A paper's title in its TeX, compared with the title that the metadata give: by words, without commands, accents and case."""

import re
import unicodedata

_TITLE = re.compile(r"\\(?:title|Title|TITLE|icmltitle|papertitle|doctitle|chaptitle)\*?(?![a-zA-Z])\s{0,9}(?:\[[^\]]{0,600}\]\s{0,9})?\{")
_ASIDE = re.compile(
    r"\\(?:thanks|footnote|footnotetext|tnote\w*|thanksref|vspace|hspace|label|fnmsep|corref)\*?\s{0,9}(?:\[[^\]]{0,80}\])?\s{0,9}\{(?:[^{}]|\{[^{}]{0,300}\}){0,900}\}"
)
_MAX_TITLE = 2000
_ALIKE = 0.7  # of the words of the longer title


def title_of(text: str) -> str:
    """What stands in the first title command of TeX without comments; "" where there is none."""
    found = _TITLE.search(text)
    if found is None:
        return ""
    depth = 1
    for at in range(found.end(), min(len(text), found.end() + _MAX_TITLE)):
        depth += (text[at] == "{") - (text[at] == "}") if text[at - 1] != "\\" else 0
        if not depth:
            return text[found.end() : at]
    return ""


def title_likeness(title: str, other: str) -> int:
    """2 for the same title, 1 for one that shares most words, 0 else."""
    words, others = _words(title), _words(other)
    if not words or not others:
        return 0
    if "".join(words) == "".join(others):
        return 2
    return int(len(set(words) & set(others)) >= _ALIKE * max(len(set(words)), len(set(others))))


def _words(title: str) -> list[str]:
    plain = re.sub(r"\\[a-zA-Z]+\*?|\\.", lambda m: "" if m[0][1:2] in "'`^\"~=.-/" else " ", _ASIDE.sub(" ", title))
    folded = unicodedata.normalize("NFKD", plain)
    return re.findall(r"[a-z0-9]+", "".join(c for c in folded if not unicodedata.combining(c) and c not in "{}$^_").lower())
