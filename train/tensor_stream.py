"""A tensor that lies on disk, in whatever format: its shape, and its elements in order, a bounded part at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Tensor:
    """`parts()` yields 1-D pieces in order, each small; together they are the flattened tensor."""

    shape: tuple[int, ...]
    parts: Callable[[], Iterator[torch.Tensor]]
