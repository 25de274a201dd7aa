"""The documents behind a step: `python launch/doors/documents.py RECIPE.yaml|runs/NAME --step N [key=value …]`; no GPU, no torch."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

if not __package__:  # run as a script: put the checkout, not launch/, on the import path
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from data_tools.work.errors import is_users_fault

EXAMPLE = """example:
  python launch/doors/documents.py runs/astro7b --step 4711
  python -m data_tools.show --step 4711 --recipe runs/astro7b --tokenizer models/llama-2-7b      the same with the text
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="the documents behind any step of a run, the same for any number of ranks", epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("recipe", help="a recipe, or the folder of a run: then without the rows it has left out, and with what it skipped")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="recipe values to replace, as the run was given them")
    parser.add_argument("--step", type=int, required=True, metavar="N", help="as metrics.jsonl counts, from 1")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    args = parser.parse_intermixed_args(argv)
    try:
        found = behind_step(args.recipe, args.overrides, args.step)
    except (ValueError, RuntimeError) as error:
        if not is_users_fault(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(found) if args.json else table(found))
    return 0


def behind_step(recipe_or_run: str, overrides: list[str], step: int) -> dict:
    """What stands behind a step, plain values only.

    Raises:
        BehindError, RecipeError, ShardError, RecordError, MixtureError: with place, value and remedy.
    """
    from data_tools.shards.reader import Shards
    from train.data.behind import BehindError, behind
    from train.data.positions import Span, merged
    from train.guard.replay import Record, recorded
    from train.preflight.epochs import data_settings, settled
    from train.recipe.load import load

    run = Path(recipe_or_run) if Path(recipe_or_run).is_dir() else None
    recipe, _ = settled(load(run / "recipe.yaml" if run else recipe_or_run, overrides), recipe_or_run)
    if not 1 <= step <= recipe.total_steps:
        raise BehindError(f"--step {step}: {recipe_or_run} has steps 1 to {recipe.total_steps}")
    lines = run / "metrics.jsonl" if run else recipe.guard.replay
    record = recorded(lines) if lines and lines.is_file() else Record(0, {})
    shards = {name: Shards.open(source.path, verify="size") for name, source in recipe.data.sources.items()}
    left_out = merged(Span(*span) for span in record.left_out)
    pieces = behind(shards, data_settings(recipe), step, left_out, dict(record.plans))
    return {
        "step": step, "steps": recipe.total_steps, "of": recipe_or_run, "rows": recipe.rows_per_step, "seq_len": recipe.data.seq_len,
        "skipped": record.skipped.get(step, ""), "rows_left_out": sum(map(len, left_out)),
        "pieces": [dataclasses.asdict(piece) | {"shards": str(piece.shards)} for piece in pieces],
    }  # fmt: skip


def table(found: dict) -> str:
    """One line a piece, under a line on the step."""
    pieces = found["pieces"]
    documents = len({(p["shards"], p["index"]) for p in pieces})
    head = f"step {found['step']} of {found['steps']} of {found['of']}: {found['rows']} rows of {found['seq_len']} tokens, {len(pieces)} pieces of {documents} documents"
    if found["skipped"]:
        head += f"; skipped: {found['skipped']}"
    if found["rows_left_out"]:
        head += f"; the run leaves out {found['rows_left_out']} rows"
    rows = [("row", "epoch:row", "source", "document", "tokens", "of")]
    rows += [
        (str(p["row"] + 1), f"{p['epoch']}:{p['plan_row']}", p["source"], p["id"], f"{p['start']}:{p['stop']}", str(p["length"]))
        for p in pieces
    ]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join([head, "", *("  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in rows)])


if __name__ == "__main__":
    sys.exit(main())
