"""Which checkpoint to publish, by a rule that is stated: the one that learned most among those that forgot no more than was allowed.

What `heldout.stop_if` and `heldout.warn_if` watch is to be kept; all other held-out sources are to be learned. Of the evaluations that
break none of those rules the best has the lowest mean loss over the sources to be learned (over all, where there are no rules, or rules on all).
"""

from __future__ import annotations

from dataclasses import dataclass

from train.recipe.rules import Rule, judged_loss, learned
from train.report.records import Run


@dataclass(frozen=True)
class Best:
    """The evaluation that is best, whether its checkpoint is there, and by what rule; step None: every one breaks a rule."""

    step: int | None
    rule: str
    saved: bool = False


def rules_of(run: Run) -> list[Rule]:
    """Those of the recipe that can be read."""
    found = []
    for key in ("stop_if", "warn_if"):
        given = run.section("heldout").get(key)
        for text in given if isinstance(given, list) else []:
            try:
                found.append(Rule.parse(str(text)))
            except ValueError:
                continue
    return found


def best(run: Run) -> Best | None:
    """Of the evaluations whose checkpoint is kept, or of all where none is; None: nothing was evaluated after step 0."""
    after = [one for one in run.evaluated if one.step > 0]
    if not after:
        return None
    texts, first = [str(rule) for rule in rules_of(run)], run.evaluated[0]
    before = first.losses if first.step == 0 else {}
    names = learned({name for one in after for name in one.losses}, texts)
    said = f"lowest mean held-out loss over {', '.join(names)}" + (f", none of {'; '.join(texts)} broken" if texts else "")
    there = [one for one in after if one.step in run.checkpoints]
    judged = [(loss, one.step) for one in there or after if (loss := judged_loss(one.losses, before, texts)) is not None]
    if not judged:
        return Best(None, said)
    return Best(min(judged)[1], said + (", of the checkpoints that are kept" if there else ""), saved=bool(there))
