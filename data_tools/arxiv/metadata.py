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

from data_tools.arxiv.ids import paper_id, repaired_id
from data_tools.arxiv.withdrawn import says_so
from data_tools.documents.clean import clean_abstract, clean_title

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


def parse(fields: object) -> Record:
    """A record of a line's JSON value, title and abstract as they stand (`cleaned` comes after the selection).

    Raises RecordError.
    """
    if not isinstance(fields, dict):
        raise RecordError("not a JSON object")
    if isinstance(fields.get("id"), (int, float)) and not isinstance(fields["id"], bool):
        fields = {**fields, "id": str(fields["id"])}  # of a Written: as it stands in the file
    for key in ("id", "title", "abstract"):
        if not isinstance(fields.get(key), str) or not fields[key].strip():
            raise RecordError(f"no {key}")
    if len(fields["title"]) + len(fields["abstract"]) > MAX_CHARACTERS:
        raise RecordError(f"an abstract of {len(fields['abstract'])} characters; at most {MAX_CHARACTERS} are one")
    found = paper_id(fields["id"]) or paper_id(repaired_id(fields["id"]) or "")
    if found is None:
        lost = re.fullmatch(r"\s*\d{6,7}\s*", fields["id"])
        raise RecordError(f"id {fields['id'][:60]!r} is no arXiv id" + (": of which archive? write astro-ph/9301003" if lost else ""))
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


def is_withdrawn(record: Record) -> bool:
    return says_so(record.comments, in_comments=True) or says_so(record.abstract[:1000], in_comments=False)
