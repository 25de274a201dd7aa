"""What no single key of a recipe can show: checks over several, each run when none of the keys it reads is itself at fault.

CHECKS = ((keys it reads), check), …      a check takes the recipe, or as much of it as could be made, and returns faults
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterable
from typing import Any

from train.recipe import rules
from train.recipe.typed_yaml import LENGTHS, section_of
from train.recipe.vocabulary import Recipe, total_steps, warmup_steps
from train.world.redact import has_secret, redacted

WARMUPS = ("warmup_ratio", "warmup_steps", "warmup_tokens")


def cross_faults(recipe: Any, at_fault: Iterable[str]) -> list[str]:
    """Faults of the checks whose keys are sound; `at_fault`: dotted keys that have been named already."""
    broken = [key.split(".") for key in at_fault]
    return [fault for keys, check in CHECKS if not any(_touches(b, k.split(".")) for b in broken for k in keys) for fault in check(recipe)]


def _touches(broken: list[str], key: list[str]) -> bool:
    """Whether a fault at `broken` leaves `key`, which may hold a `*`, without a value."""
    return len(broken) <= len(key) and all(k in ("*", b) for b, k in zip(broken, key))


def _length_once(r: Any) -> list[str]:
    given = {key: getattr(r, key) for key in LENGTHS if getattr(r, key) is not None}
    if len(given) == 1:
        return []
    said = ", ".join(f"{key}={value:g}" if key == "epochs" else f"{key}={value}" for key, value in given.items()) or "no length"
    return [f"{said}: give the run's length once, as steps=N, tokens=N or epochs=N"]


def _warmup_ends(r: Any) -> list[str]:
    if r.epochs is not None or (r.steps is None) == (r.tokens is None) or total_steps(r) <= 1 or warmup_steps(r) < total_steps(r):
        return []
    return [f"schedule: warm-up of {warmup_steps(r):g} steps leaves nothing of the run's {total_steps(r)}; shorten it"]


def _whole_rows(r: Any) -> list[str]:
    if r.tokens_per_step % r.data.seq_len == 0:
        return []
    near = max(1, round(r.tokens_per_step / r.data.seq_len)) * r.data.seq_len
    return [f"tokens_per_step={r.tokens_per_step}: not a multiple of data.seq_len={r.data.seq_len}; {near} is"]


def _rows_for_a_micro_batch(r: Any) -> list[str]:
    rows = r.tokens_per_step // r.data.seq_len
    if r.micro_batch <= max(1, rows):
        return []
    return [
        f"micro_batch={r.micro_batch}: a step has only {rows} rows (tokens_per_step / data.seq_len); lower it to {max(1, rows)} or less"
    ]


def _known_keys(r: Any) -> list[str]:
    unknown = [key for key in r.checkpoint.allow if not _is_key(Recipe, key.split("."))]
    return [f"checkpoint.allow={key}: no such key of a recipe; --keys lists them" for key in unknown]


def _is_key(kind: Any, words: list[str]) -> bool:
    """Whether the words lead to a key, or to a section: it allows all its keys."""
    if not words:
        return True
    if typing.get_origin(kind) is dict:  # the user's own names
        return _is_key(typing.get_args(kind)[1], words[1:])
    kind = section_of(kind) or kind
    hints = typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
    return words[0] in hints and _is_key(hints[words[0]], words[1:])


def _adapter_has_a_size(r: Any) -> list[str]:
    a = r.adapter
    if a is None:
        return []
    if a.path is None and a.rank is None:
        return ["adapter: neither a rank nor a path; set adapter.rank=16 for a new one, or adapter.path to start from one there is"]
    if a.path is None and a.scaling == "rslora" and a.alpha is None:
        return [
            f"adapter.scaling=rslora: the scale is alpha / sqrt(rank), and 2 * rank would be far too much; give adapter.alpha, e.g. {a.rank}"
        ]
    return []


def _quantized(r: Any) -> list[str]:
    if r.model.quantize == "none":
        return []
    faults = []
    if r.adapter is None:
        faults.append(
            f"model.quantize={r.model.quantize}: quantized weights cannot be trained; give an adapter (adapter.rank=16), or leave quantize out"
        )
    if r.model.compile:
        faults.append(
            f"model.quantize={r.model.quantize}: does not go with model.compile=true, which would cut its layers up; set one of them otherwise"
        )
    return faults


def _warmup_once(r: Any) -> list[str]:
    given = [key for key in WARMUPS if getattr(r.schedule, key) is not None]
    return [f"schedule.{', schedule.'.join(given)}: give the warm-up once"] if len(given) > 1 else []


def _all_weighted_or_none(r: Any) -> list[str]:
    weighted = [name for name, source in r.data.sources.items() if source.weight is not None]
    missing = [name for name in r.data.sources if name not in weighted]
    if not weighted or not missing:
        return []
    return [f"data.sources: {', '.join(weighted)} have a weight and {', '.join(missing)} none; give all sources a weight, or none"]


def _some_source(r: Any) -> list[str]:
    if r.data.sources:
        return []
    return ["data.sources: empty; name at least one folder of token shards, e.g. data.sources.papers.path=shards/papers"]


def _url(r: Any) -> list[str]:
    if r.checkpoint.to and "://" in r.checkpoint.to:
        return _no_secret("checkpoint.to", r.checkpoint.to)
    if not r.checkpoint.to:
        return []
    return [f"checkpoint.to={r.checkpoint.to}: not a URL like s3://bucket/folder; for a folder on a disk set runs"]


def _model_url(r: Any) -> list[str]:
    return _no_secret("model.path", r.model.path)


def _no_secret(key: str, url: str) -> list[str]:
    """A recipe is copied into the run's folder, its log and every checkpoint, and words of a command line are seen by all on a machine."""
    if not has_secret(url):
        return []
    return [
        f"{key}={redacted(url)}: holds a key or a password; give it by the environment (AWS_SECRET_ACCESS_KEY, HF_TOKEN) or the library's own file"
    ]


def _something_to_evaluate(r: Any) -> list[str]:
    if not r.heldout.every_steps or r.heldout.sources:
        return []
    return [f"heldout.every_steps={r.heldout.every_steps}: there are no heldout.sources to evaluate; add one or set it to 0"]


def _rules(r: Any) -> list[str]:
    h = r.heldout
    found = [fault for key in ("stop_if", "warn_if") for fault in rules.faults(f"heldout.{key}", getattr(h, key), h.sources)]
    if h.stop_if and not h.every_steps:
        found.append("heldout.stop_if: heldout.every_steps=0 evaluates after the last step only, when there is nothing to stop; set it")
    return found


def _something_to_go_back_to(r: Any) -> list[str]:
    if not r.guard.max_rewinds or r.checkpoint.trainer_state:
        return []
    return [
        f"guard.max_rewinds={r.guard.max_rewinds}: checkpoint.trainer_state=false leaves nothing to go back to; set it to true, or this to 0"
    ]


def _budget_of_selective(r: Any) -> list[str]:
    m = r.model
    if m.activation_budget is None or m.activation_checkpointing == "selective":
        return []
    return [
        f"model.activation_budget={m.activation_budget:g}: is for model.activation_checkpointing=selective, "
        f"which is {m.activation_checkpointing}; set that, or leave this out"
    ]


CHECKS: tuple[tuple[tuple[str, ...], Callable[[Any], list[str]]], ...] = (
    (LENGTHS, _length_once),
    ((*LENGTHS, "tokens_per_step", *(f"schedule.{key}" for key in WARMUPS)), _warmup_ends),
    (("tokens_per_step", "data.seq_len"), _whole_rows),
    (("tokens_per_step", "data.seq_len", "micro_batch"), _rows_for_a_micro_batch),
    (tuple(f"schedule.{key}" for key in WARMUPS), _warmup_once),
    (("data.sources.*.weight",), _all_weighted_or_none),
    (("data.sources",), _some_source),
    (("checkpoint.to",), _url),
    (("checkpoint.allow",), _known_keys),
    (("model.path",), _model_url),
    (("model.quantize", "model.compile", "adapter"), _quantized),
    (("adapter.rank", "adapter.path", "adapter.alpha", "adapter.scaling"), _adapter_has_a_size),
    (("model.activation_budget", "model.activation_checkpointing"), _budget_of_selective),
    (("guard.max_rewinds", "checkpoint.trainer_state"), _something_to_go_back_to),
    (("heldout.every_steps", "heldout.sources"), _something_to_evaluate),
    (("heldout.every_steps", "heldout.sources", "heldout.stop_if", "heldout.warn_if"), _rules),
)
