"""The page of a small run: what came out, in named rows, the loss curve, and what the model says before and after."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:1.5rem auto;padding:0 1rem;color:#1c2330;background:#fff}
img{max-width:100%;height:auto}table{border-collapse:collapse;width:100%}caption{text-align:left;font-weight:600;padding:.5rem 0}
th,td{text-align:left;vertical-align:top;padding:.35rem .8rem .35rem 0;border-bottom:1px solid #e3e6eb;overflow-wrap:anywhere}
th{font-weight:600}.said{table-layout:fixed}code{overflow-wrap:anywhere}.cut{color:#9a3412}
@media(max-width:36rem){th,td{display:block;border:0;padding:.1rem 0}tr{display:block;border-bottom:1px solid #e3e6eb;padding:.4rem 0}
thead,colgroup{display:none}td[data-label]::before{content:attr(data-label) ": ";font-weight:600}}
@media(prefers-color-scheme:dark){body{color:#e6e9ef;background:#14171c}th,td,tr{border-color:#323844}img{background:#fff}.cut{color:#fdba74}}
"""


def draw(steps: list[dict[str, Any]], heldout: list[dict[str, Any]], source: str, path: Path) -> None:
    """Training and held-out loss over steps, as metrics.jsonl has them."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.plot([r["step"] for r in steps], [r["loss"] for r in steps], "o-", markersize=3, label="training loss")
    axes.plot([r["step"] for r in heldout], [r[f"heldout/{source}/loss"] for r in heldout], "s--", label="held-out loss")
    axes.set(xlabel="step", ylabel="mean token loss (nats)")
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def page(title: str, rows: dict[str, str], picture: Path, said: Sequence[tuple[str, str, str]], command: str) -> str:
    """One HTML file that needs nothing beside it.

    Args:
        rows: name → value, both plain text. said: a prompt, and what follows it before and after the run.
        command: what to do next.
    """
    image = base64.b64encode(picture.read_bytes()).decode()
    facts = "".join(f"<tr><th scope=row>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows.items())
    shown = "".join(
        f"<tr><td data-label=prompt>{escape(prompt)}</td><td data-label=before>{escape(before)}</td><td data-label=after>{escape(after)}</td></tr>"
        for prompt, before, after in said
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style><h1>{escape(title)}</h1><table><tbody>{facts}</tbody></table>"
        f"<p><img alt='training and held-out loss over steps' src='data:image/png;base64,{image}'></p>"
        f"<table class=said><caption>What it says</caption><colgroup><col style='width:22%'><col><col></colgroup><thead><tr><th>prompt</th><th>before</th><th>after</th></tr></thead><tbody>{shown}</tbody></table>"
        f"<p>Go on: <code>{escape(command)}</code></p></html>\n"
    )
