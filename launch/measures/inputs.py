"""Raw texts of any kind of file that `prepare corpus` reads, as they stand: what cannot be read is counted, and said aloud."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.corpus.document import BAD, Rule, field, to_document
from data_tools.corpus.file_readers import InputError
from data_tools.corpus.records import find_inputs, read_records, split_inputs
from train.evaluation.texts import Text

USUAL = ("section", "source")  # fields that tell texts apart, where a record has them
MOST_GROUPS = 50  # of a kind that was not asked for


@dataclass(frozen=True)
class Read:
    """texts as they lie in the files; left_out: reason → records."""

    texts: list[Text]
    left_out: dict[str, int]
    remarks: list[str]


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", nargs="+", required=True, metavar="F", help="jsonl, json, parquet, arrow, csv, tsv, txt, plain or packed; folders; URLs"
    )
    parser.add_argument("--where", action="append", default=[], metavar="FIELD=VALUE", help="only records like this; may be repeated")
    parser.add_argument("--id-field", default="id", metavar="F", help="names a paper (default id); without one its text does")
    parser.add_argument("--limit", type=_above_0, metavar="N", help="the first N records")


def add_text_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_arguments(parser)
    parser.add_argument("--text-field", action="append", metavar="F", help="field with the text (default text); several are joined")
    parser.add_argument("--part", action="append", default=[], metavar="F", help="a field that is a text of its own: abstract, …")
    parser.add_argument(
        "--by", action="append", metavar="F", help=f"also for each value of this field (default: {' and '.join(USUAL)}, where there)"
    )


def _above_0(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text}: give a whole number above 0")
    return int(text)


def records(args: argparse.Namespace, as_written: tuple[str, ...] = ()) -> Iterator[tuple[str, int, dict[str, Any] | str]]:
    """(file, number in it, record or why it is none), for `--data` and `--limit`. Raises InputError."""
    given = 0
    for part in split_inputs(find_inputs(args.data)):
        for number, record in read_records(part, as_written):
            if args.limit and given >= args.limit:
                return
            given += 1
            yield part.path, number, record


def conditions(args: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    """`--where`. Raises InputError."""
    if bad := [word for word in args.where if "=" not in word]:
        raise InputError(f"--where {bad[0]}: give FIELD=VALUE, for instance split=heldout")
    return tuple(tuple(word.split("=", 1)) for word in args.where)


def read_texts(args: argparse.Namespace) -> Read:
    """Raises InputError where nothing is left, or a file is damaged."""
    if args.part and args.text_field:
        raise InputError("--part and --text-field: a text is made of fields, or each field is one; give one of the two")
    fields = tuple(args.text_field or ["text"])
    rules = [(part, Rule(conditions(args), (part,), args.id_field, ())) for part in args.part]
    rules = rules or [(None, Rule(conditions(args), fields, args.id_field, ()))]
    texts: list[Text] = []
    left_out: Counter[str] = Counter()
    some_file, seen, first = len(args.data) > 1, set(), None
    for path, _, record in records(args, (args.id_field,)):
        seen.add(path)
        first = first or (record if isinstance(record, dict) else None)
        for part, rule in rules:
            document = to_document(record, rule)
            if isinstance(document, str):
                left_out[document] += 1
            else:
                groups = [("section", part)] if part else []
                groups += [("file", Path(path).name)] if some_file else []
                texts.append(
                    Text(
                        document.id if part is None else _id_of(record, args.id_field, document.id),
                        document.text,
                        (*groups, *_groups(record, args.by)),
                    )
                )
    if not texts:
        raise InputError(_nothing(args, left_out, first))
    if args.by and (absent := [name for name in args.by if not any(name == kind for text in texts for kind, _ in text.groups)]):
        raise InputError(f"--by {absent[0]}: no record has this field; they have {', '.join(first or {})}")
    texts = texts if args.by else _without_countless(texts)
    return Read(texts, dict(left_out), _remarks(args, texts, left_out))


def _id_of(record: dict[str, Any], id_field: str, id: str) -> str:
    """The paper's id: parts of a record without one belong together, although each has a text of its own."""
    if field(record, id_field) is not None:
        return id
    return hashlib.sha256(json.dumps(record, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _groups(record: dict[str, Any], asked: list[str] | None) -> list[tuple[str, str]]:
    found = [(name, field(record, name)) for name in (asked or USUAL)]
    return [(name, str(value)) for name, value in found if isinstance(value, str | int | float) and str(value)]


def _without_countless(texts: list[Text]) -> list[Text]:
    """Without kinds that nobody asked for, where all texts are of one, or nearly each of another, as with a `source` that is a file's name."""
    names: dict[str, set[str]] = {}
    for text in texts:
        for kind, name in text.groups:
            names.setdefault(kind, set()).add(name)
    dropped = {kind for kind, found in names.items() if kind in USUAL and not 1 < len(found) <= MOST_GROUPS}
    return [Text(t.id, t.text, tuple(g for g in t.groups if g[0] not in dropped)) for t in texts] if dropped else texts


def _nothing(args: argparse.Namespace, left_out: Counter[str], first: dict[str, Any] | None) -> str:
    where = ", ".join(args.data)
    if not left_out:
        return f"{where}: no record in it; give a file with texts"
    reasons = "; ".join(f"{count:,} × {reason}" for reason, count in left_out.most_common(5))
    fields = f"; the first record has the fields {', '.join(map(str, first))[:200]}: name one by --text-field" if first else ""
    return f"{where}: no text in it ({reasons}){fields}"


def _remarks(args: argparse.Namespace, texts: list[Text], left_out: Counter[str]) -> list[str]:
    """What the reader of the result should know."""
    told = []
    for reason, count in left_out.most_common():
        what = "faulty records left out" if reason.startswith(BAD) else "records left out"
        told.append(f"{count:,} {what}: {reason}")
    by_id: dict[tuple, set[str]] = {}
    for text in texts:
        by_id.setdefault((text.id, text.groups if args.part else ()), set()).add(text.text)
    again = len(texts) - len({(text.id, text.groups, text.text) for text in texts})
    if again:
        told.append(f"{again:,} texts stand there more than once, and count as often; intervals take the copies of one id as one")
    if unlike := sum(len(found) > 1 for found in by_id.values()):
        told.append(f"{unlike:,} ids stand for several different texts; intervals take those of one id as one paper")
    return told
