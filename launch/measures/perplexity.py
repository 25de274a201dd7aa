"""`evaluate.py perplexity`: how likely models find texts that they have not seen, side by side."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from launch.measures.inputs import Read, add_text_arguments, read_texts
from launch.measures.models import add_model_arguments, check_models, opened, results_folder, write_json
from launch.measures.table import aligned, counted, figure, spread
from train.evaluation.texts import EvaluationError

if TYPE_CHECKING:
    from train.evaluation.perplexity.score import Scored
    from train.evaluation.perplexity.verdict import Difference, Verdict
    from train.world.ranks import World

PURPOSE = "perplexity and bits per byte of raw texts, base against ours, with intervals and a paired test"
EXAMPLE = """python launch/evaluate.py perplexity --model models/smollm2-135m runs/quickstart/checkpoints/step_000020 \\
      --data abstracts.jsonl --text-field abstract --out runs/quickstart/eval"""

FEW = 10  # papers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_text_arguments(parser)
    parser.add_argument("--window", type=int, metavar="N", help="tokens read at once (default: the model's positions; the papers: 512)")
    parser.add_argument("--overlap", type=int, metavar="N", help="tokens of a longer text that are read again (default: half a window)")


def check(args: argparse.Namespace) -> None:
    """Raises EvaluationError, ModelError, InputError."""
    if args.window is not None and args.window < 2:
        raise EvaluationError(f"--window {args.window}: a window holds at least 2 tokens, one to score and one before it")
    if args.overlap is not None and (args.overlap < 1 or args.window is not None and args.overlap >= args.window):
        raise EvaluationError(f"--overlap {args.overlap}: give 1 or more, and less than a window")
    check_models(args)


def run(args: argparse.Namespace, world: World) -> list[str]:
    from train.evaluation.perplexity.score import Asked, score

    read = read_texts(args)
    for remark in read.remarks:
        world.log0(f"note: {remark}")
    papers = len({text.id for text in read.texts})
    world.log0(f"{counted(len(read.texts), 'text')} of {counted(papers, 'paper')}")
    if papers < FEW:
        world.log0(f"note: {counted(papers, 'paper')} are too few for intervals that mean much")
    scores: dict[str, list[Scored]] = {}
    with results_folder(args.out, world) as journals:
        for word in args.model:
            with opened(word, args, world, args.window) as (model, facts):
                asked = Asked(args.window, args.overlap, args.bos)
                scores[word] = score(model, read.texts, asked, facts, journals, world)
        return _write(args, read, scores) if world.rank == 0 else []


def _write(args: argparse.Namespace, read: Read, scores: dict[str, list[Scored]]) -> list[str]:
    from train.evaluation.perplexity.verdict import by_group, difference, verdict

    whole = {word: verdict(read.texts, found) for word, found in scores.items()}
    if empty := [word for word, one in whole.items() if one is None]:
        raise EvaluationError(f"{empty[0]}: no text has two tokens, and the first has nothing to be predicted from; give longer texts")
    groups = {word: by_group(read.texts, found) for word, found in scores.items()}
    base = args.model[0]
    paired = {word: difference(read.texts, scores[base], scores[word]) for word in args.model[1:]}
    by_kind = {kind: list(names) for kind, names in groups[base].items()}
    result = {
        "models": {word: one.to_json() | ({"by": _groups_json(groups[word])} if groups[word] else {}) for word, one in whole.items()},
        "paired": [{"base": base, "model": word} | one.to_json() for word, one in paired.items()],
        "texts": len(read.texts), "papers": len({text.id for text in read.texts}), "left_out": read.left_out,
        "too_short": {word: sum(not one.tokens for one in found) for word, found in scores.items()},
        "data": args.data, "window": args.window, "overlap": args.overlap, "bos": args.bos, "notes": read.remarks,
    }  # fmt: skip
    write_json(args.out / "perplexity.json", result)
    _write_documents(args, read, scores)
    lines = _table(args.model, whole)
    for kind, names in by_kind.items():
        for name in names:
            lines += ["", f"{kind} {name}:", *_table(args.model, {word: groups[word][kind].get(name) for word in args.model})]
    return [
        *lines,
        *_compared(base, paired),
        f"perplexity: {counted(len(whole), 'model')} on {counted(len(read.texts), 'text')}, written to {args.out / 'perplexity.json'}",
    ]


def _groups_json(groups: dict[str, dict[str, Verdict]]) -> dict[str, Any]:
    return {kind: {name: one.to_json() for name, one in names.items()} for kind, names in groups.items()}


def _write_documents(args: argparse.Namespace, read: Read, scores: dict[str, list[Scored]]) -> None:
    """A line a text, so that others can draw their own conclusions."""
    from train.world.places import write_durably

    lines = []
    for number, text in enumerate(read.texts):
        of_models = {word: {"nats": found[number].nats, "tokens": found[number].tokens} for word, found in scores.items()}
        row = {"id": text.id, **dict(text.groups), "bytes": len(text.text.encode()), "models": of_models}
        lines.append(json.dumps(row, ensure_ascii=False))
    write_durably(args.out / "perplexity_documents.jsonl", "\n".join(lines) + "\n")


def _table(models: Sequence[str], found: dict[str, Verdict | None]) -> list[str]:
    from train.evaluation.perplexity.verdict import perplexity

    rows = [["model", "perplexity", "95%", "nats a token", "bits a byte", "tokens", "texts"]]
    for word in models:
        if (one := found[word]) is not None:
            low, high = one.loss_interval.to_json()
            rows.append(
                [word, figure(perplexity(one.loss)), spread(perplexity(low), perplexity(high)), f"{one.loss:.4f}", f"{one.bits_per_byte:.4f}",
                 f"{one.tokens:,}", f"{one.documents:,}"]
            )  # fmt: skip
    return aligned(rows)


def _compared(base: str, paired: dict[str, Difference | None]) -> list[str]:
    lines = [""]
    for word, one in paired.items():
        if one is None:
            continue
        said = f"{one.bits_per_byte:+.4f} bits a byte {spread(*one.bits_interval.to_json(), digits=4)}"
        if one.perplexity_percent is not None and one.percent_interval is not None:
            said = f"perplexity {one.perplexity_percent:+.1f}% {spread(*one.percent_interval.to_json(), digits=1)}, {said}"
        lines.append(f"{word} against {base}: {said}, p {'<' if one.p < 0.001 else '='} {max(one.p, 0.001):.3f}")
    return lines if len(lines) > 1 else []
