"""A folder of documents → one HTML page that needs nothing else: what came in, what was dropped and why, what the rest looks like.

    python -m data_tools.prepare report corpus/astro          # → corpus/astro/report.html

Figures come from counts.json, samples from the documents and the dropped ones; the same folder makes the same page.
"""

from __future__ import annotations

import argparse
import gzip
import html
import io
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from data_tools.arxiv.buckets import name_hash
from data_tools.documents.folder import COUNTS, FOLDERS, RECORD
from data_tools.files.atomic import write_atomically

LINES_LOOKED_AT = 2000  # of each file, for samples
BLUE, RED = "#2f6fab", "#c0533e"


class ReportError(ValueError):
    """A folder that holds no finished documents."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: python -m data_tools.prepare report corpus/astro"
    parser.add_argument("folder", metavar="DIR", help="a folder that `prepare arxiv` made")
    parser.add_argument("--out", metavar="FILE", help="where to write the page (default: DIR/report.html)")
    parser.add_argument(
        "--samples",
        type=int,
        default=6,
        metavar="N",
        help="documents to show (default: 6), and up to 4 dropped ones for each reason",
    )


def run(args: argparse.Namespace) -> None:
    folder = Path(args.folder)
    out = Path(args.out) if args.out else folder / "report.html"
    write_atomically(out, page(folder, args.samples).encode())
    print(f"{out}: {out.stat().st_size / 1e3:,.0f} kB, opens in any browser")


def page(folder: Path, samples: int = 6) -> str:
    """The page's HTML. Raises ReportError."""
    for name in (RECORD, COUNTS):
        if not (folder / name).is_file():
            raise ReportError(f"{folder}: no {name}; give a folder that `prepare arxiv` has finished")
    counts, provenance = (json.loads((folder / name).read_bytes()) for name in (COUNTS, RECORD))
    parts = [_head(folder, counts), _figures(counts), _table(counts), _latex(counts), _duplicates(counts)]
    parts += [_samples(folder, samples), _dropped(folder, counts, min(samples, 4)), _made_by(provenance)]
    return PAGE.replace("TITLE", html.escape(folder.resolve().name)).replace("BODY", "\n".join(parts))


def _head(folder: Path, counts: dict[str, Any]) -> str:
    tiles = [
        ("read", counts["read"]),
        ("asked for", counts["read"] - sum(counts["not_chosen"].values())),
        ("kept", counts["kept"]),
        ("train", counts["train"]),
        ("held out", counts["heldout"]),
        ("dropped", sum(counts["dropped"].values())),
        ("words", counts["total"]["words"]),
    ]
    cells = "".join(f"<div><b>{number:,}</b><span>{name}</span></div>" for name, number in tiles)
    return f"<h1>{html.escape(folder.resolve().name)}</h1><section class='tiles'>{cells}</section>"


# ---- figures ----


def _figures(counts: dict[str, Any]) -> str:
    years = {year: number for year, number in sorted(counts["years"].items()) if year.isdigit()}
    categories = dict(sorted(counts["categories"].items(), key=lambda item: (-item[1], item[0]))[:18])
    reasons = {"kept": counts["kept"], **dict(sorted(counts["dropped"].items(), key=lambda item: (-item[1], item[0])))}
    words = {int(low): number for low, number in counts["words"].items()}
    drawn = [
        ("Documents by year of the first version", lambda axes: _bars(axes, years)) if years else None,
        (
            "Documents by primary category" + (" (18 most frequent)" if len(counts["categories"]) > 18 else ""),
            lambda axes: _lying(axes, categories, BLUE),
        )
        if len(categories) > 1
        else None,
        ("Kept, and dropped by reason (logarithmic)", lambda axes: _reasons(axes, reasons)),
        ("Words in a document", lambda axes: _histogram(axes, words)) if words else None,
    ]
    unknown = counts["years"].get("unknown", 0)
    note = f"<p>{unknown:,} documents have no date.</p>" if unknown else ""
    return "<section class='figures'>" + "".join(_figure(*entry) for entry in drawn if entry) + f"</section>{note}"


def _figure(title: str, draw: Callable[[Any], None]) -> str:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "report", "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"}):
        figure = Figure(figsize=(6.2, 3.5), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.spines[["top", "right"]].set_visible(False)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    svg = out.getvalue()
    return f"<figure><figcaption>{html.escape(title)}</figcaption>{svg[svg.index('<svg') :]}</figure>"


def _bars(axes: Any, numbers: dict[str, int]) -> None:
    axes.bar([int(year) for year in numbers], list(numbers.values()), color=BLUE, width=0.8)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel("documents")


def _lying(axes: Any, numbers: dict[str, int], color: Any) -> None:
    axes.barh(list(numbers)[::-1], list(numbers.values())[::-1], color=color)
    for place, number in enumerate(list(numbers.values())[::-1]):
        axes.annotate(f" {number:,}", (number, place), va="center", fontsize=8)
    axes.margins(x=0.14)
    axes.set_ylim(min(-0.6, len(numbers) - 6.5), len(numbers) - 0.4)  # a few bars stay as thin as many
    axes.set_xlabel("documents")


def _reasons(axes: Any, numbers: dict[str, int]) -> None:
    from matplotlib.ticker import StrMethodFormatter

    shown = {name.replace("_", " "): number for name, number in numbers.items() if number}
    axes.set_xscale("log")
    _lying(axes, shown, ([RED] * (len(shown) - 1) + [BLUE])[-len(shown) :] if numbers.get("kept") else RED)
    axes.set_xlim(left=0.7)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _histogram(axes: Any, words: dict[int, int]) -> None:
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    lows = sorted(words)
    axes.bar(lows, [words[low] for low in lows], width=[low * 0.17 for low in lows], align="edge", color=BLUE)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("words")
    axes.set_ylabel("documents")


# ---- tables and samples ----


def _table(counts: dict[str, Any]) -> str:
    rows = []
    for name, entry in sorted(counts["by_input"].items()):
        dropped = ", ".join(f"{reason} {number:,}" for reason, number in sorted(entry["dropped"].items(), key=lambda item: -item[1]))
        passed = ", ".join(f"{reason} {number:,}" for reason, number in sorted(entry["not_chosen"].items()))
        rows.append(
            (Path(name).name, f"{entry['read']:,}", f"{entry['kept']:,}", f"{entry['train']:,}", f"{entry['heldout']:,}", passed, dropped)
        )
    return "<h2>By input</h2>" + _html_table(
        ("input", "read", "kept", "train", "held out", "not asked for, by", "dropped, by reason"), rows
    )


def _latex(counts: dict[str, Any]) -> str:
    rows = [(name.replace("refused ", "refused: "), f"{number:,}") for name, number in sorted(counts["latex"].items())]
    rows += [(name, f"{number:,}") for name, number in sorted(counts["parts"].items())]
    return "<h2>Parts and LaTeX sources</h2>" + _html_table(("what", "number"), rows) if rows else ""


def _duplicates(counts: dict[str, Any]) -> str:
    rows = [
        (
            " and ".join(dict.fromkeys(Path(name).name for name in pair.split(" | "))),
            *(f"{found.get(kind, 0):,}" for kind in ("same_id", "exact_duplicate", "near_duplicate")),
        )
        for pair, found in sorted(counts["duplicates_between"].items())
    ]
    return "<h2>Duplicates within and between inputs</h2>" + _html_table(("inputs", "same id", "exact", "near"), rows) if rows else ""


def _samples(folder: Path, count: int) -> str:
    chosen = sorted(_first_lines(folder / FOLDERS["train"]), key=lambda row: name_hash("sample", row["id"]))[:count]
    return "<h2>Samples</h2>" + "".join(_card(row, "") for row in chosen)


def _dropped(folder: Path, counts: dict[str, Any], count: int) -> str:
    by_reason: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(_first_lines(folder / FOLDERS["dropped"]), key=lambda row: name_hash("sample", row["id"])):
        by_reason.setdefault(row["reason"], []).append(row)
    parts = ["<h2>Dropped, by reason</h2>"] if by_reason else []
    for reason, rows in sorted(by_reason.items()):
        parts.append(f"<h3>{html.escape(reason)}: {counts['dropped'].get(reason, len(rows)):,}</h3>")
        parts += [_card(row, row.get("detail", "")) for row in rows[:count]]
    return "".join(parts)


def _first_lines(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            yield from map(json.loads, islice(file, LINES_LOOKED_AT))


def _card(row: dict[str, Any], note: str) -> str:
    meta = row["meta"]
    facts = [row["id"], str(meta.get("date", "")), " ".join(meta.get("categories", ())), meta.get("license", ""), note]
    text = row["text"] if len(row["text"]) < 1200 else row["text"][:1200] + " …"
    return f"<article><header>{html.escape(' · '.join(fact for fact in facts if fact))}</header><pre>{html.escape(text)}</pre></article>"


def _made_by(provenance: dict[str, Any]) -> str:
    plan = {key: value for key, value in provenance["plan"].items() if key not in ("inputs", "files")}
    rows = [(Path(row["path"]).name, f"{row['bytes']:,}", row["sha256"][:16] + "…") for row in provenance["inputs"][:200]]
    return (
        "<h2>Made from</h2>"
        + _html_table(("input", "bytes", "sha256"), rows)
        + f"<details><summary>every setting</summary><pre>{html.escape(json.dumps(plan, indent=1, ensure_ascii=False))}</pre></details>"
    )


def _html_table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    def line(cells: tuple[str, ...], kind: str) -> str:
        number = "class='n'"
        return "<tr>" + "".join(f"<{kind} {number if cell[:1].isdigit() else ''}>{html.escape(cell)}</{kind}>" for cell in cells) + "</tr>"

    return f"<div class='wide'><table>{line(head, 'th')}{''.join(line(row, 'td') for row in rows)}</table></div>"


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>TITLE</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2329; background: #fff; max-width: 1120px; margin: 0 auto; padding: 24px; }
h1 { margin: 0 0 12px; } h2 { margin: 36px 0 8px; border-bottom: 1px solid #d8dde2; } h3 { margin: 20px 0 4px; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; }
.tiles div { background: #f1f4f7; border-radius: 6px; padding: 10px 18px; }
.tiles b { display: block; font-size: 22px; } .tiles span { color: #5a646e; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 20px; margin-top: 24px; }
figure { margin: 0; } figcaption { font-weight: 600; } svg { width: 100%; height: auto; }
.wide { overflow-x: auto; } table { border-collapse: collapse; } th, td { text-align: left; padding: 4px 14px 4px 0; vertical-align: top; }
th { color: #5a646e; font-weight: 600; } td.n { text-align: right; font-variant-numeric: tabular-nums; }
tr + tr td { border-top: 1px solid #e6eaee; }
article { border-left: 3px solid #d8dde2; padding-left: 12px; margin: 14px 0; } article header { color: #5a646e; font-size: 13px; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: 13.5px/1.5 system-ui, sans-serif; margin: 4px 0; }
details pre { font-family: monospace; }
</style></head><body>
BODY
</body></html>
"""
