"""The spread of pairwise cosines as a figure: a line a model, as measured and with the mean of all papers taken off."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from train.evaluation.embedding.similarity import BINS, Spread
from train.evaluation.embedding.verdict import FORMS

TITLES = {"raw": "as the model gives them", "centred": "the mean of all papers taken off"}
SHOWN = 200  # bins of a line


def draw(spreads: dict[str, dict[str, Spread]], files: Sequence[Path]) -> None:
    """spreads: name of a model → form → spread. The endings of `files` say in which formats."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(FORMS), figsize=(10, 4), layout="constrained", sharey=False)
    for panel, form in zip(panels, FORMS, strict=True):
        top, low = 0.0, 1.0
        for name, of_forms in spreads.items():
            counts = of_forms[form].counts.reshape(SHOWN, BINS // SHOWN).sum(axis=1)
            density = counts / max(counts.sum(), 1) / (2 / SHOWN)
            middles = (np.arange(SHOWN) + 0.5) / SHOWN * 2 - 1
            panel.plot(middles, density, label=f"{name} (mean {of_forms[form].mean:.2f})")
            shown = np.flatnonzero(counts)
            low, top = min(low, middles[shown[0]] if len(shown) else 0.0), max(top, density.max())
        panel.set(title=TITLES[form], xlabel="cosine of two abstracts", xlim=(max(-1, low - 0.05), 1.0), ylim=(0, 1.05 * top or 1))
        panel.legend(fontsize="small")
    panels[0].set_ylabel("density")
    for file in files:
        figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else None)
    plt.close(figure)
