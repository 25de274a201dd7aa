"""`evaluate.py sweep`: how much of the base model to mix back in, from nothing of it to all."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.measures.inputs import Read, add_text_arguments, read_texts
from launch.measures.models import add_model_arguments, check_models, opened, results_folder, write_json
from launch.measures.table import aligned, figure, spread
from train.evaluation.texts import EvaluationError

if TYPE_CHECKING:
    from train.evaluation.perplexity.score import Scored
    from train.evaluation.sweep import Point
    from train.world.ranks import World

PURPOSE = "merge weights from 0 to 1: what was learned against what was forgotten, a curve, a table and the best point"
EXAMPLE = """python launch/evaluate.py sweep --model runs/cpt_7b/checkpoints/step_003148 --base models/Llama-2-7b-hf \\
      --data abstracts.jsonl --general general.jsonl --out runs/cpt_7b/eval/sweep"""
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_text_arguments(parser)
    parser.add_argument("--base", metavar="DIR", help="the model it was trained from (default: the one its run names)")
    parser.add_argument("--general", nargs="+", required=True, metavar="F", help="texts of what is to be kept; --data is what was learned")
    parser.add_argument(
        "--weights",
        nargs="+",
        type=float,
        default=list(WEIGHTS),
        metavar="W",
        help="shares of the base, 0 to 1 (default 0 0.25 0.5 0.75 1)",
    )
    parser.add_argument(
        "--allowed", type=float, default=1.01, metavar="X", help="best: general perplexity at most X times the base's (1.01)"
    )
    parser.add_argument("--window", type=int, metavar="N", help="tokens read at once (default: the model's positions)")
    parser.add_argument("--export", type=Path, metavar="DIR", help="also make the best point a model folder, as export_hf.py --merge does")


def check(args: argparse.Namespace) -> None:
    """Raises EvaluationError, ModelError, InputError."""
    if len(args.model) != 1:
        raise EvaluationError(f"--model {' '.join(args.model)}: a sweep blends one model with its base; give one")
    if bad := [w for w in args.weights if not 0 <= w <= 1]:
        raise EvaluationError(f"--weights {bad[0]:g}: a share of the base lies from 0 to 1")
    if not args.allowed > 0:
        raise EvaluationError(f"--allowed {args.allowed:g}: give a factor above 0, such as 1.01")
    if args.window is not None and args.window < 2:
        raise EvaluationError(f"--window {args.window}: a window holds at least 2 tokens, one to score and one before it")
    if args.export and args.export.exists():
        raise EvaluationError(f"--export {args.export}: exists already; give another folder, or remove it first")
    args.weights = sorted({*args.weights, 1.0})  # the base itself is what the others are compared with
    args.base = args.base or _base_of(Path(args.model[0]))
    check_models(argparse.Namespace(**{**vars(args), "model": [args.model[0], args.base]}))


def _base_of(folder: Path) -> str:
    """What a checkpoint's run started from. Raises EvaluationError."""
    try:
        base = str(json.loads((folder / "state.json").read_text())["recipe"]["model"]["path"])
    except (OSError, ValueError, LookupError, TypeError):
        base = ""
    if not base or not Path(base).is_dir():
        raise EvaluationError(f"--base: {folder} does not say where the model lies that it was trained from; give its folder")
    return base


def run(args: argparse.Namespace, world: World) -> list[str]:
    from train.evaluation.perplexity.score import Asked, score
    from train.evaluation.sweep import Blend

    sides = {
        "learned": read_texts(args),
        "kept": read_texts(argparse.Namespace(**{**vars(args), "data": args.general})),
    }
    for remark in [remark for read in sides.values() for remark in read.remarks]:
        world.log0(f"note: {remark}")
    scores: dict[float, dict[str, list[Scored]]] = {}
    [word] = args.model
    with (
        results_folder(args.out, world) as journals,
        opened(args.base, args, world, args.window) as (base, base_facts),
        opened(word, args, world, args.window) as (model, facts),
    ):
        blend = Blend.of(model, base)
        for weight in args.weights:
            blend.put(weight, model)
            world.log0(f"{weight:g} of {args.base}, {1 - weight:g} of {word}")
            known = {**facts, "base": base_facts["model"], "weight": weight}
            asked = Asked(args.window, None, args.bos)
            scores[weight] = {side: score(model, read.texts, asked, known, journals, world) for side, read in sides.items()}
    return _write(args, sides, scores) if world.rank == 0 else []


def _write(args: argparse.Namespace, sides: dict[str, Read], scores: dict[float, dict[str, list[Scored]]]) -> list[str]:
    from train.evaluation.perplexity.verdict import difference, verdict
    from train.evaluation.sweep import SIDES, Point, best, draw

    points = []
    for weight, found in scores.items():
        verdicts = {side: verdict(sides[side].texts, found[side]) for side in SIDES}
        if empty := [side for side, one in verdicts.items() if one is None]:
            raise EvaluationError(f"{'--data' if empty[0] == 'learned' else '--general'}: no text has two tokens; give longer texts")
        changes = {side: difference(sides[side].texts, scores[1.0][side], found[side]) if weight != 1 else None for side in SIDES}
        points.append(Point(weight, verdicts, changes))
    chosen = best(points, args.allowed)
    names = {"learned": _named(args.data), "kept": _named(args.general)}
    draw(points, chosen, args.allowed, names, [args.out / f"sweep.{kind}" for kind in ("png", "svg")])
    rule = f"lowest perplexity on {names['learned']} with at most {args.allowed:g} times the base's on {names['kept']}"
    rows = _rows(points, names)
    write_json(
        args.out / "sweep.json",
        {"model": args.model[0], "base": args.base, "best_weight": chosen.weight, "rule": rule, "points": [p.to_json() for p in points],
         "data": args.data, "general": args.general, "texts": {side: len(read.texts) for side, read in sides.items()}},
    )  # fmt: skip
    (args.out / "sweep.md").write_text(_markdown(rows) + f"\nBest: {chosen.weight:g} of the base ({rule}).\n", encoding="utf-8")
    lines = [*aligned(rows), "", f"best: {chosen.weight:g} of the base: {rule}"]
    if args.export:
        lines.append(_export(args, chosen))
    return [*lines, f"sweep: {len(points)} weights, written to {args.out / 'sweep.json'}, sweep.md, sweep.png and sweep.svg"]


def _named(files: list[str]) -> str:
    return ", ".join(Path(file).name.split(".")[0] for file in files)


def _rows(points: list[Point], names: dict[str, str]) -> list[list[str]]:
    from train.evaluation.perplexity.verdict import perplexity

    rows = [["share of the base", *(cell for name in names.values() for cell in (name, "95%", "against the base"))]]
    for point in points:
        row = [f"{point.weight:g}"]
        for side in names:
            one, change = point.verdicts[side], point.changes[side]
            low, high = (perplexity(x) for x in one.loss_interval.to_json())
            row += [figure(perplexity(one.loss)), spread(low, high)]
            same = change is None or change.perplexity_percent is None
            row.append("" if same else f"{change.perplexity_percent:+.1f}% {spread(*change.percent_interval.to_json(), digits=1)}")
        rows.append(row)
    return rows


def _markdown(rows: list[list[str]]) -> str:
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body, ""])


def _export(args: argparse.Namespace, chosen: Point) -> str:
    """The best point as a folder; in bf16, as models are published."""
    from train.export import exporter
    from train.export.plan import Request
    from train.model_files.dtypes import OF_RECIPE

    base = chosen.weight == 1
    merge: tuple[tuple[Path, Any], ...] = () if base or chosen.weight == 0 else ((Path(args.base), chosen.weight),)
    source = Path(args.base if base else args.model[0])
    made = exporter.export(Request(checkpoint=source, out=args.export, dtype=OF_RECIPE["bf16"], merge=merge))
    return f"{args.export}: {made.tensors} tensors, {chosen.weight:g} of {args.base}"
