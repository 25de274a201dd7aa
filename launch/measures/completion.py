"""`evaluate.py completion`: the first sentences of abstracts, continued by each model, beside what their authors wrote."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_tools.corpus.file_readers import InputError
from launch.measures.endpoint import Endpoint, checked_url
from launch.measures.inputs import Read, add_text_arguments, read_texts
from launch.measures.models import add_model_arguments, check_models, opened, results_folder, write_json
from launch.measures.table import aligned, counted
from train.evaluation.continuation.items import Item, item_of
from train.evaluation.texts import EvaluationError, hash_of

if TYPE_CHECKING:
    from train.evaluation.continuation.copies import Copy
    from train.evaluation.continuation.score import Written
    from train.world.ranks import World

PURPOSE = "abstracts continued from their first sentences, beside the truth: likelihood, ROUGE, names, repetition, copying"
EXAMPLE = """python launch/evaluate.py completion --model models/smollm2-135m runs/quickstart/checkpoints/step_000020 \\
      --data abstracts.jsonl --text-field abstract --limit 40 --out runs/quickstart/eval"""
ASK = "Go on with this abstract of an astronomy paper, in its style, and write nothing else than how it goes on.\n\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_text_arguments(parser)
    parser.add_argument("--sentences", type=int, default=2, metavar="N", help="sentences that a model is given (default 2)")
    parser.add_argument("--new-tokens", type=int, default=160, metavar="N", help="longest continuation (default 160)")
    parser.add_argument("--samples", type=int, default=0, metavar="N", help="continuations by chance beside the greedy one")
    parser.add_argument("--temperature", type=float, default=0.8, metavar="X", help="of the samples")
    parser.add_argument("--top-p", type=float, default=0.95, metavar="X", help="of the samples")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the samples")
    parser.add_argument(
        "--shards", nargs="+", default=[], metavar="DIR", help="training shards: what of the texts stands there word for word"
    )
    parser.add_argument("--endpoint", metavar="URL", help="the same of an OpenAI-compatible endpoint; key in OPENAI_API_KEY")
    parser.add_argument("--endpoint-model", metavar="NAME", help="the model's name there")


def check(args: argparse.Namespace) -> None:
    """Raises EvaluationError, ModelError."""
    for name, least in (("sentences", 1), ("new_tokens", 1), ("samples", 0), ("seed", 0)):
        if getattr(args, name) < least:
            raise EvaluationError(f"--{name.replace('_', '-')} {getattr(args, name)}: give {least} or more")
    if not 0 < args.temperature < float("inf") or not 0 < args.top_p <= 1:
        raise EvaluationError(
            f"--temperature {args.temperature} --top-p {args.top_p}: a temperature is above 0, top-p above 0 and at most 1"
        )
    if bool(args.endpoint) != bool(args.endpoint_model):
        raise EvaluationError("--endpoint and --endpoint-model go together: the address, and the model's name there")
    if args.endpoint:
        checked_url(args.endpoint)
    for folder in args.shards:
        if not (Path(folder) / "manifest.json").is_file():
            raise EvaluationError(f"--shards {folder}: no manifest.json in it; give a folder that `prepare corpus` made")
    check_models(args)


def run(args: argparse.Namespace, world: World) -> list[str]:
    from train.evaluation.continuation.score import Asked, score

    read = read_texts(args)
    items, left_out = _items(args, read)
    for reason, count in left_out.items():
        world.log0(f"note: {count:,} records left out: {reason}")
    world.log0(f"{counted(len(items), 'abstract')}, {counted(args.sentences, 'sentence')} of each given")
    asked = Asked(args.new_tokens, args.samples, args.temperature, args.top_p, args.seed, args.bos)
    written: dict[str, list[Written]] = {}
    with results_folder(args.out, world) as journals:
        for word in args.model:
            with opened(word, args, world) as (model, facts):
                written[word] = score(model, items, asked, facts, journals, world)
        texts = {word: [list(one.texts) for one in found] for word, found in written.items()}
        if args.endpoint:
            texts[f"{args.endpoint_model} at {args.endpoint}"] = _of_endpoint(args, items, journals, world)
        if world.rank:
            return []
        copies = {word: _copies(args, word, found, world) for word, found in written.items()} if args.shards else {}
        return _write(args, items, left_out, texts, written, copies)


def _items(args: argparse.Namespace, read: Read) -> tuple[list[Item], dict[str, int]]:
    made = [item_of(text.id, text.text.strip(), args.sentences) for text in read.texts]
    items = [item for item in made if item is not None]
    if not items:
        raise InputError(f"{', '.join(args.data)}: no text of more than {args.sentences} sentences; give longer ones, or fewer --sentences")
    short = len(made) - len(items)
    return items, read.left_out | ({f"not more than {counted(args.sentences, 'sentence')}": short} if short else {})


def _of_endpoint(args: argparse.Namespace, items: list[Item], journals: Path, world: World) -> list[list[str]]:
    from train.evaluation.journal import Journal, measured

    endpoint = Endpoint(args.endpoint, args.endpoint_model)
    facts = {"endpoint": args.endpoint, "model": args.endpoint_model, "tokens": args.new_tokens, "items": hash_of(items)}
    what = f"continuations by {args.endpoint_model}"

    def ask(number: int) -> list[str]:
        return [endpoint.answer(ASK + items[number].prompt, args.new_tokens)]

    return measured(Journal(journals, "completion-endpoint", facts, world), len(items), ask, world, what)


def _copies(args: argparse.Namespace, word: str, found: list[Written], world: World) -> tuple[list[Copy], list[Copy]]:
    """Of every item's greedy continuation, and of the truth: what stands in the shards. Raises EvaluationError, ShardError."""
    from data_tools.shards.fingerprint import tokenizer_fingerprints
    from data_tools.shards.reader import Shards
    from train.evaluation.continuation.copies import longest_copies

    shards = [Shards.open(Path(folder)) for folder in args.shards]
    for one in shards:
        one.require_tokenizer(tokenizer_fingerprints(Path(word)), word)
    both = [one.ids[0] for one in found] + [one.truth_ids for one in found]
    documents = sum(map(len, shards))
    with world.progress(f"looking for copies of {word}", documents, "document") as advance:
        copies = longest_copies(both, shards, advance)
    return copies[: len(found)], copies[len(found) :]


def _write(
    args: argparse.Namespace, items: list[Item], left_out: dict[str, int], texts: dict[str, list[list[str]]],
    written: dict[str, list[Written]], copies: dict[str, tuple[list[Copy], list[Copy]]],
) -> list[str]:  # fmt: skip
    from train.evaluation.continuation.page import page, rows
    from train.evaluation.continuation.verdict import figures, overlaps
    from train.world.places import write_durably

    told = {
        name: figures(overlaps(items, of_model), written.get(name), copies[name][0] if name in copies else None)
        for name, of_model in texts.items()
    }
    for name, (_, truth) in copies.items():
        longest = max(truth, key=lambda one: one.tokens)
        told[name]["truth_in_shards"] = {"longest_tokens": longest.tokens, "longest_from": longest.document}
    result = {
        "items": len(items), "sentences": args.sentences, "new_tokens": args.new_tokens, "samples": args.samples, "models": told,
        "left_out": left_out, "data": args.data, "shards": args.shards,
    }  # fmt: skip
    write_json(args.out / "completion.json", result)
    lines = rows(items, texts)
    for name, (mine, _) in copies.items():
        for line, one in zip(lines, mine, strict=True):
            line.setdefault("copied", {})[name] = {"tokens": one.tokens, "document": one.document}
    content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_durably(args.out / "completions.jsonl", content)
    key = hashlib.sha256(content.encode()).hexdigest()[:16]
    write_durably(args.out / "completions.html", page(items, {name: [one[0] for one in of_model] for name, of_model in texts.items()}, key))
    where = ", ".join(str(args.out / name) for name in ("completion.json", "completions.jsonl", "completions.html"))
    return [*_table(told), f"completion: {counted(len(texts), 'model')}, {counted(len(items), 'abstract')}, written to {where}"]


def _table(told: dict[str, dict[str, Any]]) -> list[str]:
    rows = [["model", "perplexity of the truth", "ROUGE-1", "-2", "-L", "names", "numbers", "invented", "repetition", "copied tokens"]]
    for name, one in told.items():
        greedy = [
            f"{one['greedy'][key]['value']:.3f}" if one["greedy"][key] else "-"
            for key in ("rouge1", "rouge2", "rouge_l", "names", "numbers", "invented", "repetition")
        ]
        truth = f"{one['truth']['perplexity']:.2f}" if "truth" in one else "-"
        copied = f"{one['copied']['mean_tokens']:.1f}, longest {one['copied']['longest_tokens']}" if "copied" in one else "-"
        rows.append([name, truth, *greedy, copied])
    return aligned(rows)
