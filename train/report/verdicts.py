"""What evaluations left below runs/NAME/eval/: known results as tables, any other as what it holds.

perplexity.json, mcq.json {"models": {NAME: {figure: value, "interval": [low, high]}}}, sweep.json, and whatever else is a JSON object
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train.report import page
from train.report.records import Run

MOST_CELLS, MOST_ROWS, LONGEST = 14, 200, 1200
FIRST = ("perplexity", "interval", "accuracy", "bits_per_byte", "loss", "tokens", "documents", "questions")


def verdicts(run: Run) -> str:
    """Pictures first, then a table a result."""
    shown = [page.picture(_title(file.relative_to(run.folder / "eval").with_suffix("")), file) for file in run.pictures]
    whole = page.pictures(shown)
    for name, result in run.verdicts.items():
        whole += f"<h3>{page.text(_title(Path(name).with_suffix('')))}</h3>" + _result(result)
    return whole


def _title(path: Path) -> str:
    return " / ".join(part.replace("_", " ") for part in path.parts)


def _result(result: Mapping[str, Any]) -> str:
    """Plain values as facts, mappings and lists of mappings as tables."""
    whole = page.facts({key: value(v) for key, v in result.items() if not isinstance(v, (dict, list)) or _is_short(v)})
    for key, found in result.items():
        if isinstance(found, dict) and found and all(isinstance(v, dict) for v in found.values()):
            whole += rows_of(key, [{key.removesuffix("s"): name, **row} for name, row in found.items()])
        elif isinstance(found, dict) and found:
            whole += f"<h3>{page.text(key)}</h3>" + page.facts({k: value(v) for k, v in found.items()})
        elif isinstance(found, list) and found and all(isinstance(v, dict) for v in found):
            whole += rows_of(key, found)
    return whole


def rows_of(caption: str, rows: list[dict[str, Any]]) -> str:
    """A table of mappings: a column a key, those that are looked for first; nested ones spread out."""
    flat = [_flat(row) for row in rows[:MOST_ROWS]]
    keys = list(dict.fromkeys(key for row in flat for key in row))
    name = keys[:1]
    keys = [*name, *(k for k in FIRST if k in keys), *(k for k in keys if k not in FIRST and k not in name)][:MOST_CELLS]
    numbers = [i for i, key in enumerate(keys) if all(isinstance(row.get(key), (int, float)) or _is_short(row.get(key)) for row in flat)]
    body = [[value(row.get(key, "")) for key in keys] for row in flat]
    more = page.paragraph(f"and {len(rows) - MOST_ROWS:,} more") if len(rows) > MOST_ROWS else ""
    return page.table(keys, body, caption.replace("_", " "), numbers) + more


def _flat(row: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, one in row.items():
        if isinstance(one, dict):
            found |= _flat(one, f"{before}{key} ")
        else:
            found[f"{before}{key}"] = one
    return found


def _is_short(one: Any) -> bool:
    """A list of a few numbers, as an interval is."""
    return isinstance(one, list) and 0 < len(one) <= 3 and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in one)


def value(one: Any) -> str:
    """As a person reads it."""
    if isinstance(one, bool) or one is None:
        return {True: "yes", False: "no", None: ""}[one]
    if isinstance(one, int):
        return f"{one:,}"
    if isinstance(one, float):
        return f"{one:.4g}" if abs(one) < 1e4 else f"{one:,.0f}"
    if _is_short(one):
        return f"[{', '.join(map(value, one))}]"
    said = one if isinstance(one, str) else json.dumps(one, ensure_ascii=False)
    return said if len(said) <= LONGEST else said[:LONGEST] + " …"
