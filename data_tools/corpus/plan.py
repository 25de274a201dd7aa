"""What decides the bytes of a corpus, and whether a folder holds just that.

flags → `Arguments`, with the tokenizer's rule and the inputs as they lie now → `Plan` → compared with the plan.json of unfinished work
(`adopt_plan`) and with the manifests of finished shards (`is_finished`, `is_uploaded`): the same goes on, another is refused
"""

import argparse
import importlib.metadata
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_tools.corpus.records import Input
from data_tools.corpus.remote import read_manifests
from data_tools.files.places import content_hash, state_of
from data_tools.shards.format import MANIFEST
from data_tools.shards.reader import Shards
from data_tools.work.workplace import PrepareError, clear_leftovers, describe_differences


@dataclass(frozen=True)
class Arguments:
    """The flags that decide the bytes; named as manifests name them."""

    source: str
    text_fields: tuple[str, ...]
    id_field: str
    where: tuple[tuple[str, str], ...]  # (field, value)
    split: tuple[tuple[str, float], ...]  # (name, share) of each held-out side
    bad_rows: float  # share of records that may be unreadable
    shard_tokens: int
    reference: bool

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Arguments":
        """Raises PrepareError."""
        if wrong := [word for word in args.where if "=" not in word]:
            raise PrepareError(f"--where {wrong[0]}: write FIELD=VALUE")
        split = _split(args.split)
        if args.shard_tokens < 1 or not 0 <= args.bad_rows <= 1:
            raise PrepareError(f"--shard-tokens {args.shard_tokens}, --bad-rows {args.bad_rows}: at least 1, and between 0 and 1")
        where = tuple((name, value) for name, _, value in (word.partition("=") for word in args.where))
        text_fields = tuple(args.text_field or ["text"])
        return cls(args.source, text_fields, args.id_field, where, split, args.bad_rows, args.shard_tokens, args.reference)

    @property
    def sides(self) -> list[str]:
        """Names of the folders in OUT by number of the split; one, OUT itself, when nothing is held out."""
        return ["train", *(name for name, _ in self.split)] if self.split else [""]

    def to_json(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self)))  # lists for tuples: it is compared with what was read from a file


def _split(words: list[str]) -> tuple[tuple[str, float], ...]:
    split = []
    for word in words:
        name, _, share = word.partition("=")
        try:
            split.append((name, float(share)))
        except ValueError:
            raise PrepareError(f"--split {word}: write NAME=SHARE, for instance heldout=0.1") from None
        if not name.isidentifier() or name == "train" or not 0 < split[-1][1] < 1:
            raise PrepareError(f"--split {word}: needs a plain name other than train, and a share between 0 and 1")
    if sum(share for _, share in split) >= 1 or len(dict(split)) < len(split):
        raise PrepareError(f"--split {', '.join(words)}: names must differ, and leave something for train")
    return tuple(split)


@dataclass(frozen=True)
class Plan:
    arguments: Arguments
    tokenizer: dict[str, Any]  # of its rule, what changes the tokens
    inputs: tuple[Input, ...]
    states: tuple[dict[str, Any], ...]  # of each input: its time or tag when the plan was made
    versions: dict[str, str]

    @classmethod
    def of(cls, arguments: Arguments, tokenizer_rule: dict[str, Any], inputs: list[Input]) -> "Plan":
        versions = {name: importlib.metadata.version(name) for name in ("datasets", "datatrove", "numpy", "pyarrow")}
        states = tuple(state_of(input.path) for input in inputs)
        return cls(arguments, _identity_of_rule(tokenizer_rule), tuple(inputs), states, versions)

    def to_json(self) -> dict[str, Any]:
        inputs = [asdict(input) | state for input, state in zip(self.inputs, self.states)]
        return {"arguments": self.arguments.to_json(), "tokenizer": self.tokenizer, "inputs": inputs, "versions": self.versions}


def _identity_of_rule(rule: dict[str, Any]) -> dict[str, Any]:
    return {key: rule[key] for key in ("fingerprint", "add_bos", "add_eos")}


def is_finished(out: Path, folders: list[Path], plan: Plan) -> bool:
    """Whether just this was made already; PrepareError if something else was."""
    if not any((folder / MANIFEST).exists() for folder in {out, out / "train", *folders}):
        return False
    if not all((folder / MANIFEST).exists() for folder in folders):
        if (out / ".work").exists():
            return False  # killed between two manifests
        raise PrepareError(f"{out}: holds shards with other splits; name another --out, or delete it")
    for folder in folders:
        _refuse_other(Shards.open(folder, verify="size").manifest, str(folder), plan)
    clear_leftovers(out)
    print(f"{out}: already made from this input with these arguments; nothing to do")
    return True


def is_uploaded(out: str, plan: Plan) -> bool:
    """Whether just this lies in the remote OUT, whole; PrepareError if something else does."""
    made = read_manifests(out, plan.arguments.sides)
    for name, manifest in made.items():
        _refuse_other(manifest, f"{out}/{name}".rstrip("/"), plan)
    if not set(plan.arguments.sides) <= made.keys():
        return False  # killed between two manifests, or not begun
    print(f"{out}: already made from this input with these arguments; nothing to do")
    return True


def _refuse_other(manifest: dict[str, Any], folder: str, plan: Plan) -> None:
    """PrepareError when the finished shards are not of this plan."""
    there = {"arguments": manifest["arguments"], "tokenizer": _identity_of_rule(manifest["tokenizer"])}
    there["inputs"] = [{key: input[key] for key in ("path", "bytes", "sha256")} for input in manifest["inputs"]]
    with ThreadPoolExecutor() as pool:
        hashes = list(pool.map(content_hash, [input.path for input in plan.inputs]))
    here = {"arguments": plan.arguments.to_json(), "tokenizer": plan.tokenizer}
    here["inputs"] = [{"path": input.path, "bytes": input.bytes, "sha256": sha256} for input, sha256 in zip(plan.inputs, hashes)]
    if differences := describe_differences(there, here):
        raise PrepareError(f"{folder}: was made otherwise ({'; '.join(differences[:5])}); name another --out, or delete {folder}")
