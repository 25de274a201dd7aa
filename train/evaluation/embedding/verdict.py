"""Vectors on disk → what they are worth: raw and mean-centred, each kind read once it is needed and let go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from train.evaluation import intervals
from train.evaluation.embedding.papers import Paper
from train.evaluation.embedding.similarity import Neighbours, Spread, found, neighbours, ranks, spread, unit
from train.evaluation.embedding.vectors import read

FORMS = ("raw", "centred")


@dataclass(frozen=True)
class Verdict:
    """By form. title, half: rank of a paper's abstract for its title, of its second half for its first."""

    spread: dict[str, Spread]
    title: dict[str, np.ndarray]
    half: dict[str, np.ndarray]
    categories: dict[str, Neighbours | None]
    width: int

    def to_json(self) -> dict[str, Any]:
        return {"width": self.width} | {
            form: {
                "cosine": self.spread[form].to_json(),
                "title_to_abstract": found(self.title[form]) if len(self.title[form]) else None,
                "first_to_second_half": found(self.half[form]),
                "category": _category_json(self.categories[form]),
            }
            for form in FORMS
        }


def verdict(folder: Path, papers: Sequence[Paper]) -> Verdict:
    """Peak memory: two kinds of vectors and some rows of cosines."""
    count = len(papers)
    titled = [n for n, paper in enumerate(papers) if paper.title]
    spreads, titles, halves, categories = {}, {}, {}, {}
    width = 0
    for form in FORMS:
        abstracts = read(folder, "abstract", count)
        width = abstracts.shape[1]
        centre = abstracts.mean(axis=0, dtype=np.float64).astype(np.float32) if form == "centred" else None
        unit(abstracts, centre)
        spreads[form] = spread(abstracts)
        categories[form] = neighbours(abstracts, [paper.category for paper in papers]) if all(paper.category for paper in papers) else None
        titles[form] = np.array([], np.int64)
        if titled:  # against the abstracts of those papers, so that all that is looked for is there
            queries = unit(read(folder, "title", count), _own(folder, "title", count, form))
            whole = len(titled) == count  # no copies then
            titles[form] = ranks(queries, abstracts) if whole else ranks(queries[titled], abstracts[titled])
            del queries
        del abstracts
        first, second = (unit(read(folder, kind, count), _own(folder, kind, count, form)) for kind in ("first", "second"))
        halves[form] = ranks(first, second)
        del first, second
    return Verdict(spreads, titles, halves, categories, width)


def _own(folder: Path, kind: str, count: int, form: str) -> np.ndarray | None:
    """The centre of a kind: titles lie elsewhere than abstracts, as a whole."""
    return read(folder, kind, count).mean(axis=0, dtype=np.float64).astype(np.float32) if form == "centred" else None


def _category_json(one: Neighbours | None) -> dict[str, Any] | None:
    if one is None:
        return None
    ones = np.ones(len(one.same))
    return {
        "papers": len(one.same), "k": one.k, "same_among_nearest": float(one.same.mean()),
        "same_among_nearest_interval": intervals.of_ratio(one.same, ones).to_json(), "chance": one.chance,
        "auc": float(one.auc.mean()), "auc_interval": intervals.of_ratio(one.auc, ones).to_json(),
    }  # fmt: skip


def difference(first: Verdict, second: Verdict) -> dict[str, Any]:
    """second - first on the same papers, centred: mean reciprocal ranks and AUC, with intervals over papers."""
    told: dict[str, Any] = {}
    for name, a, b in (("title_mrr", first.title, second.title), ("half_mrr", first.half, second.half)):
        told[name] = _of_values(1 / b["centred"] - 1 / a["centred"]) if len(a["centred"]) else None
    a, b = first.categories["centred"], second.categories["centred"]
    told["category_auc"] = _of_values(b.auc - a.auc) if a and b else None
    return told


def _of_values(change: np.ndarray) -> dict[str, Any]:
    interval = intervals.of_ratio(change.astype(np.float64), np.ones(len(change)))
    return {"difference": float(change.mean()), "interval": interval.to_json(), "p": intervals.p_of_sign_flips(change.astype(np.float64))}
