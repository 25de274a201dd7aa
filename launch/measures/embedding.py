"""`evaluate.py embedding`: how abstracts lie in a model's own space, base against ours, and an endpoint's beside them."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import TYPE_CHECKING, Any

from data_tools.corpus.document import field, is_so
from data_tools.corpus.file_readers import InputError
from launch.measures.endpoint import Endpoint, checked_url
from launch.measures.inputs import add_data_arguments, conditions, records
from launch.measures.models import add_model_arguments, check_models, opened, results_folder, write_json
from launch.measures.table import aligned, counted
from train.evaluation.embedding.papers import KINDS, Paper
from train.evaluation.texts import EvaluationError

if TYPE_CHECKING:
    from train.evaluation.embedding.verdict import Verdict
    from train.world.ranks import World

PURPOSE = "embeddings of abstracts: spread of cosines, retrieval by title and by half, separation of categories"
EXAMPLE = """python launch/evaluate.py embedding --model models/smollm2-135m runs/quickstart/checkpoints/step_000020 \\
      --data abstracts.jsonl --limit 10000 --out runs/quickstart/eval"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser, required=False)
    add_data_arguments(parser)
    parser.add_argument("--text-field", default="abstract", metavar="F", help="field with the abstract (default abstract)")
    parser.add_argument("--title-field", default="title", metavar="F", help="field with the title (default title)")
    parser.add_argument(
        "--category-field", default=None, metavar="F", help="its first word is the category (default primary_category, categories)"
    )
    parser.add_argument("--tokens", type=int, metavar="N", help="read the first N tokens of a text (default: the model's positions)")
    parser.add_argument("--endpoint", metavar="URL", help="also embeddings of an OpenAI-compatible endpoint; key in OPENAI_API_KEY")
    parser.add_argument("--endpoint-model", metavar="NAME", help="the model's name there")


def check(args: argparse.Namespace) -> None:
    """Raises EvaluationError, ModelError."""
    if bool(args.endpoint) != bool(args.endpoint_model):
        raise EvaluationError("--endpoint and --endpoint-model go together: the address, and the model's name there")
    if not args.model and not args.endpoint:
        raise EvaluationError("nothing to compare: give --model DIR …, --endpoint URL, or both")
    if args.tokens is not None and args.tokens < 1:
        raise EvaluationError(f"--tokens {args.tokens}: give 1 or more")
    if args.endpoint:
        checked_url(args.endpoint)
    check_models(args)


def run(args: argparse.Namespace, world: World) -> list[str]:
    from train.evaluation.embedding.vectors import embedder, folder_of, write
    from train.evaluation.embedding.verdict import verdict

    papers, left_out = _papers(args)
    for reason, count in left_out.most_common():
        world.log0(f"note: {count:,} records left out: {reason}")
    titled = any(paper.title for paper in papers)
    world.log0(f"{len(papers):,} papers" + ", without titles" * (not titled) + ", without categories" * (not papers[0].category))
    kinds = [kind for kind in KINDS if titled or kind != "title"]
    found: dict[str, Verdict] = {}
    with results_folder(args.out, world) as journals:
        for word in args.model:
            with opened(word, args, world, args.tokens) as (model, facts):
                folder = folder_of(journals, {**facts, "tokens": args.tokens}, papers)
                write(papers, kinds, embedder(model, args.tokens), folder, world, word)
            if world.rank == 0:
                with world.waiting(f"comparing the embeddings of {word}"):
                    found[word] = verdict(folder, papers)
        if args.endpoint:
            name = f"{args.endpoint_model} at {args.endpoint}"
            folder = folder_of(journals, {"endpoint": args.endpoint, "model": args.endpoint_model}, papers)
            write(papers, kinds, Endpoint(args.endpoint, args.endpoint_model).embeddings, folder, world, name)
            if world.rank == 0:
                found[name] = verdict(folder, papers)
        return _write(args, papers, left_out, found) if world.rank == 0 else []


def _papers(args: argparse.Namespace) -> tuple[list[Paper], Counter[str]]:
    """Raises InputError where fewer than ten are left, which say nothing."""
    found: list[Paper] = []
    left_out: Counter[str] = Counter()
    wanted, first, seen = conditions(args), None, set()
    for path, number, record in records(args, (args.id_field,)):
        if isinstance(record, str):
            left_out[record] += 1
            continue
        first = first or record
        abstract = field(record, args.text_field)
        if not all(is_so(field(record, name), value) for name, value in wanted):
            left_out["not as --where asks"] += 1
        elif not isinstance(abstract, str) or len(abstract.split()) < 4:
            left_out[f"no {args.text_field}, or fewer than four words of it"] += 1
        elif abstract in seen:
            left_out["the same abstract as one before, which no query could tell apart"] += 1
        else:
            seen.add(abstract)
            title = field(record, args.title_field)
            id = field(record, args.id_field)
            title = " ".join(title.split()) if isinstance(title, str) else ""
            found.append(
                Paper(str(id if id is not None else f"{path}:{number}"), abstract.strip(), title, _category(record, args.category_field))
            )
    if len(found) < 10:
        reasons = "; ".join(f"{count:,} × {reason}" for reason, count in left_out.most_common(5)) or "no record"
        fields = f"; the first record has the fields {', '.join(map(str, first))[:200]}" if first else ""
        raise InputError(
            f"{', '.join(args.data)}: {len(found)} abstracts, fewer than 10 ({reasons}){fields}; name the text by --text-field"
        )
    if any(not paper.category for paper in found):
        found = [Paper(paper.id, paper.abstract, paper.title) for paper in found]
    return found, left_out


def _category(record: dict[str, Any], name: str | None) -> str:
    """The primary one: the first word, or the first of a list."""
    for one in [name] if name else ["primary_category", "categories"]:
        value = field(record, one)
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, str) and value.split():
            return value.split()[0]
    return ""


def _write(args: argparse.Namespace, papers: list[Paper], left_out: Counter[str], found: dict[str, Verdict]) -> list[str]:
    from train.evaluation.embedding.figure import draw
    from train.evaluation.embedding.verdict import difference

    base, *others = found
    result = {
        "papers": len(papers), "titles": sum(bool(paper.title) for paper in papers), "left_out": dict(left_out), "data": args.data,
        "models": {name: one.to_json() for name, one in found.items()},
        "paired": [{"base": base, "model": name} | difference(found[base], found[name]) for name in others],
    }  # fmt: skip
    write_json(args.out / "embedding.json", result)
    draw({name: one.spread for name, one in found.items()}, [args.out / "embedding.png", args.out / "embedding.svg"])
    lines = _table(result["models"])
    for one in result["paired"]:
        told = [
            f"{what} {one[key]['difference']:+.3f} ({one[key]['interval'][0]:+.3f} … {one[key]['interval'][1]:+.3f}), p = {one[key]['p']:.2g}"
            for key, what in (("title_mrr", "title MRR"), ("half_mrr", "half MRR"), ("category_auc", "category AUC"))
            if one[key]
        ]
        lines.append(f"{one['model']} against {base}, centred: {'; '.join(told)}")
    return [
        *lines,
        f"embedding: {counted(len(found), 'model')}, {counted(len(papers), 'paper')}, written to {args.out / 'embedding.json'}, embedding.png, embedding.svg",
    ]


def _table(models: dict[str, Any]) -> list[str]:
    rows = [["model", "", "cosine", "5 … 95%", "title: @1", "@10", "MRR", "half: @1", "@10", "MRR", "AUC"]]
    for name, told in models.items():
        for form in ("raw", "centred"):
            one = told[form]
            low, high = (one["cosine"]["quantiles"][share] for share in ("0.05", "0.95"))
            row = [name, form, f"{one['cosine']['mean']:.3f}", f"{low:.2f} … {high:.2f}"]
            for task in ("title_to_abstract", "first_to_second_half"):
                row += [f"{one[task][key]['value']:.3f}" if one[task] else "-" for key in ("recall@1", "recall@10", "mrr")]
            rows.append([*row, f"{one['category']['auc']:.3f}" if one["category"] else "-"])
    return aligned(rows)
