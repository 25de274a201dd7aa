"""A page to read ratings: who won, and every conversation with its answers and comment; for who asked for them, not for visitors."""

from __future__ import annotations

import json
import os
from pathlib import Path

from launch.talk.model import ModelError
from launch.talk.ratings import unpreferred
from launch.talk.verdict import Game, games, in_words, summary
from train.report import page

MOST_SHOWN = 2000  # conversations on a page, the newest


def write_results(ratings: Path) -> list[str]:
    """RATINGS.html and RATINGS.json beside the file; returns lines to print. Raises ModelError where there is nothing to read."""
    if not ratings.is_file() and not unpreferred(ratings).is_file():
        raise ModelError(f"--ratings {ratings}: no such file; give the one that `chat.py --web` wrote")
    played = games(ratings)
    if not played:
        raise ModelError(f"--ratings {ratings}: no rating in it yet")
    found = summary(played)
    html, told = ratings.with_suffix(".html"), ratings.with_suffix(".json")
    _write(told, json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    _write(html, _page(ratings, played, found))
    return [*in_words(found), f"{len(played)} ratings: {html}, {told}"]


def _write(path: Path, text: str) -> None:
    tmp = path.with_name(f".{path.name}.{os.getpid()}")
    tmp.write_text(text, encoding="utf-8", errors="replace")
    tmp.replace(path)


def _page(ratings: Path, played: list[Game], found: dict) -> str:
    rows = [
        [
            name,
            m["games"],
            m["wins"],
            m["ties"],
            m["neither"],
            m["losses"],
            _share(m),
            f"{m['strength']:+.0f} {_span(m['strength_interval'])}",
        ]
        for name, m in sorted(found["models"].items(), key=lambda item: -item[1]["strength"])
    ]
    head = ["model", "games", "wins", "ties", "neither", "losses", "win rate, 95%", "strength, 95%"]
    told = "Ties and “neither” are half a win for each. Strength: Bradley and Terry's model, 400 points are odds of ten to one."
    pairs = [
        [p["model"], p["against"], p["games"], p["wins"], p["ties"] + p["neither"], p["losses"], _share(p), f"{p['p']:.3f}"]
        for p in found["pairs"]
    ]
    between = ["model", "against", "games", "wins", "ties", "losses", "win rate, 95%", "p (sign test)"]
    alone = [[name, row["good"], row["not good"]] for name, row in found.get("alone", {}).items()]
    sections = {
        "Models": page.table(head, rows, told, numbers=range(1, 8)),
        "Pairs": page.table(between, pairs, numbers=range(2, 8)),
        "Alone": page.table(["model", "good", "not good"], alone, numbers=(1, 2)),
        "Conversations": "".join(_conversation(game) for game in reversed(played[-MOST_SHOWN:])),
    }
    return page.page("What people preferred", f"{len(played)} ratings of {ratings}", sections)


def _share(record: dict) -> str:
    return f"{100 * record['win_rate']:.1f}% {_span([100 * x for x in record['interval']])}"


def _span(pair: list[float]) -> str:
    return f"[{pair[0]:.0f}, {pair[1]:.0f}]"


def _conversation(game: Game) -> str:
    """Folded: the first question and who was preferred; within, both sides turn by turn."""
    asked = next((turn["content"] for turn in game.messages[0] if turn.get("role") == "user"), "")
    won = {"left": 0, "right": 1}.get(game.rating)
    verdict = f"better: {game.models[won]}" if won is not None and len(game.models) == 2 else {"left": "good"}.get(game.rating, game.rating)
    turns = max(map(len, game.messages))
    rows = []
    for k in range(turns):
        cells = [side[k] if k < len(side) else {} for side in game.messages]
        if cells[0].get("role") in ("user", "system"):
            rows.append([cells[0]["role"], cells[0].get("content", ""), *[""] * (len(cells) - 1)])
        else:
            rows.append(["answer", *(cell.get("content", "") for cell in cells)])
    comment = page.paragraph(f"Comment: {game.comment}") if game.comment else ""
    table = page.table(["", *game.models], rows, kind="stack said")
    return page.folded(f"{game.time}  {asked[:160]}  ({verdict})", page.paragraph(verdict, "good") + comment + table)
