"""What a model goes on with after the first sentences of abstracts, and how likely it finds what their authors wrote.

items → tokens → likelihood of the truth after the prompt; a greedy and some sampled continuations → `Written`, kept in a journal
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from train.evaluation.continuation.items import Item
from train.evaluation.journal import Journal, measured
from train.evaluation.loaded import Loaded
from train.evaluation.texts import hash_of
from train.world.ranks import World

AT_ONCE = 4  # items that are continued together, and kept or lost together


@dataclass(frozen=True)
class Asked:
    """samples: continuations beside the greedy one, by temperature and top_p; the seed and an item's place decide about each."""

    new_tokens: int = 160
    samples: int = 0
    temperature: float = 0.8
    top_p: float = 0.95
    seed: int = 0
    bos: str = "auto"


@dataclass(frozen=True)
class Written:
    """nats: of the truth after the prompt, summed over its `tokens`. texts: greedy first; ids: their tokens; truth_ids: the truth's."""

    nats: float
    tokens: int
    texts: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    truth_ids: tuple[int, ...]


def score(model: Loaded, items: Sequence[Item], asked: Asked, facts: dict[str, Any], journal: Path, world: World) -> list[Written]:
    """Of each item, on every rank."""
    groups = [range(start, min(start + AT_ONCE, len(items))) for start in range(0, len(items), AT_ONCE)]

    def measure(group: int) -> list[dict[str, Any]]:
        return [asdict(one) for one in _written(model, [items[k] for k in groups[group]], asked, group)]

    known = {**facts, **asdict(asked), "items": hash_of(items)}
    found = measured(Journal(journal, "completion", known, world), len(groups), measure, world, f"continuations by {model.name}")
    return [
        Written(one["nats"], one["tokens"], tuple(one["texts"]), tuple(map(tuple, one["ids"])), tuple(one["truth_ids"]))
        for values in found
        for one in values
    ]


def _written(model: Loaded, items: list[Item], asked: Asked, group: int) -> list[Written]:
    import torch

    prompts = [_without_end(model, model.ids(item.prompt, asked.bos)) for item in items]
    whole = [_without_end(model, model.ids(item.prompt + item.truth, asked.bos))[: model.positions] for item in items]
    starts = [min(len(prompt), len(ids)) for prompt, ids in zip(prompts, whole, strict=True)]
    losses = model.losses(whole)
    nats = [float(loss[max(start - 1, 0) :].double().sum()) for loss, start in zip(losses, starts, strict=True)]
    room = None if model.positions is None else max(model.positions - asked.new_tokens, 1)
    fitting = [prompt if room is None else prompt[-room:] for prompt in prompts]
    made = [model.continuations(fitting, asked.new_tokens)]
    for sample in range(asked.samples):
        torch.manual_seed(1_000_003 * asked.seed + 10_007 * group + sample)
        chance = {"do_sample": True, "temperature": asked.temperature, "top_p": asked.top_p, "top_k": 0}
        made.append(model.continuations(fitting, asked.new_tokens, **chance))
    decode = model.tokenizer.decode
    return [
        Written(
            nats[k], len(whole[k]) - starts[k], tuple(decode(ways[k], skip_special_tokens=True) for ways in made),
            tuple(tuple(ways[k]) for ways in made), tuple(whole[k][starts[k] :]),
        )
        for k in range(len(items))
    ]  # fmt: skip


def _without_end(model: Loaded, ids: list[int]) -> list[int]:
    return ids[:-1] if len(ids) > 1 and ids[-1] == model.tokenizer.eos_token_id else ids
