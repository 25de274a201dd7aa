"""A recipe's adapter section, or the folder it starts from → where the adapter stands and how it is scaled. Without torch."""

from __future__ import annotations

import re
from pathlib import Path

from train.model_files import adapter as adapter_files
from train.model_files.adapter import AdapterError, Spec
from train.model_files.shapes import Described
from train.recipe.vocabulary import Adapter

_GROUPS = {
    "embeddings": re.compile(r"(embed_tokens|wte|embed_in)$"),
    "head": re.compile(r"(lm_head|embed_out)$"),
    "norms": re.compile(r"norm\w*$"),
}


def spec_of(adapter: Adapter, model: Described, start: Path | None = None) -> Spec:
    """Where a recipe's adapter stands.

    Args:
        start: the folder of the adapter that is gone on from; its own ranks and scales are taken, and may not be said otherwise.
    Raises:
        AdapterError: it does not fit the model.
    """
    if start is None:
        alpha = adapter.alpha if adapter.alpha is not None else 2 * adapter.rank
        return of_words(
            model,
            rank=adapter.rank,
            alpha=alpha,
            rslora=adapter.scaling == "rslora",
            targets=adapter.targets,
            train_also=adapter.train_also,
        )
    folder = adapter_files.read(start, model)
    if folder.embedded:
        raise AdapterError(
            f"{start}: stands at the embedding ({', '.join(sorted(folder.embedded))}); merge it into its base with "
            "export_hf.py --merge-adapter, or train embeddings whole with adapter.train_also"
        )
    if folder.magnitudes:
        raise AdapterError(f"{start}: use_dora=true: is merged by export_hf.py --merge-adapter, not trained; begin from the merged model")
    found = folder.spec
    also = of_words(model, rank=1, alpha=1, rslora=False, train_also=adapter.train_also).whole
    resumed = start != adapter.path
    faults = _otherwise(adapter, model, found)
    if resumed and (set(also) - set(found.whole) or (adapter.path is None and set(found.whole) != set(also))):
        faults.append(f"adapter.train_also: it trains {', '.join(found.whole) or 'nothing'} whole")
    if faults:
        where, remedy = f"adapter.path={start}", "leave these out"
        if resumed:
            where, remedy = f"{start}", "a checkpoint is gone on from as it is: put the old values back, or start anew under another name="
        told = "\n".join(f"  - {f}" for f in faults)
        raise AdapterError(f"{where}: the recipe says otherwise than the adapter; {remedy}\n{told}")
    whole = tuple(name for name in model.shapes if name in {*found.whole, *also})
    return Spec(found.ranks, found.alphas, found.rslora, whole)


def _otherwise(adapter: Adapter, model: Described, found: Spec) -> list[str]:
    """What a recipe says of rank, alpha, scale and layers that is not so."""
    linear = set(of_words(model, rank=1, alpha=1, rslora=False).ranks)
    faults = [f"{module}: is no linear layer of the decoder, and cannot be trained" for module in found.ranks if module not in linear]
    alone = [name for name in found.whole if name.endswith(".bias") and name.replace(".bias", ".weight") not in found.whole]
    faults += [f"{name}: biases alone are not trained here; merge it, and begin from the merged model" for name in alone[:1]]
    ranks, alphas = (sorted(set(values.values())) for values in (found.ranks, found.alphas))
    if adapter.rank is not None and ranks != [adapter.rank]:
        faults.append(f"adapter.rank={adapter.rank}: it has {', '.join(map(str, ranks))}")
    if adapter.alpha is not None and alphas != [adapter.alpha]:
        faults.append(f"adapter.alpha={adapter.alpha:g}: it has {', '.join(f'{a:g}' for a in alphas)}")
    if adapter.scaling == "rslora" and not found.rslora:
        faults.append("adapter.scaling=rslora: it has the standard scale")
    if adapter.targets:
        wanted = of_words(model, rank=1, alpha=1, rslora=False, targets=adapter.targets).ranks
        faults += ["adapter.targets: it stands at other layers"] * (set(wanted) != set(found.ranks))
    return faults


def of_words(
    model: Described, *, rank: int, alpha: float, rslora: bool, targets: tuple[str, ...] = (), train_also: tuple[str, ...] = ()
) -> Spec:
    """An adapter as a recipe words it.

    Raises:
        AdapterError: with all words that name nothing in this model.
    """
    all_linears = [name.removesuffix(".weight") for name in adapter_files.linears(model)]
    known = sorted({module.rpartition(".")[2] for module in all_linears})
    modules, faults = dict.fromkeys(all_linears if not targets else ()), []
    for word in targets:
        found = [module for module in all_linears if module == word or module.endswith(f".{word}")]
        modules |= dict.fromkeys(found)
        if not found:
            faults.append(f"adapter.targets={word}: no linear layer of the decoder is called so; there are {', '.join(known)}")
    ordered = [module for module in all_linears if module in modules]
    whole: dict[str, None] = {}
    for word in train_also:
        found = _whole(model, word, set(ordered))
        whole |= dict.fromkeys(found)
        if not found:
            faults.append(
                f"adapter.train_also={word}: nothing beside the adapter is called so; give embeddings, head, norms or a module's last name"
            )
    if faults:
        raise AdapterError("\n".join(faults))
    return Spec(dict.fromkeys(ordered, rank), dict.fromkeys(ordered, float(alpha)), rslora, tuple(n for n in model.shapes if n in whole))


def _whole(model: Described, word: str, adapted: set[str]) -> list[str]:
    """Parameters that a word of train_also means, tied ones by the name they stand under."""
    found = []
    for name in (*model.shapes, *model.tied):
        module = name.rpartition(".")[0]
        meant = _GROUPS[word].search(module) if word in _GROUPS else module == word or module.endswith(f".{word}")
        if meant and module not in adapted:
            found.append(model.tied.get(name, name))
    return found
