"""Whether a paper was taken back, by the phrases that comments and abstracts have for it; stars and gas may be withdrawn, too.

says_so("This submission has been removed by arXiv administrators", in_comments=True)       → True
says_so("Stars were withdrawn from the sample", in_comments=True)                           → False
"""

from __future__ import annotations

import re

PAPER = r"(?:paper|article|manuscript|submission|e-?print|pre-?print|letter|note|work|contribution|document|thesis|report|version|draft|comment)"
TAKEN_BACK = r"(?:withdrawn(?:/retracted)?|retracted)"
REMOVED = r"(?:removed|deleted|taken down)"
ARXIV = r"(?:arxiv|administrators?|admins?|moderators?)"
BY_ARXIV = rf"by\s+(?:the\s+)?(?:[\w-]+\s+){{0,2}}?{ARXIV}\b"
BY = rf"(?:by|(?:at|on) (?:the )?request of)\s+(?:(?:the|its|all|one|of|both|this|first|corresponding|original)\s+){{0,4}}(?:authors?|submitters?|{ARXIV})(?!['’])\b"
ASIDE = (  # between the paper and what was done to it: ", submitted to PRD," "(astro-ph/9301003)" "arXiv:0704.0001"
    r"(?:\s*\([^()]{0,80}\)|\s*,[^,.;]{0,80},|\s+(?:arxiv:)?[\w./-]{0,30}\d{4}[\w./-]{0,12}|\s+(?:by|entitled|submitted|titled)\b[^,.;]{0,60})?\s*[:,-]?\s+"
)
HAS_BEEN = (
    r"(?:(?:has|have|had|is|are|was|were|being|been|be|will|must|should|to|now|also|hereby|herewith|temporarily|subsequently|later|since|just|"
    r"voluntarily|formally|officially|therefore|thus|regretfully|permanently|already|currently|entirely|completely)\s+){0,5}"
)
ELSEWHERE = (
    r"(?!\s+(?:from|for)\s+(?!(?:the\s+)?(?:arxiv|publication|consideration|submission|circulation|further|revision)))"  # from a journal
)
WHY = (
    r"(?:due|because|owing|as\b|since|for\b|pending|until|after|in favou?r|and (?:replaced|superseded|merged|will)|by\b|on\b|at\b|following|while|"
    r"from (?:the )?(?:arxiv|publication|consideration|submission|circulation))"
)
END = r"\s*(?:$|[.,;:!)\]-])"

SENTENCES = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\b{PAPER}{ASIDE}{HAS_BEEN}{TAKEN_BACK}\b{ELSEWHERE}",
        rf"\b{PAPER}{ASIDE}{HAS_BEEN}{REMOVED}(?:{END}|\s+(?:{BY}|due|because|from (?:the )?arxiv|at the))",
        rf"\b{TAKEN_BACK}\s+{BY}|\b{REMOVED}\s+{BY_ARXIV}",
        rf"\b(?:authors?|submitters?|we|i|{ARXIV})\s+(?:\w+\s+){{0,3}}?(?:withdr[ae]w\w*|retract\w*)\s+(?:\w+\s+){{0,2}}?{PAPER}\b{ELSEWHERE}",
        rf"^\W*withdrawal\s+(?:of\s+(?:this|the)\s+{PAPER}|by\b|notice)",
    )
]
ITEM = rf"(?:now\s+|temporarily\s+)?(?:{TAKEN_BACK}(?:{END}|\s+{WHY})|{REMOVED}\s+{BY})"  # the whole remark: "12 pages, withdrawn"
ITEMS = {True: re.compile(rf"(?:^|[,;.:(\[])\W*{ITEM}", re.IGNORECASE), False: re.compile(rf"^\W*{ITEM}", re.IGNORECASE)}

# before the paper's name: a part of it, or another one
NOT_THIS = re.compile(
    r"\b(?:of|in|from|on|to|with|via|how|by|that)\s+(?:(?:this|the|our|a|an|present|current|such)\s+)*$"
    r"|\b(?:previous|earlier|first|former|prior|old|older|original|initial|companion|accompanying|other|another|supersedes?|replac(?:es|ing|ement)|"
    r"v\d+|version \d+|which)\b[^.;]{0,40}$",
    re.IGNORECASE,
)


def says_so(text: str, *, in_comments: bool) -> bool:
    """Whether this very paper was taken back, by its authors or by arXiv; an abstract says so in its first words or in a sentence."""
    text = " ".join(text.split())[: 2000 if in_comments else 400]
    found = [match for pattern in (*SENTENCES, ITEMS[in_comments]) for match in pattern.finditer(text)]
    return any(not NOT_THIS.search(text[max(0, match.start() - 80) : match.start()]) for match in found)
