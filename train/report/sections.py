"""What the page of a run says, a function a heading: each makes HTML of a `Run`, empty where there is nothing to tell."""

from __future__ import annotations

import json
import math
import statistics
from datetime import UTC, datetime
from pathlib import Path

import yaml

from train.data.provenance import sources
from train.report import page
from train.report.best import best, rules_of
from train.report.figures import cause_in_words, seconds_by_cause
from train.report.records import Evaluated, Run
from train.world.voice import readable_time

MOST_ROWS = 400  # of a table
WORDS = {"finished": "finished", "preempted": "stopped before its end", "failed": "failed", "stopped": "stopped by its own rule"}


def status(run: Run) -> str:
    """How it stands, in a sentence."""
    done, of = run.steps[-1]["step"] if run.steps else 0, run.total_steps
    at = f"step {done:,}" + (f" of {of:,}" if of else "")
    if run.outcome is None:
        return f"{at}; how it ended is not known"
    if run.outcome.ended == "running":
        return f"{at}; running" if run.alive else f"{at}; it died without a word (the last sign of it: {run.outcome.time})"
    cause = f": {run.outcome.cause}" if run.outcome.cause else ""
    return f"{at}; {WORDS.get(run.outcome.ended, run.outcome.ended)}{cause} ({run.outcome.time})"


def in_short(run: Run) -> str:
    """The figures one looks for first, and what is wrong with the records."""
    values: dict[str, str] = {}
    if len(run.evaluated) > 1:
        first, last = run.evaluated[0], run.evaluated[-1]
        for name in last.losses:
            if name in first.losses:
                change = 100 * (_ratio(last.losses[name] - first.losses[name]) - 1)
                values[f"held-out perplexity, {name}"] = (
                    f"{_perplexity(first.losses[name])} → {_perplexity(last.losses[name])} ({change:+.1f}%)"
                )
    if run.steps:
        tokens = next((line["tokens"] for line in reversed(run.steps) if isinstance(line.get("tokens"), int)), None)
        values["trained on"] = f"{tokens:,} tokens" if tokens is not None else f"{len(run.steps):,} steps"
        if speeds := [line["tokens_per_second"] for line in run.steps if isinstance(line.get("tokens_per_second"), (int, float))]:
            values["throughput (median)"] = f"{statistics.median(speeds):,.0f} tokens/s"
        if used := [line["mfu"] for line in run.steps if isinstance(line.get("mfu"), (int, float))]:
            values["MFU (median)"] = f"{100 * statistics.median(used):.1f}%"
    if isinstance(run.goodput.get("goodput"), (int, float)):
        values["goodput"] = f"{100 * run.goodput['goodput']:.0f}%"
    found = best(run)
    if found and found.step is not None:
        values["best checkpoint"] = f"step {found.step:,}" + ("" if found.saved else " (not kept)")
    s = run.summary
    if "asked" in s and "ended_before" in s and "ended_after" in s:
        values["answers that end by themselves"] = f"{s['ended_before']} of {s['asked']} → {s['ended_after']} of {s['asked']}"
    rows = {
        "base model": run.base.get("path") or run.section("model").get("path"),
        "newest checkpoint": _newest(run),
        "text": s.get("text"),
    }
    return (page.tiles(values) if values else "") + page.facts(rows) + "".join(page.paragraph(remark, "bad") for remark in run.remarks)


def _newest(run: Run) -> Path | str | None:
    return next(reversed(run.checkpoints.values()), None) or (run.outcome.checkpoint if run.outcome else None)


def heldout(run: Run) -> str:
    """Perplexity by source at every evaluation, and which checkpoint is best by what rule."""
    if not run.evaluated:
        return ""
    names = sorted({name for one in run.evaluated for name in one.losses})
    first, found = run.evaluated[0], best(run)
    shown = run.evaluated if len(run.evaluated) <= MOST_ROWS else [*run.evaluated[: MOST_ROWS // 2], *run.evaluated[-MOST_ROWS // 2 :]]
    rows = [
        [f"{one.step:,}", f"{one.tokens:,}", *(_cell(one, name, first) for name in names), "yes" if one.step in run.checkpoints else ""]
        for one in shown
    ]
    chosen = next((i for i, one in enumerate(shown) if found and one.step == found.step), None)
    said = "Mean over all held-out tokens of a source; in brackets the 95% interval over its rows, then the change since step 0."
    rules = [str(rule) for rule in rules_of(run)]
    told = page.paragraph(f"Rules: {'; '.join(rules)} (heldout.stop_if, heldout.warn_if).") if rules else ""
    if found:
        which = f"Best checkpoint: step {found.step:,}" if found.step is not None else "Best checkpoint: none"
        where = (
            f" ({run.checkpoints[found.step]})"
            if found.step in run.checkpoints
            else ""
            if found.step is None
            else " (its checkpoint was not kept)"
        )
        told += page.paragraph(f"{which}{where}. Rule: {found.rule}.")
    head = ["step", "tokens", *names, "kept"]
    return told + page.table(head, rows, said, numbers=range(len(head) - 1), best=chosen)


def _cell(one: Evaluated, name: str, first: Evaluated) -> str:
    if name not in one.losses:
        return "–"
    loss, error = one.losses[name], one.errors.get(name)
    said = _perplexity(loss)
    if error is not None:
        said += f" [{_perplexity(loss - 1.96 * error)}, {_perplexity(loss + 1.96 * error)}]"
    if one is not first and name in first.losses:
        said += f" {100 * (_ratio(loss - first.losses[name]) - 1):+.1f}%"
    return said


def _ratio(difference: float) -> float:
    return math.exp(min(difference, 700.0))


def _perplexity(loss: float) -> str:
    return f"{_ratio(loss):.2f}" if loss < 9 else f"{_ratio(loss):.4g}"


def said(run: Run) -> str:
    """What it says: before and after where both were asked, and along the run."""
    s, rows = run.summary, []
    if isinstance(s.get("answers"), list):
        rows = [[one.get("question", ""), one.get("before", ""), one.get("after", "")] for one in s["answers"] if isinstance(one, dict)]
    elif "prompt" in s:
        rows = [[f"{s['prompt']} …", s.get("completion_before", ""), s.get("completion_after", "")]]
    whole = page.table(["prompt", "before", "after"], rows, "The base model and the trained one", kind="stack said")
    along = [
        [prompt, f"step {(steps := sorted(at))[0]:,}: {at[steps[0]]}", f"step {steps[-1]:,}: {at[steps[-1]]}"]
        for prompt, at in run.answers.items()
    ]
    whole += page.table(["prompt", "first", "last"], along, "Asked while it trained (heldout.prompts)", kind="stack said")
    every = [[prompt, f"{step:,}", at[step]] for prompt, at in run.answers.items() for step in sorted(at)]
    if len(every) > 2 * len(along):
        whole += page.folded(f"all {len(every)} answers", page.table(["prompt", "step", "answer"], every[:MOST_ROWS], kind="stack"))
    return whole


def incidents(run: Run) -> str:
    """Skipped steps, rewinds, faults and restarts."""
    skipped = [line for line in run.steps if line.get("skipped")]
    rows = [[f"{line['step']:,}", "skipped", line.get("why", ""), _deviations(line)] for line in skipped]
    rows += [
        [f"{r.get('from_step', r['step'])}", "rewind", f"back to step {r['step']}", f"{r.get('skipped_in_a_row', '?')} skipped in a row"]
        for r in run.rewinds
    ]
    rows += [[str(f.get("step", "")), f"fault: {f.get('kind', '')}", f"rank {f.get('rank', '?')} on {f.get('host', '?')}, {f.get('phase', '')}", f.get("cause", "")]
             for f in run.faults]  # fmt: skip
    starts = run.outcome.attempt if run.outcome else 1
    counted = f"{len(skipped)} skipped steps, {len(run.rewinds)} rewinds, {len(run.faults)} faults, {starts} start{'s' * (starts != 1)}."
    return page.paragraph(counted) + page.table(["step", "what", "how", "more"], rows[-MOST_ROWS:])


def _deviations(line: dict) -> str:
    known = {k.removeprefix("spike/"): v for k, v in line.items() if k.startswith("spike/") and isinstance(v, (int, float))}
    return ", ".join(f"{name} {value:.1f} deviations" for name, value in known.items())


def time_spent(run: Run) -> str:
    seconds = seconds_by_cause(run)
    wall = sum(seconds.values())
    rows = [[cause_in_words(run, cause), readable_time(s), f"{100 * s / wall:.1f}%"] for cause, s in seconds.items()]
    return page.table(["cause", "time", "share"], rows, "Every second since the first start has one cause", numbers=(1, 2))


def data(run: Run) -> str:
    """The sources with their shares, and where each came from."""
    found = sources(run.recipe)
    rows = [
        [
            s.name,
            s.use,
            "" if s.weight is None else f"{s.weight:g}",
            *(f"{s.counts[k]:,}" if k in s.counts else "?" for k in ("documents", "tokens")),
            s.path,
        ]
        for s in found
    ]
    whole = page.table(["source", "use", "weight", "documents", "tokens", "shards"], rows, numbers=(2, 3, 4))
    for s in found:
        inside = page.facts({"checksum of the manifest": s.checksum, "made with": json.dumps(s.arguments) if s.arguments else ""})
        inside += page.table(["input", "hash or size"], s.inputs)
        inside += page.paragraph(f"and {s.left_out:,} more") if s.left_out else ""
        if s.said:
            whole += page.paragraph(f"{s.name} ({s.use}, {s.path}): {s.said}", "bad")
        whole += page.folded(f"{s.name}, {s.use}: where it came from", inside)
    return whole


def asked(run: Run) -> str:
    """The recipe, the engine's settings, versions, and how to make it again."""
    length = {key: run.recipe.get(key) for key in ("steps", "tokens")}
    o, d, batch = run.section("optim"), run.section("data"), run.recipe.get("tokens_per_step")
    rows = {
        "length": next((f"{value:,} {key}" for key, value in length.items() if isinstance(value, int)), None),
        "batch": f"{batch:,} tokens a step, rows of {d.get('seq_len')}, {d.get('packing')} packing" if isinstance(batch, int) else None,
        "optimizer": f"AdamW, lr {o.get('lr')}, betas {o.get('betas')}, weight decay {o.get('weight_decay')}, clip {o.get('clip')}"
        if o
        else None,
        "schedule": run.section("schedule").get("kind"),
        "fingerprint of the first weights": run.base.get("fingerprint"),
        "versions": ", ".join(f"{k} {v}" for k, v in run.versions.items()),
    }
    whole = page.facts(rows)
    if run.recipe:
        whole += page.folded("recipe.yaml, every key", page.verbatim(yaml.safe_dump(run.recipe, sort_keys=False, allow_unicode=True)))
        whole += page.paragraph("The same run again, from this folder's own recipe, under another name:")
        whole += page.command(f"deepspeed launch/pretrain.py {run.folder / 'recipe.yaml'} name={run.name}-again")
    file = run.folder / "deepspeed.json"
    if file.is_file() and file.stat().st_size < 1 << 20:
        whole += page.folded("deepspeed.json", page.verbatim(file.read_text(encoding="utf-8", errors="replace")))
    return whole


def made_at() -> str:
    return f"This page was made on {datetime.now(UTC).isoformat(sep=' ', timespec='seconds')}."
