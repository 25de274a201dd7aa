"""How ZeRO-3 brings weights together: a decoder layer at a time, how many ahead, and how many stay for the way back.

DeepSpeed gathers each linear layer by itself. With a decoder layer as its leaf it gathers nine tensors in one go, twice a step, and
nothing of its own stands inside the layer, so that it can be compiled. A leaf wants numbers of its own, in elements, derived from the layer:

prefetch   one layer: the next is on its way while one computes
live       four layers: the one at work, the next, and what is kept for the way back
reuse      two layers: the last of the forward are the first of the backward

With fewer, layers are fetched when they are wanted, and with the numbers of single tensors 93% of a 70B model's volume was. Models of at
most 1e9 elements are kept whole through a micro-batch: 2 GB that save every second gather. A DeepSpeed JSON that sets one of these keeps it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

KEEP_WHOLE = 10**9  # elements: DeepSpeed's own default of what may stay
PREFETCH_LEAST = 5 * 10**7  # DeepSpeed's own default
NEARLY = 0.99  # of a layer, whose norms are not gathered: else the next layer is cut for the rest


def sized(zero: dict[str, Any], layer: int, parameters: int, keep_whole: int = KEEP_WHOLE) -> dict[str, Any]:
    """`zero_optimization` with the sizes that it leaves open; layer, parameters: elements of the largest decoder layer, and of the model."""
    small = parameters <= keep_whole
    derived = {
        "stage3_prefetch_bucket_size": max(int(NEARLY * layer), PREFETCH_LEAST if small else 0),
        "stage3_max_live_parameters": 2 * keep_whole if small else 4 * layer,
        "stage3_max_reuse_distance": keep_whole if small else 2 * layer,
    }
    return derived | zero


def in_place(zero: dict[str, Any], ranks: int) -> bool:
    """Whether slices are the weights themselves and lie where they are computed with: a single rank's, unless its JSON puts them elsewhere."""
    elsewhere = zero.get("offload_param", {}).get("device", "none") != "none"
    return ranks == 1 and not elsewhere and not zero.get("zero_quantized_weights")


def alone(zero: dict[str, Any], parameters: int) -> dict[str, Any]:
    """`zero_optimization` of weights that are in place, which stay there at no cost, whatever the JSON says.

    DeepSpeed would wait for the device at each layer, as if something were on its way, twice a step.
    """
    return zero | {"stage3_param_persistence_threshold": parameters}


def by_layer(model: nn.Module, layers: list[nn.Module], zero: dict[str, Any]) -> None:
    """Make each decoder layer a leaf, before DeepSpeed is given the model; a JSON with leaves of its own keeps those."""
    from deepspeed.utils import set_z3_leaf_modules

    if "leaf_module" in zero:
        return
    set_z3_leaf_modules(model, sorted({type(layer) for layer in layers}, key=lambda kind: kind.__name__))
    if any(not p.requires_grad for p in model.parameters()):
        # DeepSpeed lets go of a leaf when the gradient of its input is there; of an input without one it would before the leaf's backward
        layers[0].register_forward_pre_hook(_with_gradient)


def _with_gradient(_: nn.Module, args: tuple[Any, ...]) -> None:
    import torch

    if torch.is_grad_enabled():
        args[0].requires_grad_()
