"""Words with left-over spaces, quotes and punctuation → paragraphs in order."""

import re

from data_tools.latex.formulas import OPEN

BREAK = "\ue002"  # a line's end that stays one
HEADING = "\ue003"  # before a heading inside a passage, until `tidy` is through with empty ones
_TIDY = [
    (re.compile(pattern), shown)
    for pattern, shown in (
        (r"``|''", '"'),
        (r"`", "'"),
        (r"---", "—"),
        (r"--", "–"),
        (r"[ \t\u00a0]+", " "),
        (r" ?\( ?(?:(?:see|also|and|or|in|from|by|cf\.?|e\.g\.|i\.e\.|[,;:.&]) ?){0,12}\)", ""),
        (r" ?\[ ?[,;:]{0,3} ?\]", ""),
        (r"\( ?[,;] ?", "("),
        (r" ?[,;] ?\)", ")"),
        (r"\( ", "("),
        (r" \)", ")"),
        (r"([,;])(?: ?[,;]){1,9}", r"\1"),
        (r" ([,;:.!?](?!\d|\.\.))", r"\1"),
        (r"\.(?: ?\.)(?! ?\.)(?<!\.\.\.)", "."),
    )
]


def tidy(text: str) -> str:
    """Spaces, quotes, dashes and left-over punctuation in order; a line a paragraph or list item, no heading without text."""
    paragraphs = []
    for paragraph in re.split(r"\n[ \t]*\n", text):
        lines = []
        for line in paragraph.split(BREAK):
            line = " ".join(line.split())
            for pattern, shown in _TIDY:
                line = pattern.sub(shown, line)
            line = line.strip()
            if re.search(r"[^\W\d_]|\d{2}", line.replace(OPEN, "a")):
                lines.append(line)
        if lines:
            paragraphs.append("\n".join(lines))
    headed = [HEADING in p for p in paragraphs] + [True]
    return "\n\n".join(p for i, p in enumerate(paragraphs) if not (headed[i] and headed[i + 1]))
