"""What a chat run must not get wrong, looked at before anything starts: recipe and shards → faults, all at once, or warnings.

Shards that are not here yet are left to whoever needs them, so that a recipe can be checked on a laptop.
"""

from __future__ import annotations

from pathlib import Path

from data_tools.shards.format import ShardError
from data_tools.shards.reader import Shards
from train.recipe.vocabulary import Recipe, RecipeError

# What the learning rates of all steps must add up to. Adam moves a weight by at most about lr a step, so the sum bounds how far
# any weight can go, whatever the data. Chat tuning that worked: Alpaca 1.2e-2 (2e-5, three epochs of 52,000 in batches of 128, by its
# repository), LLaMA-2-Chat 9e-3 (2e-5 and 27,540 examples by its report; two epochs in batches of 64 recalled), LIMA 1.3e-3 and Zephyr
# 4e-3 (recalled, not read again). AstroLLaMA-Chat: 1e-4 (3e-7, 654 steps), by its model cards, and 11 points lost. The line lies
# between, at less than half of the least that worked.
LEAST_LR_SUM = 5e-4


def check(recipe: Recipe) -> list[str]:
    """Warnings of a chat run.

    Raises:
        RecipeError: with every fault at once: split packing, shards without a mask, conversations cut inside, formats mixed.
    """
    faults = []
    if recipe.data.packing != "whole":
        faults.append(f"data.packing={recipe.data.packing}: would cut conversations between rows; chat needs data.packing=whole")
    opened = _open(recipe, faults)
    for place, shards in opened.items():
        faults += _faults_of(place, shards, recipe)
    formats: dict[str, list[str]] = {}
    for place, shards in opened.items():
        formats.setdefault(template_name(shards), []).append(place)
    if len(formats) > 1:
        said = "; ".join(f"{name}: {', '.join(places)}" for name, places in formats.items())
        faults.append(f"data.sources: prepared with different chat templates ({said}); prepare all of them with one --template")
    if faults:
        raise RecipeError(f"chat run {recipe.name}", faults)
    return _warnings(recipe, opened)


def lr_sum(recipe: Recipe) -> float:
    """The learning rates of all steps, added up: a bound on how far Adam moves any weight."""
    from train.recipe.schedule import learning_rate

    return sum(learning_rate(recipe, step) for step in range(recipe.total_steps))


def too_weak(lr: float, steps: int, total: float) -> str | None:
    """A warning when a run's learning rates add up to too little to learn from.

    Args:
        lr, steps: the peak and the length, for the words. total: `lr_sum`, what decides.
    """
    if total >= LEAST_LR_SUM:
        return None
    return (
        f"optim.lr={lr:g} over {steps:,} steps: the learning rates add up to {total:.1e}, and Adam moves no weight further than about that; "
        f"chat tuning that worked has {LEAST_LR_SUM:g} or more (lr 1e-5 to 2e-5 over hundreds of steps). Raise optim.lr, add "
        "conversations or epochs, or lower tokens_per_step"
    )


def template_name(shards: Shards) -> str:
    """The chat format the shards were written in."""
    return str(shards.tokenizer.get("template", {}).get("name", "unknown"))


def _open(recipe: Recipe, faults: list[str]) -> dict[str, Shards]:
    """The folders that are here, by their place in the recipe."""
    places: dict[str, Path] = {f"data.sources.{name}": source.path for name, source in recipe.data.sources.items()}
    places |= {f"heldout.sources.{name}": source.path for name, source in recipe.heldout.sources.items()}
    opened = {}
    for place, path in places.items():
        if not path.exists():
            continue
        try:
            opened[place] = Shards.open(path, verify="size")  # hashes are the run's business, which shares them among the ranks
        except ShardError as error:
            faults.append(f"{place}.path={path}: {error}")
    return opened


def _faults_of(place: str, shards: Shards, recipe: Recipe) -> list[str]:
    where = f"{place}.path={shards.folder}"
    if not shards.has_mask:
        return [
            f"{where}: plain text without a loss mask, every word of it would be trained on; give chat shards "
            "(python -m data_tools.prepare chat), or train on these with launch/pretrain.py"
        ]
    longer = int((shards.lengths > recipe.data.seq_len).sum())
    dropped = recipe.data.long_documents == "drop" and place.startswith("data.")
    if longer and not dropped:
        return [
            f"{where}: {longer:,} of {len(shards):,} conversations are longer than data.seq_len={recipe.data.seq_len} and would be cut inside a "
            f"turn; prepare them with --seq-len {recipe.data.seq_len} (cut after an answer), raise data.seq_len"
            + (", or set data.long_documents=drop" if place.startswith("data.") else "")
        ]
    return []


def _warnings(recipe: Recipe, opened: dict[str, Shards]) -> list[str]:
    found = []
    if recipe.epochs is None:  # else the length is not known before the shards are here
        found = [w for w in [too_weak(recipe.optim.lr, recipe.total_steps, lr_sum(recipe))] if w]
    for place, shards in opened.items():
        longer = int((shards.lengths > recipe.data.seq_len).sum())
        if longer:
            found.append(
                f"{place}: {longer:,} of {len(shards):,} conversations are longer than a row of {recipe.data.seq_len} and are left out"
            )
    if not recipe.heldout.sources:
        found.append("heldout.sources: none, so nothing will tell learning from memorizing; prepare chat --split heldout=0.05 makes some")
    return found
