"""Ratings → which model people prefer: win rates with intervals, pair by pair, and one scale for all by Bradley and Terry's model.

files of ratings → `games`: two models and who was preferred, a conversation once → `summary`
A tie is half a win for each; so is "neither", which is also counted by itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from launch.talk.ratings import lines, unpreferred
from train.evaluation.intervals import of_draws, p_of_mcnemar, wilson

SCORES = {"left": 1.0, "right": 0.0, "tie": 0.5, "neither": 0.5}  # of the model on the left
SCALE = 400 / math.log(10)  # as Elo: 400 points are odds of ten to one
RESAMPLES, MOST_ROUNDS, CLOSE = 1000, 10_000, 1e-10


@dataclass(frozen=True)
class Game:
    """One rated conversation. models: left, right; the same left alone where one model was rated."""

    id: str
    models: tuple[str, ...]
    rating: str
    comment: str
    time: str
    messages: tuple[list[dict[str, str]], ...]  # of each side


def games(ratings: Path) -> list[Game]:
    """Of a file and of the one beside it with what nobody should train on; a conversation that stands there twice counts once."""
    found: dict[str, Game] = {}
    for path in (ratings, unpreferred(ratings)):
        for line in lines(path.read_bytes()) if path.is_file() else ():
            meta = line["meta"]
            try:
                sides = [(str(answer["model"]), list(answer["messages"])) for answer in meta["answers"]]
                assert sides and len(sides) <= 2 and meta["rating"] in SCORES
            except (LookupError, TypeError, AssertionError):
                continue
            models, said = (tuple(part) for part in zip(*sides, strict=True))
            game = Game(line["id"], models, meta["rating"], str(meta.get("comment", "")), str(meta.get("time", "")), said)
            found.setdefault(game.id, game)
    return sorted(found.values(), key=lambda game: game.time)


def summary(played: Sequence[Game]) -> dict[str, Any]:
    """{"ratings", "models": {NAME: {games, wins, ties, losses, neither, win_rate, interval, strength, strength_interval}}, "pairs": […]}."""
    pairs = [game for game in played if len(game.models) == 2 and game.models[0] != game.models[1]]
    names = sorted({name for game in pairs for name in game.models})
    fitted, spans = strengths_of(pairs, names)
    models = {
        name: {**_record([g for g in pairs if name in g.models], name), "strength": fitted[name], "strength_interval": spans[name]}
        for name in names
    }
    compared = []
    for one, other in itertools.combinations(names, 2):
        if between := [game for game in pairs if set(game.models) == {one, other}]:
            record = _record(between, one)
            compared.append({"model": one, "against": other, **record, "p": p_of_mcnemar(record["wins"], record["losses"])})
    alone = {}
    for game in played:
        if len(game.models) == 1:
            counts = alone.setdefault(game.models[0], {"good": 0, "not good": 0})
            counts["not good" if game.rating == "neither" else "good"] += 1
    return {"ratings": len(played), "models": models, "pairs": compared, **({"alone": alone} if alone else {})}


def _record(played: Iterable[Game], name: str) -> dict[str, Any]:
    """One model's games: counts and the share it won, ties as halves, with Wilson's 95% interval."""
    counts, score = {"games": 0, "wins": 0, "ties": 0, "losses": 0, "neither": 0}, 0.0
    for game in played:
        own = SCORES[game.rating] if game.models[0] == name else 1 - SCORES[game.rating]
        kind = "neither" if game.rating == "neither" else {1.0: "wins", 0.5: "ties", 0.0: "losses"}[own]
        counts[kind] += 1
        counts["games"] += 1
        score += own
    return {**counts, "win_rate": score / counts["games"], "interval": wilson(score, counts["games"]).to_json()}


def strengths_of(played: Sequence[Game], names: Sequence[str]) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Each model's strength in Elo's points, mean 0, and its 95% interval by bootstrap over conversations."""
    if not played:
        return {}, {}
    at = {name: k for k, name in enumerate(names)}
    left, right = (np.array([at[game.models[side]] for game in played]) for side in (0, 1))
    score = np.array([SCORES[game.rating] for game in played])
    fitted = bradley_terry(*_tables(left, right, score, len(names)))
    rng, draws = np.random.default_rng([0, len(played)]), []
    for _ in range(RESAMPLES):
        drawn = rng.integers(0, len(played), len(played))
        draws.append(bradley_terry(*_tables(left[drawn], right[drawn], score[drawn], len(names)), start=fitted))
    spans = np.array(draws)
    return (
        {name: float(SCALE * fitted[k]) for name, k in at.items()},
        {name: of_draws(SCALE * spans[:, k]).to_json() for name, k in at.items()},
    )


def _tables(left: np.ndarray, right: np.ndarray, score: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Wins (models,) and games of each pair (models, models)."""
    wins, met = np.zeros(count), np.zeros((count, count))
    np.add.at(wins, left, score)
    np.add.at(wins, right, 1 - score)
    np.add.at(met, (left, right), 1)
    return wins, met + met.T


def bradley_terry(wins: np.ndarray, met: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """Log strengths, mean 0, of largest posterior: P(i beats j) = s_i / (s_i + s_j), and each has tied one game with a model of strength 1,
    without which one that never lost would be infinitely strong.

    By minorization-maximization (Hunter, Annals of Statistics 32, 2004, eq. 3). wins: (models,); met: (models, models), symmetric.
    """
    strength = np.ones(len(wins)) if start is None else np.exp(start)
    for _ in range(MOST_ROUNDS):
        new = (wins + 0.5) / ((met / (strength[:, None] + strength[None])).sum(axis=1) + 1 / (strength + 1))
        done = np.abs(np.log(new / strength)).max() < CLOSE
        strength = new
        if done:
            break
    logs = np.log(strength)
    return logs - logs.mean()


def in_words(found: Mapping[str, Any]) -> list[str]:
    """A line a model, the strongest first."""
    rows = sorted(found["models"].items(), key=lambda item: -item[1]["strength"])
    lines = []
    for name, row in rows:
        low, high = row["interval"]
        bottom, top = row["strength_interval"]
        lines.append(
            f"{name}: won {100 * row['win_rate']:.1f}% [{100 * low:.1f}, {100 * high:.1f}] of {row['games']}, strength {row['strength']:+.0f} "
            f"[{bottom:+.0f}, {top:+.0f}]"
        )
    return [*lines, *(f"{name}: good {row['good']} of {sum(row.values())}" for name, row in found.get("alone", {}).items())]
