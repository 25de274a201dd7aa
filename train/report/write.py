"""A run's folder → its page: runs/NAME/report.html, and the pictures as runs/NAME/figures/*.{png,svg}."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from train.report import page, sections
from train.report.figures import draw_all
from train.report.records import read_run
from train.report.verdicts import verdicts

PAGE, FIGURES = "report.html", "figures"
CURVES, LEARNED = ("loss", "speed", "updates", "time"), ("heldout", "forgetting")


def write_report(folder: Path, out: Path | None = None, more: Mapping[str, str] | None = None) -> Path:
    """The page's path; it is whole or as it was. Figures lie beside it.

    Args:
        out: where the page goes instead. more: commands to go on with, by what they do.
    Raises:
        ReportError: the folder is no run's. OSError: the page cannot be written.
    """
    run, out = read_run(folder), out or folder / PAGE
    drawn = {name: page.picture(caption, file) for name, (caption, file) in draw_all(run, out.parent / FIGURES).items()}
    shown = {
        "In short": sections.in_short(run),
        "What was learned": page.pictures([drawn[name] for name in LEARNED if name in drawn]) + sections.heldout(run),
        "How it went": page.pictures([drawn[name] for name in CURVES if name in drawn])
        + sections.time_spent(run)
        + sections.incidents(run),
        "What it says": sections.said(run),
        "Evaluations": verdicts(run),
        "Data": sections.data(run),
        "Recipe": sections.asked(run),
        "Go on": "".join(page.paragraph(what) + page.command(words) for what, words in (more or {}).items()),
    }
    made = page.page(run.name, f"{sections.status(run)}. {sections.made_at()}", shown)
    tmp = out.with_name(f".{out.name}.{os.getpid()}")
    tmp.write_text(made, encoding="utf-8", errors="replace")
    tmp.replace(out)
    return out
