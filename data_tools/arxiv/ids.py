"""arXiv's ids, however people write them → the bare id: `https://arxiv.org/abs/0704.0001v2 [astro-ph]` is 0704.0001.

    paper_id("arXiv:hep-ph/9901001v2")     → ("hep-ph/9901001", 2)
    repaired_id("704.002")                 → "0704.0020": a table held it as a number

The scheme decides what is one: YYMM.NNNN from April 2007 on, YYMM.NNNNN from January 2015 on, before that archive/YYMMNNN.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from urllib.parse import unquote

ARCHIVES = frozenset(  # all that ever gave ids of the old style
    "acc-phys adap-org alg-geom ao-sci astro-ph atom-ph bayes-an chao-dyn chem-ph cmp-lg comp-gas cond-mat cs dg-ga funct-an gr-qc hep-ex "
    "hep-lat hep-ph hep-th math math-ph mtrl-th nlin nucl-ex nucl-th patt-sol physics plasm-ph q-alg q-bio quant-ph solv-int supr-con".split()
)
NEW_ID = re.compile(r"(\d{2})(\d{2})[._](\d{4,5})(?:v(\d{1,3}))?")
OLD_ID = re.compile(r"([a-z][a-z-]*[a-z])(?:\.[a-z-]{2,})?[/_ -]?(\d{2})(\d{2})(\d{3})(?:v(\d{1,3}))?")
NUMBER_ID = re.compile(r"(\d{3,4})\.(\d{1,16})")  # an id that some table held as a number
MAX_WRITTEN = 300

# what may stand before an id, once or several times: a scheme and host, arXiv's own prefixes, the paths of its pages
_BEFORE = re.compile(
    r"(?:https?:)?//[^/?#]*/|(?:www\.|export\.|browse\.)?(?:arxiv\.org|ar5iv\.org|alphaxiv\.org|doi\.org|dx\.doi\.org)/|(?:info:)?doi[:/ ]\s*|"
    r"10\.48550/(?:arxiv[./:])?|oai:arxiv\.org:|info:(?:arxiv|eprint)/|urn:arxiv:|e-?prints?:\s*|arxiv(?:\.org)?\s*(?:[:/_.\s-]|(?=\d))\s*|"
    r"(?:abs|pdf|html|e-print|eprint|src|format|ps|dvi|tb|papers?|overview|html5|labs/html)/|id\s*[:=]\s*",
    re.IGNORECASE,
)
_AFTER = re.compile(
    r"\s+\d{1,2}\s+[a-z]{3}\s+\d{4}$|\.(?:pdf|html?|ps|dvi|tex|txt|json|xml|tar\.gz|tgz|tar|gz)$|[?#].*$|[\s.,;:/\\]+$|\s*[\[(]\s*[a-z][a-z-]+(?:\.[a-z-]+)?(?:\s*[,;/ ]\s*[a-z][a-z-]+(?:\.[a-z-]+)?)*\s*[\])]$",
    re.IGNORECASE | re.S,
)
_BIBCODE = re.compile(r"(?:19|20)\d\d(?:arxiv(\d{4})\.?(\d{4,5})|([a-z]+)\.([a-z]+)\.\.(\d{7}))[a-z.]")  # as ADS names preprints
_AROUND = " \t\r\n\"'<>{}`|"


def paper_id(written: str) -> tuple[str, int] | None:
    """(id without version, version or 0) of an arXiv id in any spelling, also as a source's file is called; None for anything else."""
    name = _bare(written)
    if found := NEW_ID.fullmatch(name):
        base = f"{found[1]}{found[2]}.{found[3]}"
        if not "0704" <= base[:4] <= "9012" or len(found[3]) != _digits(base[:4]):
            return None
    elif found := OLD_ID.fullmatch(name):
        base = f"{found[1]}/{found[2]}{found[3]}{found[4]}"
        if found[1] not in ARCHIVES or not ("9107" <= found[2] + found[3] or found[2] + found[3] <= "0703"):
            return None
    else:
        return None
    if not 1 <= int(base[-5:-3] if "/" in base else base[2:4]) <= 12:
        return None
    return base, int(found[found.re.groups] or 0)


def _bare(written: str) -> str:
    """Without all that stands around an id, in small letters."""
    if len(written) > MAX_WRITTEN:
        return ""
    name = unquote(written).replace("\N{NO-BREAK SPACE}", " ").strip(_AROUND).lower()
    before = None
    while name != before:
        before = name
        name = _AFTER.sub("", name).strip(_AROUND)
        if found := _BEFORE.match(name):
            name = name[found.end() :].strip(_AROUND)
    if found := _BIBCODE.fullmatch(name):
        return f"{found[1]}.{found[2]}" if found[1] else f"{found[3]}-{found[4]}/{found[5]}"
    name = re.sub(r"\s*/+\s*|\s*:\s*(?=\d)", "/", name)
    return re.sub(r"[\s,]+(?=v\d+$)|(?<=\d)\s+(?=\.\d)|(?<=\d\.)\s+(?=\d)", "", name)


def _digits(month: str) -> int:
    return 5 if month >= "1501" else 4


def repaired_id(written: str) -> str | None:
    """The id that a table held as a number: `1501.0171599999999` was 1501.01716, `704.001` was 0704.0010. None: no such thing.

    A number loses the zeros at its ends; how many digits an id must have, its month says, so the right one is known.
    """
    number = _bare(written)
    if re.fullmatch(r"\d(?:\.\d{1,17})?[eE]\+?0*[23]", number):
        try:
            number = f"{Decimal(number):f}"
        except InvalidOperation:
            return None
    found = NUMBER_ID.fullmatch(number)
    if not found:
        return None
    month = found[1].zfill(4)
    digits = _digits(month)
    behind = round(float("0." + found[2]) * 10**digits, 4)
    fixed = f"{month}.{int(behind):0{digits}d}"
    return fixed if 0 < behind == int(behind) and paper_id(fixed) else None  # without its zeros 704 could be any paper of the month
