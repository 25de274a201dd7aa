"""`evaluate.py mcq`: multiple-choice questions, by likelihood of letters and of whole answers, and by a letter that is written."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_tools.corpus.document import field, is_so
from data_tools.corpus.file_readers import InputError
from launch.measures.inputs import add_data_arguments, conditions, records
from launch.measures.models import add_model_arguments, check_models, opened, results_folder, write_json
from launch.measures.table import aligned, counted
from train.evaluation.choice.questions import Question, question_of
from train.evaluation.texts import EvaluationError

if TYPE_CHECKING:
    from train.evaluation.choice.score import Asked, Given
    from train.evaluation.choice.verdict import Share
    from train.world.ranks import World

PURPOSE = "multiple-choice questions by likelihood of letters and of whole answers, and by a written letter"
EXAMPLE = """python launch/evaluate.py mcq --model models/smollm2-135m runs/quickstart/checkpoints/step_000020 \\
      --data questions.jsonl --out runs/quickstart/eval"""
WAYS = ("letters", "answers", "generated")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_data_arguments(parser)
    parser.add_argument("--score", nargs="+", choices=WAYS, help="ways to ask (default: letters, where its tokenizer can, and answers)")
    parser.add_argument("--shots", type=int, default=0, metavar="N", help="answered questions before each, the first of --shots-from")
    parser.add_argument("--shots-from", metavar="F", help="a file of questions for --shots, of the same shape")
    parser.add_argument("--prompt", type=Path, metavar="F", help="a text with {question} and {options}; the letter follows where it ends")
    parser.add_argument("--orders", type=int, default=1, metavar="N", help="put the options in N orders, the first as written (letters)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the other orders")
    parser.add_argument("--cluster", metavar="F", help="field that names the article a question was made from, for intervals")
    parser.add_argument("--by", action="append", default=[], metavar="F", help="also for each value of this field: subject, …")
    parser.add_argument("--new-tokens", type=int, default=256, metavar="N", help="longest written answer")


def check(args: argparse.Namespace) -> None:
    """Raises EvaluationError, ModelError."""
    for name, least in (("shots", 0), ("orders", 1), ("new_tokens", 1), ("seed", 0)):
        if getattr(args, name) < least:
            raise EvaluationError(f"--{name.replace('_', '-')} {getattr(args, name)}: give {least} or more")
    if bool(args.shots) != bool(args.shots_from):
        raise EvaluationError("--shots and --shots-from go together: how many answered questions, and where they stand")
    if args.prompt is not None:
        try:
            text = args.prompt.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise EvaluationError(f"--prompt {args.prompt}: not UTF-8; write it anew as UTF-8") from None
        if "{question}" not in text or "{options}" not in text:
            raise EvaluationError(f"--prompt {args.prompt}: has no {{question}} or no {{options}} in it; put both where they belong")
    check_models(args)


def run(args: argparse.Namespace, world: World) -> list[str]:
    from train.evaluation.choice.prompts import Prompts
    from train.evaluation.choice.score import Asked, letters_fault, score

    questions, left_out = _questions(args, args.data)
    shots = _shots(args)
    own = args.prompt.read_text(encoding="utf-8") if args.prompt else ""
    asked = Asked(tuple(sorted(set(args.score or WAYS[:2]), key=WAYS.index)), args.orders, args.seed, args.new_tokens, args.bos)
    for reason, count in left_out.most_common():
        world.log0(f"note: {count:,} records left out: {reason}")
    withheld = sum(question.answer is None for question in questions)
    world.log0(f"{len(questions):,} questions" + f", {withheld:,} of them without an answer" * bool(withheld))
    given: dict[str, list[Given]] = {}
    with results_folder(args.out, world) as journals:
        for word in args.model:
            with opened(word, args, world) as (model, facts):
                prompts, mine = Prompts(shots, own), asked
                if args.score is None and (fault := letters_fault(model, questions, prompts, args.bos)):
                    world.log0(f"note: not scored by letters: {fault}")
                    mine = replace(asked, ways=("answers",))
                given[word] = score(model, questions, prompts, mine, facts, journals, world)
        return _write(args, asked, questions, left_out, given) if world.rank == 0 else []


def _questions(args: argparse.Namespace, files: list[str], limit: bool = True) -> tuple[list[Question], Counter[str]]:
    found: list[Question] = []
    left_out: Counter[str] = Counter()
    wanted, first = conditions(args), None
    read = argparse.Namespace(data=files, limit=args.limit if limit else None)
    for number, (_, _, record) in enumerate(records(read)):
        first = first or (record if isinstance(record, dict) else None)
        if isinstance(record, dict) and not all(is_so(field(record, name), value) for name, value in wanted):
            left_out["not as --where asks"] += 1
            continue
        one = question_of(record, number, args.cluster, args.by)
        if isinstance(one, str):
            left_out[one] += 1
        else:
            found.append(one)
    if not found:
        reasons = "; ".join(f"{count:,} × {reason}" for reason, count in left_out.most_common(5)) or "no record"
        fields = f"; the first record has the fields {', '.join(first)[:200]}" if first else ""
        raise InputError(f"{', '.join(files)}: no question in it ({reasons}){fields}; a question has question, choices, answer")
    for name in (*args.by, *([args.cluster] if args.cluster else [])):
        if name not in (first or {}):
            raise InputError(f"{name}: no field of the questions, which have {', '.join(first or {})[:200]}")
    return found, left_out


def _shots(args: argparse.Namespace) -> tuple[Question, ...]:
    if not args.shots:
        return ()
    found = [q for q in _questions(_of_shots(args), [args.shots_from], limit=False)[0] if q.answer is not None]
    if len(found) < args.shots:
        raise InputError(f"--shots-from {args.shots_from}: has {len(found)} answered questions, --shots asks for {args.shots}")
    return tuple(replace(one, id="", cluster="", groups=()) for one in found[: args.shots])


def _of_shots(args: argparse.Namespace) -> argparse.Namespace:
    """The same words for a file of shots, which need not have the fields of the questions."""
    return argparse.Namespace(**{**vars(args), "cluster": None, "by": [], "where": []})


def _write(
    args: argparse.Namespace, asked: Asked, questions: list[Question], left_out: Counter[str], given: dict[str, list[Given]]
) -> list[str]:
    from train.evaluation.choice.verdict import FIGURES, by_order, difference, share

    figures = [name for name, way in FIGURES.items() if way in asked.ways]
    shares = {word: {name: share(name, questions, found) for name in figures} for word, found in given.items()}
    of_models = {word: _model_json(questions, found, shares[word], args.by) for word, found in given.items()}
    if asked.orders > 1 and "letters" in asked.ways:
        for word, found in given.items():
            if all(one.letters for one in found):
                of_models[word]["orders"] = by_order(questions, found, asked)
    base, paired = args.model[0], []
    for word in args.model[1:]:
        for name in figures:
            first, second = shares[base][name], shares[word][name]
            if first and second:
                paired.append({"base": base, "model": word, "by": name, **difference(questions, first, second)})
    main_by = next((name for name in figures if shares[base][name]), figures[0])
    main = shares[base][main_by]
    result = {
        "accuracy": main.accuracy if main else None, "questions": sum(q.answer is not None for q in questions), "by": main_by,
        "interval": main.interval.to_json() if main else None, "models": of_models, "paired": paired,
        "withheld": sum(q.answer is None for q in questions), "left_out": dict(left_out), "shots": args.shots, "data": args.data,
    }  # fmt: skip
    write_json(args.out / "mcq.json", result)
    files = _write_answers(args, figures, questions, given)
    return [
        *_table(args.model, shares, of_models),
        *_compared(paired),
        f"mcq: {counted(len(given), 'model')}, {counted(len(questions), 'question')}, written to {', '.join(map(str, files))}",
    ]


def _model_json(questions: list[Question], found: list[Given], shares: dict[str, Share | None], by: list[str]) -> dict[str, Any]:
    from train.evaluation.choice.verdict import share

    told: dict[str, Any] = {name: one.to_json() if one else None for name, one in shares.items()}
    told["cut"] = sum(one.cut for one in found)
    for kind in by:
        names = sorted({name for q in questions for k, name in q.groups if k == kind})
        told.setdefault("groups", {})[kind] = {}
        for name in names:
            mine = [k for k, q in enumerate(questions) if (kind, name) in q.groups]
            of_name = {figure: share(figure, [questions[k] for k in mine], [found[k] for k in mine]) for figure in shares}
            told["groups"][kind][name] = {figure: one.to_json() if one else None for figure, one in of_name.items()}
    return told


def _write_answers(args: argparse.Namespace, figures: list[str], questions: list[Question], given: dict[str, list[Given]]) -> list[Path]:
    """Every model's answer to every question; and where answers are withheld, a file to hand in for each model."""
    from train.evaluation.choice.verdict import asked_for, chosen
    from train.world.places import write_durably

    picked = {
        word: [{f: chosen(f, q, g) for f in figures if asked_for(f, g)} for q, g in zip(questions, found, strict=True)]
        for word, found in given.items()
    }
    lines = []
    for k, q in enumerate(questions):
        of_models = {
            word: {f: None if at is None else q.letters[at] for f, at in found[k].items()}
            | ({"text": given[word][k].text} if given[word][k].text else {})
            for word, found in picked.items()
        }
        right = None if q.answer is None else q.letters[q.answer]
        lines.append({"id": q.id, "question": q.text, "answer": right, "models": of_models})
    files = [args.out / "mcq.json", args.out / "mcq_answers.jsonl"]
    write_durably(files[1], "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    for number, word in enumerate(given if any(q.answer is None for q in questions) else [], 1):
        figure = next(f for f in ("generated", *figures) if f in picked[word][0])
        files.append(args.out / f"submission{f'_{number}' if len(given) > 1 else ''}.jsonl")
        rows = [
            {
                "id": q.id,
                "question": q.text,
                **dict(zip(q.letters, q.choices)),
                "answer": None if (at := picked[word][k][figure]) is None else q.letters[at],
            }
            for k, q in enumerate(questions)
        ]
        write_durably(files[-1], "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return files


def _table(models: list[str], shares: dict[str, dict[str, Share | None]], of_models: dict[str, dict[str, Any]]) -> list[str]:
    rows = [["model", "by", "accuracy", "95%", "right", "questions", "unparsable"]]
    for word in models:
        for name, one in shares[word].items():
            if one:
                spread = f"{100 * one.interval.low:.1f} … {100 * one.interval.high:.1f}"
                lost = f"{one.unparsable:,}" if name == "generated" else ""
                rows.append([word, name, f"{100 * one.accuracy:.1f}%", spread, f"{sum(one.right):,}", f"{len(one.right):,}", lost])
    lines = aligned(rows) if len(rows) > 1 else ["no question has an answer to compare with"]
    for word in models:
        if cut := of_models[word]["cut"]:
            lines.append(f"{word}: {cut:,} questions are longer than its positions; their beginning was cut")
        if orders := of_models[word].get("orders"):
            told = ", ".join(f"{100 * x:.1f}%" for x in orders["accuracy"] or [])
            lines.append(
                f"{word}: by letters in {len(orders['accuracy'] or [])} orders {told}; {100 * orders['same_in_all_orders']:.1f}% answered alike in all"
            )
    return lines


def _compared(paired: list[dict[str, Any]]) -> list[str]:
    return [
        f"{one['model']} against {one['base']}, by {one['by']}: {100 * one['difference']:+.1f} points "
        f"({100 * one['interval'][0]:+.1f} … {100 * one['interval'][1]:+.1f}), p = {one['p']:.3g} ({one['test']})"
        for one in paired
    ]
