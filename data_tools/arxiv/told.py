"""What `prepare arxiv` tells its user: too many bad records, nothing made and why, and the last lines of a run that made something."""

from __future__ import annotations

from collections import Counter
from typing import Any

from data_tools.arxiv.plan import ArxivError


def refuse_bad(plan: dict[str, Any], scanned: list[dict[str, Any]], share: float) -> None:
    """ArxivError when more records than this share cannot be used, or all of one file."""
    read: Counter[str] = Counter()
    bad: Counter[str] = Counter()
    first: dict[str, str] = {}
    for result in scanned:
        name = plan["files"][result["file"]]
        read[name] += result["counts"].get("read", 0)
        bad[name] += result["bad"]
        for detail in result["first_bad"]:
            first.setdefault(name, detail)
    lost = [name for name in plan["files"] if bad[name] and bad[name] == read[name] and share < 1]
    if bad.total() > share * read.total() or lost:
        name = (lost or [name for name in plan["files"] if name in first])[0]
        counted = f"{bad[name]:,} of its {read[name]:,}" if lost else f"{bad.total():,} of {read.total():,}"
        raise ArxivError(f"{name}: {first[name]}; {counted} records cannot be used; mend them, or allow more with --bad-rows SHARE")


def refuse_nothing(plan: dict[str, Any], results: dict[str, list[Any]], counts: dict[str, Any]) -> None:
    """ArxivError when no document was made, with the counts and the likeliest cause."""
    if counts["kept"]:
        return
    if not counts["read"]:
        empty = (
            f"{', '.join(plan['files'][:3])}: no record in {len(plan['files'])} files"
            if plan["files"]
            else "no source in what --latex names"
        )
        raise ArxivError(f"no document was made: {empty}; are they the right files, and whole?")
    reasons = Counter(counts["not_chosen"]) + Counter(counts["dropped"])
    why = reasons.most_common(1)[0][0]
    said = f"not asked for {listed(counts['not_chosen'])}; dropped {listed(counts['dropped'])}"
    raise ArxivError(f"no document was made of {counts['read']:,} records: {said}. {_cause(why, plan, results)}")


def _cause(why: str, plan: dict[str, Any], results: dict[str, list[Any]]) -> str:
    selection = plan["selection"]
    asked = {
        "category": f"--categories {' '.join(selection['categories'])}" + " --primary-only" * selection["primary_only"],
        "date": " ".join(f"--{name} {selection[name]}" for name in ("since", "until") if selection[name]),
        "license": f"--license {' '.join(selection['licenses'])}",
    }
    if why in asked:
        instead: Counter[str] = Counter()
        for result in results["scan"]:
            instead.update(result["instead"].get(why, {}))
        return f"{asked[why]} matches none of them; most have {listed(dict(instead.most_common(4)))}"
    if why.startswith("source_"):
        return "the sources could not be read; their reasons are above, and sources are .tex, .gz, .tar.gz or .tar of LaTeX"
    return {
        "withdrawn": "Papers taken back stay with --keep-withdrawn",
        "no_parts": f"None has what --parts {','.join(plan['parts'])} asks for",
        "contaminated": "They stand in what --decontaminate names",
        "bad_record": "No record could be used; a record has id, title and abstract",
    }.get(why, f"The filter {why} dropped most; see --filters")


def last_lines(plan: dict[str, Any], results: dict[str, list[Any]], counts: dict[str, Any], strange: list[str]) -> list[str]:
    """How many records were not asked for or dropped, and why; which sources were used, which not."""
    lines = []
    for label, reasons in (("not asked for", counts["not_chosen"]), ("dropped", counts["dropped"])):
        if reasons:
            lines.append(f"{label}: {sum(reasons.values()):,} of {counts['read']:,} records ({listed(reasons)})")
    latex, matched = Counter(counts["latex"]), Counter(counts["records"])
    if results["latex"]:
        used = matched["with a source"] if plan["has_metadata"] else latex["read"]
        line = f"LaTeX: {used:,} of {latex['sources']:,} sources used, {matched['without a source']:,} metadata records without one"
        names = [name for result in results["latex"] for name in result["strange"]]
        refused = {reason.removeprefix("refused "): number for reason, number in latex.items() if reason.startswith("refused ")}
        unused = {
            "of papers not asked for": latex["not_chosen"],
            f"whose name is no arXiv id ({', '.join(names[:2])}{' …' * (len(names) > 2)})": latex["without_id"],
            f"refused ({listed(refused)})": sum(refused.values()),
            "of another version of one used": latex["read"] - used,
        }
        told = ", ".join(f"{number:,} {what}" for what, number in unused.items() if number)
        lines.append(line + f"; not used: {told}" * bool(told))
    damaged = [dump for result in results["latex"] for dump in result["damaged"]]
    lines += [f"LaTeX: {dump}; what follows in this dump was not read: copy it again, and make the documents anew" for dump in damaged]
    if strange:
        few = f"{', '.join(strange[:3])}{' …' * (len(strange) > 3)}"
        lines.append(
            f"LaTeX: {len(strange):,} files and folders beside the sources were passed over ({few}): sources are .tex, .gz, .tar.gz, .tar"
        )
    return lines


def listed(numbers: dict[str, int]) -> str:
    """`license 9, date 1`, the most frequent first."""
    return ", ".join(f"{name} {number:,}" for name, number in sorted(numbers.items(), key=lambda row: (-row[1], row[0]))) or "none"
