"""A small run that spikes for real: patterned documents, one a row, and random tokens in the rows of chosen steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.made import tiny
from tests.made.memory_shards import MemoryShards

ROWS, SEQ_LEN, DOCUMENTS = 4, 64, 200
MARK = tiny.VOCAB - 1  # a token of no other document
GUARD = {"spike_zscore": 3, "spike_window": 8, "rewind_after": 3, "rewind_steps": 3, "max_rewinds": 1}


def row_documents() -> np.ndarray:
    """The document of each row of the first epoch, in the order of the run."""
    from train.data.mixture import SourceSpec
    from train.data.plans import DataSettings, Plans

    settings = DataSettings(specs=[SourceSpec("a")], seq_len=SEQ_LEN, packing="split", seed=0, rows_per_step=ROWS)
    plans = Plans([MemoryShards([SEQ_LEN] * DOCUMENTS)], settings)
    rows = plans.rows(0)
    plans.close()
    assert len(rows) == len(rows.document) == DOCUMENTS
    return rows.document


def ground(folder: Path, random_steps: tuple[int, ...] = (), marked_steps: tuple[int, ...] = (), **recipe) -> Path:
    """Model, shards and recipe; the rows that steps would take of the plan as it stands hold random tokens, or the mark as their last one."""
    rng = np.random.default_rng(1)
    tiny.save_tiny(folder / "model")
    documents = [np.tile(rng.permutation(np.arange(3, 11)), SEQ_LEN // 8) for _ in range(DOCUMENTS)]
    order = row_documents()
    for step in (*random_steps, *marked_steps):
        for document in order[ROWS * (step - 1) : ROWS * step]:
            if step in random_steps:
                documents[document] = rng.integers(3, MARK, SEQ_LEN)
            else:
                documents[document][-1] = MARK
    tiny.write_shards(folder / "shards", folder / "model", documents)
    values = {
        "steps": 16, "tokens_per_step": ROWS * SEQ_LEN, "heldout": None, "guard": GUARD, "checkpoint": {"every_steps": 2, "keep_best": 0, "keep_last": 1},
        "optim": {"lr": 3e-3, "kernel": "torch"}, "schedule": {"warmup_steps": 1, "kind": "constant"},
    }  # fmt: skip
    tiny.write_recipe(folder, **values | recipe)
    return folder


def marks_are_not_finite() -> None:
    """From now on the embedding of a batch with the mark is not finite, in this process."""
    import torch

    def poison(module, inputs, output):
        if (
            isinstance(module, torch.nn.Embedding)
            and type(inputs[0]) is torch.Tensor
            and not inputs[0].is_meta
            and bool((inputs[0] == MARK).any())
        ):
            return output * float("nan")

    torch.nn.modules.module.register_module_forward_hook(poison)
