"""What a sweep found, for people: a Markdown table with all that a figure needs beside it, and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

FIGURES = ("a rank", "spread %", "seconds a step", "model TFLOP/s", "MFU %", "HFU %", "useful %")


def row(words: Sequence[str], outcome: str, said: str, result: dict[str, Any] | None) -> dict[str, Any]:
    """A line: the values, what came of them, and the figures where there are any."""
    found: dict[str, Any] = dict(word.partition("=")[::2] for word in words)
    found["outcome"] = outcome
    if result:
        found |= {"useful tokens/s a rank": result["rows"][0]["a rank"]} | {key: result["rows"][0][key] for key in FIGURES[1:]}
        found |= {"peak GiB": result["peak_memory_gib"], "start s": result["seconds of the start"]}
    if said:
        found["said"] = said
    return found


def markdown(report: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(column for one in rows for column in one))
    head = [
        f"# {report['title']}", "", f"`{report['command']}`", "",
        *(f"- {key}: {report[key]}" for key in ("machine", "interconnect", "commit", "date", "model", "ranks") if report.get(key)),
        "- versions: " + ", ".join(f"{name} {version}" for name, version in report["versions"].items()),
        "- useful tokens/s: median of the timed steps, padding not counted; spread: between the quartiles", "",
        "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns),
    ]  # fmt: skip
    lines = ["| " + " | ".join(_cell(one.get(column)) for column in columns) + " |" for one in rows]
    return "\n".join([*head, *lines]) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = (
        f"{value:,.4g}" if isinstance(value, float) and abs(value) < 1000 else f"{value:,.0f}" if isinstance(value, float) else str(value)
    )
    return text.replace("|", "/").replace("\n", " ")


def picture(rows: Sequence[dict[str, Any]], title: str, path: Path) -> str:
    """Bars of speed and of memory, a pair for each combination; returns why there is none, else nothing."""
    try:
        import matplotlib
    except ImportError:
        return "no picture: matplotlib is not installed"
    matplotlib.use("Agg")
    from matplotlib import pyplot

    swept = [key for key in rows[0] if key not in ("outcome", "said")][: list(rows[0]).index("outcome")]
    names = [", ".join(f"{key.rpartition('.')[2]}={one[key]}" for key in swept) for one in rows]
    height = 1.2 + 0.32 * len(rows)
    figure, (speed, memory) = pyplot.subplots(1, 2, sharey=True, figsize=(11, height), gridspec_kw={"width_ratios": [3, 2]})
    places = range(len(rows))
    speed.barh(places, [one.get("useful tokens/s a rank", 0) for one in rows], color="#3b6ea5")
    memory.barh(places, [one.get("peak GiB", 0) for one in rows], color="#a5683b")
    for place, one in enumerate(rows):
        if "useful tokens/s a rank" not in one:
            speed.text(0, place, f" {one['outcome']}", va="center", fontsize=8, color="#903030")
    speed.set_yticks(list(places), names, fontsize=8)
    speed.invert_yaxis()
    speed.set_xlabel("useful tokens/s a rank")
    memory.set_xlabel("peak memory, GiB a rank")
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return ""
