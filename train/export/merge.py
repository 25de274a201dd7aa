"""Several models → one, elementwise: a weighted sum, or the mean of a run's steps. In fp32, a bounded part at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from train.model_files.dtypes import FP32, cast
from train.model_files.stream import CHUNK_BYTES, Tensor

ELEMENTS = CHUNK_BYTES // 4


def linear(models: Sequence[tuple[float, dict[str, Tensor]]]) -> dict[str, Tensor]:
    """weight_0 * model_0 + weight_1 * model_1 + …, added in that order; every model has the same names and shapes."""
    return {name: _combined([(weight, tensors[name]) for weight, tensors in models], 1) for name in models[0][1]}


def mean(models: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """(model_0 + model_1 + …) / count."""
    return {name: _combined([(1.0, tensors[name]) for tensors in models], len(models)) for name in models[0]}


def _combined(rows: list[tuple[float, Tensor]], count: int) -> Tensor:
    def parts() -> Iterator[np.ndarray]:
        weights = [np.float32(weight) for weight, _ in rows]
        for chunks in zip(*(aligned(tensor) for _, tensor in rows), strict=True):
            yield _sum(weights, chunks, count)

    assert len({tensor.shape for _, tensor in rows}) == 1, rows
    return Tensor(rows[0][1].shape, FP32, parts)


@np.errstate(over="ignore", invalid="ignore")  # whoever writes the sum refuses what is not finite, by the tensor's name
def _sum(weights: Sequence[np.float32], chunks: Sequence[np.ndarray], count: int) -> np.ndarray:
    total = chunks[0] * weights[0]
    for weight, chunk in zip(weights[1:], chunks[1:], strict=True):
        total += chunk * weight
    return np.divide(total, np.float32(count), out=total) if count > 1 else total


def aligned(tensor: Tensor) -> Iterator[np.ndarray]:
    """The elements in fp32, cut at multiples of ELEMENTS wherever the parts were cut; each valid until the next."""
    buffer, filled = np.empty(min(ELEMENTS, tensor.numel), np.float32), 0
    for part in tensor.parts():
        while len(part):
            count = min(len(part), ELEMENTS - filled)
            cast(part[:count], tensor.dtype, FP32, buffer[filled : filled + count])
            part, filled = part[count:], filled + count
            if filled == ELEMENTS:
                yield buffer
                filled = 0
    if filled:
        yield buffer[:filled]
