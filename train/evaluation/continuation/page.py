"""A page to read continuations side by side, the models' names hidden until one is chosen; it opens without a network and loads nothing.

Ratings stay in the browser, and are saved by it as JSON lines: {"item", "chosen", "shown", "comment", "time"}.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Sequence
from html import escape
from typing import Any

from train.evaluation.continuation.items import Item

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:1.5rem auto;padding:0 1rem;color:#1c2330;background:#fff}
.texts{display:grid;grid-template-columns:repeat(auto-fit,minmax(16rem,1fr));gap:.8rem}.texts>div,.truth{border:1px solid #d5dae2;border-radius:6px;padding:.6rem}
p{white-space:pre-wrap;overflow-wrap:anywhere;margin:.4rem 0}.prompt{background:#f3f5f8;padding:.6rem;border-radius:6px}section{margin:2rem 0;border-top:2px solid #d5dae2}
button{font:inherit;padding:.25rem .7rem;margin:.2rem .4rem .2rem 0}input{font:inherit;width:100%;max-width:30rem;box-sizing:border-box}.name,.truth{display:none}
.rated .name,.rated .truth{display:block}.name{font-weight:600}.bar{position:sticky;top:0;background:#fff;padding:.5rem 0}.best{outline:3px solid #2563eb}
@media(prefers-color-scheme:dark){body,.bar{color:#e6e9ef;background:#14171c}.prompt{background:#222833}.texts>div,.truth,section{border-color:#323844}}
"""
SCRIPT = """
const key = "ratings:" + document.body.dataset.key, kept = JSON.parse(localStorage.getItem(key) || "{}");
const name = (text) => new TextDecoder().decode(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)));
function show(section) {
  const rating = kept[section.id]; if (!rating) return;
  section.classList.add("rated");
  section.querySelectorAll("[data-model]").forEach((box) => {
    box.querySelector(".name").textContent = name(box.dataset.model);
    box.classList.toggle("best", rating.chosen === name(box.dataset.model)); });
  section.querySelector("input").value = rating.comment;
}
function count() { document.getElementById("count").textContent = Object.keys(kept).length + " of " + document.querySelectorAll("section").length + " rated"; }
function rate(section, chosen) {
  const shown = [...section.querySelectorAll("[data-model]")].map((box) => name(box.dataset.model));
  kept[section.id] = {item: section.dataset.item, chosen, shown, comment: section.querySelector("input").value, time: new Date().toISOString()};
  localStorage.setItem(key, JSON.stringify(kept)); show(section); count();
}
document.querySelectorAll("section").forEach((section) => {
  section.querySelectorAll("button").forEach((button) => button.onclick = () =>
    rate(section, button.dataset.at === "" ? null : name(section.querySelectorAll("[data-model]")[button.dataset.at].dataset.model)));
  section.querySelector("input").onchange = () => { if (kept[section.id]) rate(section, kept[section.id].chosen); };
  show(section); });
document.getElementById("save").onclick = () => {
  const lines = Object.values(kept).map((rating) => JSON.stringify(rating) + "\\n");
  const link = document.createElement("a"); link.href = URL.createObjectURL(new Blob(lines, {type: "application/jsonl"}));
  link.download = "ratings.jsonl"; link.click(); };
count();
"""


def page(items: Sequence[Item], texts: dict[str, Sequence[str]], key: str) -> str:
    """texts: model → its greedy continuation of each item. key: of these results, so that ratings of others are not mixed in."""
    shown = "".join(
        _section(number, item, {name: of_model[number] for name, of_model in texts.items()}) for number, item in enumerate(items)
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>Continuations</title><style>{STYLE}</style><body data-key={json.dumps(key)}><h1>Continuations</h1>"
        "<div class=bar><span id=count></span> <button id=save>Save ratings.jsonl</button></div>"
        f"{shown}<script>{SCRIPT}</script></body></html>\n"
    )


def _section(number: int, item: Item, texts: dict[str, str]) -> str:
    order = list(texts)
    random.Random(f"{number} {item.id}").shuffle(order)
    boxes, buttons = [], []
    for at, name in enumerate(order):
        letter, hidden = chr(ord("A") + at), base64.b64encode(name.encode()).decode()
        boxes.append(f"<div data-model='{hidden}'><b>{letter}</b><div class=name></div><p>{escape(texts[name])}</p></div>")
        buttons.append(f"<button data-at={at}>{letter} is best</button>")
    return (
        f"<section id=item{number} data-item='{escape(item.id, quote=True)}'><h2>{escape(item.id)}</h2><p class=prompt>{escape(item.prompt)} …</p>"
        f"<div class=texts>{''.join(boxes)}</div><p>{''.join(buttons)}<button data-at=''>None is better</button></p>"
        f"<input placeholder='a comment' aria-label='a comment'><div class=truth><b>Written by its authors</b><p>{escape(item.truth)}</p></div></section>"
    )


def rows(items: Sequence[Item], told: dict[str, Any]) -> list[dict[str, Any]]:
    """A line an item, with every model's texts."""
    return [
        {"id": item.id, "prompt": item.prompt, "truth": item.truth, "models": {name: of_model[number] for name, of_model in told.items()}}
        for number, item in enumerate(items)
    ]
