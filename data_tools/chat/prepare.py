"""`data_tools.prepare chat`: files of conversations → token shards with a loss mask.

inputs → tasks of 5,000 records → per task: records → conversations → tokens and masks (`encode_records`, any process) → files of samples
→ limits on what was dropped → shards, in the inputs' order whatever the workers → manifest.
"""

import argparse
import functools
import importlib.metadata
import json
import platform
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.chat.conversations import IGNORED
from data_tools.chat.records import ChatInput, find_inputs
from data_tools.chat.tasks import TOO_LONG, UNSUPERVISED, EncodeTask, TaskResult, encode_records, load_template, read_samples
from data_tools.chat.template import NAMES, ChatTemplate
from data_tools.chat.turns import ChatError, Turn
from data_tools.files.atomic import write_atomically
from data_tools.shards.format import MANIFEST
from data_tools.shards.reader import Shards
from data_tools.shards.writer import ShardWriter
from data_tools.tokens.tokenizer import Tokenizer
from data_tools.work import tasks as work
from data_tools.work.workplace import adopt_plan, claimed, clear, clear_leftovers

EXAMPLE = "python -m data_tools.prepare chat answers.jsonl GAIR/lima --tokenizer models/llama-2-7b --out shards/chat --seq-len 4096"
UNREAD = (
    "unknown key of",
    "unknown field beside",
    "a flag is",
    "a loss weight is",
)  # so begin the reasons that name a field nobody can read
MAX_UNSUPERVISED = 0.001
TASK_RECORDS = 5000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = f"example: {EXAMPLE}"
    add = parser.add_argument
    add(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help=".jsonl, .json (also .gz) or .parquet, a folder of them, or a Hub name owner/name[:split]",
    )
    add("--tokenizer", type=Path, required=True, metavar="DIR", help="the model's folder, or that of its tokenizer")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the shards")
    add(
        "--template",
        choices=NAMES,
        default="llama2",
        help="format of the conversation (default: llama2); model: the tokenizer's own chat template",
    )
    add("--source", metavar="S", help="name of the inputs in the shards (default: each one's own)")
    add("--seq-len", type=int, metavar="N", help="longest conversation in tokens (default: any length)")
    add(
        "--long",
        choices=("truncate", "drop"),
        default="truncate",
        help="longer ones: cut after the last answer that fits (default), or drop",
    )
    add("--split", metavar="NAME=FRACTION", help="e.g. heldout=0.1: writes OUT/heldout and OUT/train; equal first questions stay together")
    add(
        "--max-dropped", type=float, default=0.05, metavar="F", help="stop when more than this part of a source is unusable (default: 0.05)"
    )
    add(
        "--ignore-field",
        action="append",
        default=[],
        metavar="NAME",
        help="read records as if they had no field NAME, beside the conversation or in a message; may be repeated. Without it a field that "
        "no format gives a meaning refuses its record, since what is asked may stand there, or that a turn is not to be learned",
    )
    add("--allow-unsupervised", action="store_true", help="go on when more than a thousandth of a source has nothing to train on")
    work.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Make the shards. Raises ChatError, PrepareError, ShardError, WorkError."""
    if not 0 <= args.max_dropped <= 1:
        raise ChatError(f"--max-dropped {args.max_dropped}: give a share from 0 to 1, for instance 0.05")
    if parts_of_turns := sorted({"role", "from", "content", "value"} & set(args.ignore_field)):
        raise ChatError(f"--ignore-field {parts_of_turns[0]}: turns are made of it; name a field beside role and content")
    template, tokenizer = load_template(str(args.tokenizer.absolute()), args.template), Tokenizer.load(args.tokenizer)
    sides = _sides(args)
    inputs = find_inputs(args.inputs, args.source)
    arguments = {key: getattr(args, key) for key in ("template", "source", "seq_len", "long", "split", "max_dropped", "allow_unsupervised")}
    ignored = sorted(set(args.ignore_field))
    arguments |= {"ignore_field": ignored} if ignored else {}
    facts = {"arguments": arguments, "inputs": [item.to_json() for item in inputs], "tokenizer": _tokenizer_facts(tokenizer, template)}
    if all([_is_made(side.folder, facts) for side in sides]):
        clear_leftovers(args.out)
        print(f"{args.out}: made before from these inputs with these arguments; nothing to do")
        return
    print(f"template {template.name}: marks are {template.facts['marks']}", file=sys.stderr)
    with claimed(args.out) as work_folder:
        adopt_plan(work_folder, facts)
        results = _encode(args, inputs, work_folder / "encode")
        try:
            dropped = _keep_dropped(results, args.out / "dropped.jsonl")
            _check_limits(results, dropped, args)
            for side in sides:
                if not _is_made(side.folder, facts):
                    _write(side, results, tokenizer.vocab_size, facts | {"dropped": dropped})
        except ChatError:
            clear(work_folder)  # inputs or arguments must change: no use for what was encoded
            raise
        clear(work_folder)
    left_out = sum((Counter(result.left_out) for result in results), Counter())
    _report([side.folder for side in sides], dropped, left_out, args.out)


def _report(folders: Iterable[Path], dropped: dict[str, dict[str, int]], left_out: Counter[str], out: Path) -> None:
    for heading, chosen in (("kept without what no template has a place for", False), ("ignored, as --ignore-field says", True)):
        if counted := [(what, number) for what, number in left_out.most_common() if what.startswith(IGNORED) == chosen]:
            print(f"{heading}: " + "; ".join(f"{what.removeprefix(IGNORED)} ({number:,} conversations)" for what, number in counted))
    if reasons := sum((Counter(reasons) for reasons in dropped.values()), Counter()):
        listed = "; ".join(f"{reason} ({number:,})" for reason, number in reasons.most_common(5))
        print(f"dropped {reasons.total():,}: {listed}; each is named in {out / 'dropped.jsonl'}")
    for folder in folders:
        counts = json.loads((folder / MANIFEST).read_bytes())["counts"]
        share = counts["supervised_tokens"] / counts["tokens"]
        print(f"{folder}: {counts['documents']:,} conversations, {counts['tokens']:,} tokens, {share:.1%} of them supervised")


@dataclass(frozen=True)
class Side:
    """A folder of shards, for the conversations whose first question has its place in low … high, of the line from 0 to 1."""

    name: str
    folder: Path
    low: float
    high: float


def _sides(args: argparse.Namespace) -> list[Side]:
    """The held-out side and `train`, or `all`. Raises ChatError."""
    if args.seq_len is not None and args.seq_len < 2:
        raise ChatError(f"--seq-len {args.seq_len}: give the row length of the training, for instance 4096")
    if args.split is None:
        return [Side("all", args.out, 0.0, 1.0)]
    name, _, fraction = args.split.partition("=")
    try:
        value = float(fraction)
    except ValueError:
        value = 0.0
    if not 0 < value < 1 or not name.isidentifier() or name == "train":
        raise ChatError(f"--split {args.split}: write NAME=FRACTION, the fraction between 0 and 1, for instance heldout=0.1")
    return [Side(name, args.out / name, 0.0, value), Side("train", args.out / "train", value, 1.0)]


def _tokenizer_facts(tokenizer: Tokenizer, template: ChatTemplate) -> dict[str, Any]:
    opening = template.prompt([Turn("user", "question")])
    facts = {"fingerprint": tokenizer.fingerprint, "bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id}
    return facts | {
        "add_bos": opening[0] == tokenizer.bos_id,
        "add_eos": template.end_ids == {tokenizer.eos_id},
        "template": template.facts,
    }


def _is_made(folder: Path, facts: dict[str, Any]) -> bool:
    if not (folder / MANIFEST).exists():
        return False
    made = Shards.open(folder, verify="size").manifest
    if different := [key for key, value in facts.items() if made.get(key) != json.loads(json.dumps(value))]:
        raise ChatError(
            f"{folder}: holds finished shards made with other {' and '.join(different)}; give another --out, or delete that folder"
        )
    return True


def _encode(args: argparse.Namespace, inputs: list[ChatInput], folder: Path) -> list[TaskResult]:
    """Results of all tasks, in the inputs' order; what was finished before a kill is not done again."""
    folder = folder.absolute()
    tokenizer = str(args.tokenizer.absolute())
    task = functools.partial(EncodeTask, tokenizer=tokenizer, template=args.template, seq_len=args.seq_len, long=args.long)
    task = functools.partial(task, ignore=sorted(set(args.ignore_field)))
    tasks, sizes, first_record = [], [], Counter()
    for item in inputs:
        path = item.path if item.path.startswith("hub:") else str(Path(item.path).absolute())
        for start in range(0, item.records, TASK_RECORDS):
            stop, part = min(start + TASK_RECORDS, item.records), str(folder / f"{len(tasks):05d}.npz")
            first = first_record[item.source] + start
            tasks.append(task(path, item.source, start, stop, first, part).to_json())
            sizes.append(item.bytes * (stop - start) // item.records)
        first_record[item.source] += item.records
    folder.mkdir(parents=True, exist_ok=True)
    results = work.run_tasks(encode_records, tasks, folder / "tasks", work.chosen(args), label="encode chats", sizes=sizes)
    return [TaskResult.of_json(result) for result in results]


def _keep_dropped(results: list[TaskResult], path: Path) -> dict[str, dict[str, int]]:
    """Every dropped record with its reason to a file one can read; returns the number of each reason, by source."""
    dropped: dict[str, Counter[str]] = {}
    lines = []
    for result in results:
        for id, reason in result.dropped:
            dropped.setdefault(result.source, Counter())[reason] += 1
            lines.append(json.dumps({"id": id, "source": result.source, "reason": reason}, ensure_ascii=False) + "\n")
    write_atomically(path, "".join(lines).encode())
    return {source: dict(sorted(reasons.items())) for source, reasons in sorted(dropped.items())}


def _check_limits(results: list[TaskResult], dropped: dict[str, dict[str, int]], args: argparse.Namespace) -> None:
    """Raises ChatError, with all that is wrong, before a shard is written."""
    total, faults = Counter(), []
    for result in results:
        total[result.source] += result.kept + len(result.dropped)
    for source, reasons in dropped.items():
        unsupervised = reasons.get(UNSUPERVISED, 0)
        unusable = {reason: number for reason, number in reasons.items() if reason not in (UNSUPERVISED, TOO_LONG)}
        if unsupervised > MAX_UNSUPERVISED * total[source] and not args.allow_unsupervised:
            share = f"{unsupervised:,} of {total[source]:,} conversations have {UNSUPERVISED}, more than {MAX_UNSUPERVISED:.1%}"
            faults.append(f"{source}: {share}; mend their loss weights, or go on without them by --allow-unsupervised")
        if sum(unusable.values()) > args.max_dropped * total[source]:
            share = (
                f"{sum(unusable.values()):,} of {total[source]:,} conversations cannot be used, more than --max-dropped {args.max_dropped}"
            )
            most = sorted(unusable.items(), key=lambda item: (-item[1], item[0]))[:5]
            remedy = "; --ignore-field NAME reads on without one" if any(reason.startswith(UNREAD) for reason in unusable) else ""
            faults.append(f"{source}: {share}: " + "; ".join(f"{reason} ({number:,})" for reason, number in most) + remedy)
    if faults:
        raise ChatError("\n".join([*faults, f"nothing was written but {args.out / 'dropped.jsonl'}, which names them one by one"]))


def _write(side: Side, results: list[TaskResult], vocab_size: int, facts: dict[str, Any]) -> None:
    """The shards of one side. Raises ChatError when no conversation falls on it."""
    writer = ShardWriter(side.folder, kind="chat", vocab_size=vocab_size, tokenizer=facts["tokenizer"])
    sources: dict[str, dict[str, int]] = {}
    for result in results:
        counts = sources.setdefault(result.source, {"samples": 0, "turns": 0, "cut": 0, "longest": 0})
        for sample in read_samples(Path(result.part)):
            if side.low <= sample.place < side.high:
                writer.add(sample.id, result.source, sample.tokens, sample.mask)
                counts["samples"] += 1
                counts["turns"] += sample.turns
                counts["cut"] += sample.cut
                counts["longest"] = max(counts["longest"], len(sample.tokens))
    if not any(counts["samples"] for counts in sources.values()):
        reasons = sum((Counter(counts) for counts in facts["dropped"].values()), Counter()).most_common(3)
        why = "; ".join(f"{reason} ({number:,})" for reason, number in reasons) or "none was dropped"
        raise ChatError(f"{side.folder}: no conversation is left for it: {why}; mend that, or give --split another fraction")
    left_out: dict[str, Counter[str]] = {}
    for result in results:
        left_out.setdefault(result.source, Counter()).update(result.left_out)
    chat = {"split": side.name, "sources": sources, "left_out": {source: counts for source, counts in left_out.items() if counts}}
    provenance = {key: facts[key] for key in ("inputs", "arguments", "dropped")}
    turns = {source: counts["turns"] for source, counts in sources.items()}
    writer.finish(**provenance, versions=_versions(), turns=turns, chat=chat)


def _versions() -> dict[str, str]:
    names = ("sentencepiece", "tokenizers", "jinja2", "pyarrow", "numpy")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}
