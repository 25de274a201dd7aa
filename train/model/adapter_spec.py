"""A recipe's adapter section, or the folder it starts from → where the adapter stands and how it is scaled. Without torch."""

from __future__ import annotations

from pathlib import Path

from train.model_files import adapter as adapter_files
from train.model_files.adapter import AdapterError, Spec
from train.model_files.shapes import Described
from train.recipe.vocabulary import Adapter


def spec_of(adapter: Adapter, model: Described, start: Path | None = None) -> Spec:
    """Where a recipe's adapter stands.

    Args:
        start: the folder of the adapter that is gone on from; its own ranks and scales are taken, and may not be said otherwise.
    Raises:
        AdapterError: it does not fit the model.
    """
    if start is None:
        alpha = adapter.alpha if adapter.alpha is not None else 2 * adapter.rank
        return adapter_files.spec(
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
    found = folder.spec
    linear = set(adapter_files.spec(model, rank=1, alpha=1, rslora=False).ranks)
    faults = [f"{module}: is no linear layer of the decoder" for module in found.ranks if module not in linear]
    if adapter.rank is not None and set(found.ranks.values()) != {adapter.rank}:
        faults.append(f"adapter.rank={adapter.rank}: it has {', '.join(map(str, sorted(set(found.ranks.values()))))}; leave rank out")
    if adapter.alpha is not None and set(found.alphas.values()) != {adapter.alpha}:
        faults.append(
            f"adapter.alpha={adapter.alpha:g}: it has {', '.join(f'{a:g}' for a in sorted(set(found.alphas.values())))}; leave alpha out"
        )
    if adapter.scaling == "rslora" and not found.rslora:
        faults.append("adapter.scaling=rslora: it has the standard scale; leave scaling out")
    if adapter.targets:
        wanted = adapter_files.spec(model, rank=1, alpha=1, rslora=False, targets=adapter.targets).ranks
        faults += ["adapter.targets: it stands at other layers; leave targets out"] * (set(wanted) != set(found.ranks))
    if faults:
        raise AdapterError(f"adapter.path={start}: the recipe says otherwise than the adapter:\n" + "\n".join(f"  - {f}" for f in faults))
    also = adapter_files.spec(model, rank=1, alpha=1, rslora=False, train_also=adapter.train_also).whole
    whole = tuple(name for name in model.shapes if name in {*found.whole, *also})
    return Spec(found.ranks, found.alphas, found.rslora, whole)
