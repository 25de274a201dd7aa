"""TeX markup in titles, abstracts: line wraps, accents, {\\it et al.}, ties. What stands in mathematics is left as it is."""

from __future__ import annotations

import re
import unicodedata

MATH = re.compile(
    r"(?<!\\)\$\$.{1,5000}?(?<!\\)\$\$|(?<!\\)\$(?:[^$\n]|\n(?!\s*\n)){1,2000}?(?<!\\)\$|\\\(.{1,2000}?\\\)|\\\[.{1,5000}?\\\]"
    r"|\\begin\{(equation|align|eqnarray|gather|multline|math|displaymath)(\*?)\}.{1,9000}?\\end\{\1\2\}",
    re.DOTALL,
)


def clean_title(title: str) -> str:
    return clean_tex(" ".join(title.split()))


def clean_abstract(abstract: str) -> str:
    """arXiv wraps lines at 80 and marks a new paragraph by an indented line; a flat text stays one paragraph."""
    paragraphs = re.split(r"\n[ \t]*\n|\n[ \t]+(?=\S)", abstract.strip())
    return "\n\n".join(cleaned for paragraph in paragraphs if (cleaned := clean_tex(" ".join(paragraph.split()))))


ACCENTS = dict(zip("'`^\"~=.uvHckdbr", "\u0301\u0300\u0302\u0308\u0303\u0304\u0307\u0306\u030c\u030b\u0327\u0328\u0323\u0331\u030a"))
LETTERS = {
    "ss": "ß",
    "ae": "æ",
    "AE": "Æ",
    "oe": "œ",
    "OE": "Œ",
    "aa": "å",
    "AA": "Å",
    "o": "ø",
    "O": "Ø",
    "l": "ł",
    "L": "Ł",
    "i": "ı",
    "j": "ȷ",
}
ENTITIES = {"&lt;": "<", "&gt;": ">", "&amp;": "&", "&quot;": '"', "&#39;": "'"}
SWITCHES = r"tenit|tenrm|it|em|bf|sl|sc|rm|tt|sf|itshape|bfseries|scshape|upshape|rmfamily|normalfont|small|large|Large|footnotesize"
WRAPPERS = r"emph|textit|textbf|textsc|textrm|texttt|textsl|textsf|textnormal|textup|underline|uline|mbox|hbox|text|url|title|protect"
MAX_NESTING = 10
STEPS: list[tuple[re.Pattern, str]] = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"\\(?:cite[a-z]*|label|ref|eqref|footnote|thanks|vspace|hspace)\*?(?:\[[^]]*\])*\{[^{}]*\}", ""),
        (r"\\href\{[^{}]*\}\{([^{}]*)\}", r"\1"),
        (r"\\\\(?=\s|$)|\\newline\b|\\par\b|\\linebreak\b", " "),
        (r"\\(?:noindent|indent|bigskip|medskip|smallskip|centering|hfill|vfill|newpage)\b\s*", ""),
        (r"\\[,;: ]|\\quad\b|\\qquad\b", " "),
        (r"\\[!/-](?![a-zA-Z]*\{)", ""),
        (r"\\([%&#_])", r"\1"),
        (r"\{\\deg\}|\\deg\b", "°"),
        (r"\\(?:SI|qty)\{([^{}]*)\}\{([^{}]*)\}", r"\1 \2"),
        (r"\\textcolor\{[^{}]*\}(?=\{)", r"\\text"),
        (r"\\texorpdfstring\{([^{}]*)\}\{[^{}]*\}", r"\1"),
        (r"\\~\{\}|\\textasciitilde\b(?:\{\})?", "~"),
        (r"\\ldots\b|\\dots\b", "…"),
    ]
]
GROUPS: list[tuple[re.Pattern, str]] = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (rf"\{{\s*\\(?:{SWITCHES})\b\s*([^{{}}]*)\}}", r"\1"),
        (rf"\\(?:{SWITCHES})\{{([^{{}}]*)\}}", r"\1"),
        (rf"\\(?:{WRAPPERS})\s*\{{([^{{}}]*)\}}", r"\1"),
        (r"(?<![\\A-Za-z^_}\]*])\{([^{}\\]*)\}", r"\1"),
    ]
]


def clean_tex(text: str) -> str:
    """Prose of one paragraph without TeX markup; mathematics ($…$, \\(…\\), displays) comes out byte for byte."""
    if len(re.findall(r"(?<!\\)\$", text)) % 2:
        return unicodedata.normalize("NFC", text)  # a lost dollar: what is mathematics cannot be told
    kept: list[str] = []

    def hide(found: re.Match) -> str:
        kept.append(found[0])
        return f"\ue000{len(kept) - 1}\ue001"

    text = re.sub("[\ue000\ue001]|[\x00-\x08\x0b-\x1f\x7f]", "", text)
    is_tex = "\\" in text or "$" in text
    text = MATH.sub(hide, text)
    for entity, letter in ENTITIES.items():
        text = text.replace(entity, letter)
    text = _accents(text) if "\\" in text else text
    if is_tex and "~" in text:
        text = re.sub("(\\S{1,99})~(?=(\\S))", _untied, text)
    if "\\" in text:
        for pattern, replacement in STEPS:
            text = pattern.sub(replacement, text)
    text = re.sub(r"(?<!\d)''", "”", re.sub(r"(?<![\\`])``", "“", text))  # 5''.2 are seconds of arc
    for _ in range(MAX_NESTING if "{" in text else 0):  # inside out: {\bf {\it x}}
        before = text
        for pattern, replacement in GROUPS:
            text = pattern.sub(replacement, text)
        if text == before:
            break
    text = re.sub(rf"\\(?:{SWITCHES})\b(?!\{{)\s*", "", text)
    text = re.sub(r" {2,}", " ", text).strip()
    text = re.sub(r" +([,.;])(?=\s|$)", r"\1", text)
    text = unicodedata.normalize("NFC", text)  # before the mathematics returns: that stays as it was
    return re.sub("\ue000(\\d+)\ue001", lambda found: kept[int(found[1])], text)


def _untied(found: re.Match) -> str:
    """Fig.~1, 69~yr and NGC~1275 are ties; in z~1, M_BH~10^9 and (~10 the sign stands for "about" and stays."""
    before, after = found[1], found[2]
    word = re.search(r"(?:^|[(\[{-])[^\W\d_]{2,}[.,]?$|\.$", before)
    if "/" in before[-2:] or (after in "0123456789([" and not word):
        return found[0]
    return before.replace("~", " ") + " "


def _accents(text: str) -> str:
    def compose(found: re.Match) -> str:
        letter = {"\\i": "i", "\\j": "j"}.get(found[2].strip(), found[2].strip().lstrip("\\"))
        return unicodedata.normalize("NFC", letter + ACCENTS[found[1]])

    letter = r"(\\[ij](?![A-Za-z])|[A-Za-z])"
    text = re.sub(r"(?<=[A-Za-z])\\'(?=s(?![A-Za-z]))", "'", text)  # Earth\'s is no ś
    text = re.sub(r"\\(['`^\"~=.])\s*" + letter, compose, text)
    text = re.sub(r"\\(['`^\"~=.uvHckdbr])\s*\{\s*" + letter + r"\s*\}", compose, text)
    text = re.sub(r"\\([uvHckdbr])\s+" + letter, compose, text)
    names = "|".join(sorted(LETTERS, key=len, reverse=True))
    text = re.sub(rf"\{{\s*\\({names})\s*\}}", lambda found: LETTERS[found[1]], text)
    text = re.sub(rf"(?<=[a-z])\\({names}) (?=[a-z])", lambda found: LETTERS[found[1]], text)  # Stra\ss e; but 7500 \AA at
    text = re.sub(rf"\\({names})(?![A-Za-z])(?:\{{\}})?", lambda found: LETTERS[found[1]], text)
    return re.sub(r"\{([^\W\d_])\}", lambda found: found[1] if ord(found[1]) > 127 else found[0], text)  # {\'e} → {é} → é
