"""Which checkpoint to publish, by a rule that is stated: the one that learned most among those that forgot no more than was allowed.

What `heldout.stop_if` and `heldout.warn_if` watch is to be kept; all other held-out sources are to be learned. Of the evaluations that
break none of those rules the best has the lowest mean loss over the sources to be learned (over all, where there are no rules, or rules on all).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from train.recipe.rules import Rule
from train.report.records import Evaluated, Run


@dataclass(frozen=True)
class Best:
    """The evaluation that is best, whether its checkpoint is there, and by what rule; step None: every one breaks a rule."""

    step: int | None
    rule: str
    saved: bool = False


def rules_of(run: Run) -> list[Rule]:
    """Those of the recipe that can be read."""
    rules = []
    for key in ("stop_if", "warn_if"):
        for text in run.section("heldout").get(key) or []:
            try:
                rules.append(Rule.parse(str(text)))
            except ValueError:
                continue
    return rules


def best(run: Run) -> Best | None:
    """Of the evaluations whose checkpoint is kept, or of all where none is; None: nothing was evaluated after step 0."""
    after = [one for one in run.evaluated if one.step > 0]
    if not after:
        return None
    rules, first = rules_of(run), run.evaluated[0]
    before = first.losses if first.step == 0 else {}
    names = sorted({name for one in after for name in one.losses})
    learned = [name for name in names if name not in {rule.source for rule in rules}] or names
    said = f"lowest mean held-out loss over {', '.join(learned)}" + (f", none of {'; '.join(map(str, rules))} broken" if rules else "")
    there = [one for one in after if one.step in run.checkpoints]
    sound = [one for one in there or after if not any(rule.broken_by(one.losses, before) for rule in rules)]
    if not sound:
        return Best(None, said)
    step = min(sound, key=lambda one: (_mean(one, learned), one.step)).step
    return Best(step, said + (", of the checkpoints that are kept" if there else ""), saved=bool(there))


def _mean(one: Evaluated, names: Sequence[str]) -> float:
    known = [one.losses[name] for name in names if name in one.losses]
    return sum(known) / len(known) if known else float("inf")
