"""One line of arXiv's metadata → a `Record`, chosen or not, with clean title and abstract.

1. `parse` reads the Kaggle snapshot's lines (14 fields, line wraps kept) and flat ones (`id, title, abstract, categories, date`).
2. `Selection.why_not` says why a record was not asked for: category, date, licence; `is_withdrawn` finds papers taken back.
3. `cleaned` has line wraps, TeX accents and stray markup of title and abstract undone (by documents/clean.py), last, for it costs most.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from fnmatch import fnmatchcase

from data_tools.documents.clean import clean_abstract, clean_title

NEW_ID = re.compile(r"(\d{2})(\d{2})\.(\d{4,5})(v\d+)?$")  # four digits until 1412, five since 1501
NUMBER_ID = re.compile(r"(\d{3,4})\.(\d{1,16})$")  # an id that some table held as a number
OLD_ID = re.compile(r"([a-z][a-z-]*[a-z])(?:\.[A-Za-z-]{2,})?[/_]?(\d{2})(\d{2})(\d{3})(v\d+)?$")

MAX_CHARACTERS = 20_000  # of title and abstract; arXiv itself allows 1,920


class RecordError(ValueError):
    """A line that is no record; the message is the reason's detail."""


@dataclass(frozen=True, kw_only=True)
class Record:
    id: str  # without version: 2301.00001, hep-ph/9901001
    title: str
    abstract: str
    categories: tuple[str, ...]  # the first is the primary one
    date: str  # of the first version: 2007-04-02, or 1993-01 where only the month is known
    updated: str
    license: str  # cc-by-4.0, cc0-1.0, arxiv-nonexclusive-1.0 …; "unknown" where none is given
    version: int  # the latest; 0 where not known
    comments: str


def paper_id(name: str) -> tuple[str, int] | None:
    """(id without version, version or 0) of an arXiv id or of a source's file name without ending; None for any other name.

    `hep-ph9901001v2` and `hep-ph/9901001` are one paper, so are `arXiv:2301.00001` and `2301.00001v3`.
    """
    name = name.strip().removeprefix("arXiv:").removeprefix("arxiv:")
    if found := NEW_ID.fullmatch(name):
        base = f"{found[1]}{found[2]}.{found[3]}"
        if len(found[3]) != (5 if base >= "1501" else 4):
            return None
    elif found := OLD_ID.fullmatch(name):
        base = f"{found[1]}/{found[2]}{found[3]}{found[4]}"
    else:
        return None
    if not 1 <= int(found[2] if "." in base.split("/")[-1] else found[3]) <= 12:
        return None
    version = found[found.lastindex] if (found[found.lastindex] or "").startswith("v") else "v0"
    return base, int(version[1:])


def repaired_id(name: str) -> str | None:
    """The id that a table held as a number: `1501.0171599999999` was 1501.01716, `704.001` was 0704.0010. None: no such thing."""
    found = NUMBER_ID.fullmatch(name.strip())
    if not found:
        return None
    month = found[1].zfill(4)
    digits = 5 if month >= "1501" else 4
    number = round(float("0." + found[2]) * 10**digits, 4)
    fixed = f"{month}.{int(number):0{digits}d}"
    return fixed if number == int(number) and paper_id(fixed) else None


def parse(fields: object) -> Record:
    """A record of a line's JSON value, title and abstract as they stand (`cleaned` comes after the selection).

    Raises RecordError.
    """
    if not isinstance(fields, dict):
        raise RecordError("not a JSON object")
    for key in ("id", "title", "abstract"):
        if not isinstance(fields.get(key), str) or not fields[key].strip():
            raise RecordError(f"no {key}")
    if len(fields["title"]) + len(fields["abstract"]) > MAX_CHARACTERS:
        raise RecordError(f"an abstract of {len(fields['abstract'])} characters; at most {MAX_CHARACTERS} are one")
    found = paper_id(fields["id"]) or paper_id(repaired_id(fields["id"]) or "")
    if found is None:
        raise RecordError(f"id {fields['id'][:40]!r} is no arXiv id")
    base, version = found
    versions = [entry for entry in fields.get("versions") or [] if isinstance(entry, dict)]
    for entry in versions:
        if re.fullmatch(r"v\d+", str(entry.get("version"))):
            version = max(version, int(entry["version"][1:]))
    categories = fields.get("categories") or ""
    categories = categories.split() if isinstance(categories, str) else [word for entry in categories for word in str(entry).split()]
    primary = fields.get("primary_category")
    if isinstance(primary, str) and primary in categories:
        categories = [primary] + [category for category in categories if category != primary]
    return Record(
        id=base,
        title=fields["title"],
        abstract=fields["abstract"],
        categories=tuple(categories),
        date=_first_date(fields, versions, base),
        updated=str(fields.get("update_date") or ""),
        license=short_license(fields.get("license")),
        version=version,
        comments=" ".join(str(fields.get("comments") or "").split()),
    )


def cleaned(record: Record) -> Record:
    return replace(record, title=clean_title(record.title), abstract=clean_abstract(record.abstract))


def _first_date(fields: dict, versions: list[dict], base: str) -> str:
    if versions and versions[0].get("created"):
        try:
            return parsedate_to_datetime(str(versions[0]["created"])).date().isoformat()
        except ValueError:
            pass  # fall to what else the record says
    for key in ("date", "published"):
        if isinstance(fields.get(key), str) and re.match(r"\d{4}-\d{2}", fields[key]):
            return fields[key][:10]
    year, month = re.search(r"(\d{2})(\d{2})(?=\.|\d{3}$)", base).groups()
    return f"{'19' if int(year) > 90 else '20'}{year}-{month}"


def short_license(url: object) -> str:
    """`http://creativecommons.org/licenses/by/4.0/` → `cc-by-4.0`."""
    if not isinstance(url, str) or not url.strip():
        return "unknown"
    words = url.strip().rstrip("/").lower().split("/")
    if "creativecommons.org" in url:
        return "cc0-1.0" if "publicdomain" in words else f"cc-{words[-2]}-{words[-1]}"
    return f"arxiv-{words[-2].removesuffix('-distrib')}-{words[-1]}" if "arxiv.org" in url else url.strip().lower()


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What was asked for. Dates as YYYY, YYYY-MM or YYYY-MM-DD, both ends included; patterns as file names' (`astro-ph*`, `cc-*`)."""

    categories: tuple[str, ...] = ("astro-ph*",)
    primary_only: bool = False
    since: str = ""
    until: str = ""
    licenses: tuple[str, ...] = ()

    def why_not(self, record: Record) -> str | None:
        among = record.categories[:1] if self.primary_only else record.categories
        if self.categories and not any(fnmatchcase(category, pattern) for category in among for pattern in self.categories):
            return "category"
        day = (record.date + "-01-01")[:10]
        if day < (self.since + "-01-01")[:10] * bool(self.since) or (self.until and day[: len(self.until)] > self.until):
            return "date"
        if self.licenses and not any(fnmatchcase(record.license, pattern) for pattern in self.licenses):
            return "license"
        return None


WITHDRAWN_COMMENT = re.compile(
    r"\b(?:paper|article|manuscript|submission|preprint|work|letter|note|version|it|has been|have|was|is|being|temporarily|authors?)\b"
    r"[^.;]{0,40}\b(?:withdrawn|withdraw|retracted)\b|^\W*(?:withdrawn|retracted)\b"
    r"|\b(?:withdrawn|retracted) (?:by|due|because|for|from)\b",
    re.IGNORECASE,
)
WITHDRAWN_ABSTRACT = re.compile(
    r"^\W*(?:withdrawn|retracted)\b|^.{0,80}\b(?:paper|article|manuscript|submission|preprint|work|letter|note|version)\b[^.]{0,40}"
    r"\b(?:withdrawn|retracted)\b|\b(?:withdrawn|retracted) by (?:the )?(?:author|arxiv)",
    re.IGNORECASE,
)


def is_withdrawn(record: Record) -> bool:
    return bool(WITHDRAWN_COMMENT.search(record.comments) or WITHDRAWN_ABSTRACT.search(" ".join(record.abstract[:300].split())))
