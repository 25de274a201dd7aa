"""What one rank of a run holds, item by item, by arithmetic alone.

Bytes a parameter: weights 2 (bf16) or 4, fp32 gradients 4, masters 4, Adam's moments 8: DeepSpeed's own
estimate_zero3_model_states_mem_needs counts the same 18 for bf16. Some items are certain, others upper bounds: `sure` tells.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from train.engine.gathering import in_place, sized
from train.model.activations import Kept, kept, product_elements
from train.model_files.adapter import Spec, linears
from train.model_files.dtypes import OF_RECIPE
from train.model_files.folder import ModelError
from train.model_files.quantized import ELEMENTS, FORMATS, PIECE, saved_bytes
from train.model_files.shapes import HEAD, Described
from train.model_files.stream import PIECE_BYTES
from train.recipe.vocabulary import Recipe

LIBRARIES = 1.5 * 2**30  # CUDA context, NCCL's buffers, kernels' workspaces, on each GPU
PHASES = ("load", "step", "update", "save")
STATES = (
    "weights",
    "gradients, fp32",
    "gradients again, for the CPU's Adam",
    "fp32 masters",
    "Adam's moments",
)  # what a rank owns of a model in training
UNFUSED = "activations, if no kernels are fused"
BUCKET = "gradients to be reduced (reduce_bucket_size)"
_LAYER = re.compile(r"\w+\.layers\.(\d+)\.")


@dataclass(frozen=True)
class Shape:
    """Sizes of a model, in elements."""

    parameters: int
    largest: int  # of the largest tensor
    layer: int  # of a decoder layer
    layers: int
    hidden: int
    mlp: int
    kv_width: int  # key-value heads x head width
    vocabulary: int
    adapter: int = 0  # of an adapter's A and B, in all
    frozen: int = 0  # of a base that is not trained
    head_trained: bool = True
    widest: int = field(default=0, compare=False)  # of the largest tensor that is trained
    products: int = field(default=0, compare=False)  # of the decoder's linear layers that are frozen, which may be quantized
    product: int = field(default=0, compare=False)  # of the largest of them

    @property
    def trained(self) -> int:
        return self.parameters + self.adapter - self.frozen

    @classmethod
    def of(cls, model: Described, adapter: Spec | None = None) -> Shape:
        """Sizes by names and shapes alone; a tied head counts once.

        Args:
            adapter: what is trained; None: the model.
        Raises:
            ModelError: no decoder layers under the names that Llama-like models give them.
        """
        numels = {name: math.prod(shape) for name, shape in model.shapes.items()}
        layers: Counter[str] = Counter()
        for name, numel in numels.items():
            if found := _LAYER.match(name):
                layers[found[1]] += numel
        if not layers:
            raise ModelError(
                f"a model of {next(iter(numels))} and the like: no .layers in its base model; only Llama-like decoders are supported"
            )
        config = model.config
        trained = {name: math.prod(shape) for name, shape in adapter.shapes(model).items()} if adapter else numels
        added = {name: numel for name, numel in trained.items() if name not in numels}
        head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        coarse = [numels[name] for name in linears(model) if adapter and name not in trained and numels[name] % ELEMENTS == 0]
        return cls(
            parameters=sum(numels.values()), largest=max(numels.values()), layer=max(layers.values()), layers=len(layers),
            hidden=config["hidden_size"], mlp=config["intermediate_size"],
            kv_width=head * (config.get("num_key_value_heads") or config["num_attention_heads"]), vocabulary=config["vocab_size"],
            adapter=sum(added.values()), frozen=sum(numels.values()) - sum(trained.values()) + sum(added.values()),
            products=sum(coarse), product=max(coarse, default=0), head_trained=model.tied.get(HEAD, HEAD) in trained,
            widest=max(trained.values()),
        )  # fmt: skip


@dataclass(frozen=True)
class Item:
    """Bytes of one rank. when: held (from the start on), load, step, update or save. where: device or host."""

    what: str
    nbytes: float
    when: str
    where: str = "device"
    sure: bool = True


@dataclass(frozen=True)
class Plan:
    """All of a rank's items; what a phase needs is what is held and the phase's own."""

    items: tuple[Item, ...]
    ranks: int
    local_ranks: int
    checkpoint_bytes: int
    checkpoints: int  # at once on disk, with the one being written

    def state(self, where: str) -> float:
        """Bytes of what a rank owns of a model in training: weights, gradients, masters, moments."""
        return sum(i.nbytes for i in self.items if i.what in STATES and i.where == where)

    def held(self, where: str) -> float:
        """Bytes that stand between two steps."""
        return sum(i.nbytes for i in self.items if i.when == "held" and i.sure and i.where == where)

    def need(self, where: str, when: str | None = None, sure: bool = True) -> float:
        """Bytes a rank needs; when=None: in the phase that needs most. sure=False: upper bounds too."""
        if when is None:
            return max(self.need(where, phase, sure) for phase in PHASES)
        counted = [i for i in self.items if i.where == where and (i.sure or not sure)]
        weights = [i.nbytes for i in counted if i.when == "held" and (when != "load" or i.what == STATES[0])]
        return sum(weights) + sum(i.nbytes for i in counted if i.when == when)


def plan(recipe: Recipe, shape: Shape, ranks: int, local_ranks: int, zero: dict[str, Any], on_cuda: bool) -> Plan:
    """Everything one rank holds.

    Args:
        zero: zero_optimization of the merged DeepSpeed config. local_ranks: ranks of a node.
    """
    held = held_elements(recipe, shape)
    zero = sized(zero, int(held.layer), int(held.model))
    items = [
        *_states(recipe, shape, ranks, zero),
        *_load(recipe, shape),
        *_step(recipe, shape, ranks, zero, on_cuda),
        *_save(recipe, shape, ranks),
    ]
    if on_cuda:
        items.append(Item("CUDA, NCCL, workspaces", LIBRARIES, "held", sure=False))
    else:  # a CPU's device is the host
        items = [dataclasses.replace(i, where="host") for i in items]
    c, element = recipe.checkpoint, _element(recipe)
    saves = math.ceil(recipe.total_steps / c.every_steps) if c.every_steps else 1
    forever = recipe.total_steps // c.keep_every if c.keep_every else 0
    # to go back to: one that is known to be good, and one that may come to be
    last = max(c.keep_last, 3 if c.every_steps <= recipe.guard.rewind_steps else 2) if recipe.guard.max_rewinds else c.keep_last
    kept = min(saves, last + c.keep_best + forever) + 1
    return Plan(tuple(items), ranks, local_ranks, shape.trained * ((4 if shape.frozen else element) + (12 if c.trainer_state else 0)), kept)


def _element(recipe: Recipe) -> int:
    return OF_RECIPE[recipe.model.dtype].itemsize


@dataclass(frozen=True)
class Held:
    """Of model and adapter, in elements of the compute dtype: what is cut up, and the largest decoder layer."""

    model: float
    layer: float


def held_elements(recipe: Recipe, shape: Shape) -> Held:
    saved = saved_bytes(recipe.model.quantize, _element(recipe)) / _element(recipe)  # of each element of a product
    return Held(
        shape.parameters + shape.adapter - saved * shape.products, shape.layer + (shape.adapter - saved * shape.products) / shape.layers
    )


def _states(recipe: Recipe, shape: Shape, ranks: int, zero: dict[str, Any]) -> Iterator[Item]:
    share, element = shape.trained / ranks, _element(recipe)  # of what has gradients, masters and moments
    offloaded = zero.get("offload_optimizer", {}).get("device") == "cpu"
    away = "host" if offloaded else "device"
    yield Item(
        STATES[0],
        element * held_elements(recipe, shape).model / ranks,
        "held",
        "host" if zero.get("offload_param", {}).get("device") == "cpu" else "device",
    )
    yield Item(STATES[1], 4 * share, "held", away)
    if offloaded:
        yield Item(STATES[2], 4 * share, "held", away)
    yield Item(STATES[3], 4 * share, "held", away)  # beside fp32 weights too
    yield Item(STATES[4], 8 * share, "held", away)
    if (hpz := zero.get("zero_hpz_partition_size", 1)) > 1:
        yield Item("second copy of the weights in each node (hpZ)", element * shape.parameters / hpz, "step")


def _load(recipe: Recipe, shape: Shape) -> Iterator[Item]:
    yield Item("largest tensor, whole while it is cut", _element(recipe) * shape.largest, "load")
    yield Item("pieces being read", 2 * PIECE_BYTES, "load", "host")


def _step(recipe: Recipe, shape: Shape, ranks: int, zero: dict[str, Any], on_cuda: bool) -> Iterator[Item]:
    element = _element(recipe)
    held = held_elements(recipe, shape)
    module = max(held.layer, shape.vocabulary * shape.hidden)
    live = min(held.model, max(int(zero.get("stage3_max_live_parameters", 1e9)), module))
    if recipe.adapter or not in_place(zero, ranks):
        yield Item("a module's weights, gathered", element * module, "step")
        yield Item("weights kept gathered for the way back (stage3_max_live_parameters)", element * (live - module), "step", sure=False)
    if format := FORMATS.get(recipe.model.quantize):
        unpacking = format.unpacking * min(shape.product, PIECE * ELEMENTS)
        yield Item(f"a linear layer's weights, unpacked ({format.name})", element * shape.product + unpacking, "step")
    sent = OF_RECIPE[recipe.optim.reduce_dtype].itemsize if ranks > 1 else element  # one rank sends nothing (engine/deepspeed_json.py)
    bucket = sent * min(int(zero.get("reduce_bucket_size", 5e8)), shape.trained)
    yield Item(BUCKET, bucket, "held")
    yield Item("the same while it is reduced", bucket, "step", sure=False)
    gradients = module if not shape.frozen else max(shape.adapter // shape.layers, shape.vocabulary * shape.hidden * shape.head_trained)
    yield Item("a module's gradients, whole", element * gradients, "step")
    yield from _activations(recipe, shape, on_cuda)
    if zero.get("offload_optimizer", {}).get("device") != "cpu":
        group = min(shape.trained / ranks, int(zero.get("sub_group_size", 1e9)))
        yield Item("gradients of a group, flat", 4 * group, "update")


def of_a_block(hidden: int, kv_width: int, mlp: int) -> int:
    """Elements a token that a Llama block keeps for its backward pass, with flash attention and fused kernels."""
    return 6 * hidden + 2 * kv_width + 3 * mlp


def activations_kept(recipe: Recipe, shape: Shape) -> Kept:
    """How many layers keep which activations."""
    model, tokens = recipe.model, recipe.micro_batch * recipe.data.seq_len
    products = tokens * _element(recipe) * product_elements(shape.hidden, shape.mlp, shape.kv_width)
    return kept(model.activation_checkpointing, shape.layers, model.activation_budget and model.activation_budget * 2**30, products)


def eager_block(recipe: Recipe, shape: Shape, on_cuda: bool) -> float:
    """Bytes a token that a block of eager modules keeps: with a varlen kernel what fused ones keep and 8h + 2f bytes in 16 bits; else 28
    copies of the hidden state, measured for Llama-3.1-8B (ml-engineering).

    Each of two norms keeps its input in fp32 and the normed one in 16 bits, where a fused one keeps the residual alone; the MLP keeps the
    activated gate, too. On an H200 a 1.1B model took 8.5h + 2f more a token and layer, its loss without liger among it.
    """
    element = _element(recipe)
    fused = element * of_a_block(shape.hidden, shape.kv_width, shape.mlp)
    if on_cuda and element == 2 and recipe.model.attention != "sdpa":
        return fused + 8 * shape.hidden + 2 * shape.mlp
    return max(fused, element * 28 * shape.hidden)


def _activations(recipe: Recipe, shape: Shape, on_cuda: bool) -> Iterator[Item]:
    """What the backward pass needs of the forward: at least what fused kernels keep, at most what eager modules do.

    Of a Llama block a token: 2 x 6h + 2 x 2gh + 6f bytes in 16 bits with flash attention and fused kernels (own count). Full
    checkpointing keeps a block's input alone, selective also what its matrix products gave, and one block whole while it is computed
    again.
    """
    element, tokens = _element(recipe), recipe.micro_batch * recipe.data.seq_len
    least = tokens * element * of_a_block(shape.hidden, shape.kv_width, shape.mlp)
    most = tokens * eager_block(recipe, shape, on_cuda)
    products = tokens * element * product_elements(shape.hidden, shape.mlp, shape.kv_width)
    keep = activations_kept(recipe, shape)
    whole = keep.all + (keep.all < shape.layers)  # and one while it is computed again
    inputs = tokens * element * shape.hidden * (shape.layers - whole + 4)  # and the last hidden state, its norm, their gradients
    if keep.products:
        yield Item(f"matrix products and attention of {keep.products} layers", products * keep.products, "step")
    yield Item(f"activations of {whole} layers, inputs of the others, at least", least * whole + inputs, "step")
    yield Item(UNFUSED, (most - least) * whole, "step", sure=False)
    yield Item(
        "logits of loss_chunk tokens", min(recipe.model.loss_chunk, tokens) * shape.vocabulary * (2 * 4 + 2 * (element == 2)), "step"
    )
    if shape.head_trained:
        yield Item("the head's gradient, fp32 and as it is reduced", (4 + element) * shape.vocabulary * shape.hidden, "step")


def _save(recipe: Recipe, shape: Shape, ranks: int) -> Iterator[Item]:
    yield Item(
        "two tensors on their way to a file",
        2 * (4 if shape.frozen else _element(recipe)) * (shape.widest or shape.largest),
        "save",
        "host",
    )
    if recipe.checkpoint.background:
        yield Item("copy of the trainer state while it is written (checkpoint.background)", 12 * shape.trained / ranks, "save", "host")
