"""Which activations a step keeps for its backward pass, and which it computes again: counted in layers, elements and FLOPs; no torch.

none          every layer keeps all of them
every_other   the second, fourth, … layer does, the others their input
full          all layers keep their input alone
selective     layers keep what matrix products and attention gave, which is dear to compute again, and compute norms, rotations and gates anew;
              as many layers as model.activation_budget has room for, from the first on, and the others their input alone
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kept:
    """How many layers keep what."""

    all: int
    products: int  # and what is cheap is computed again
    input: int  # and everything is computed again

    @property
    def layers(self) -> int:
        return self.all + self.products + self.input

    def words(self) -> str:
        parts = (
            (self.all, "all of them"),
            (self.products, "those of matrix products and attention"),
            (self.input, "their input alone"),
        )
        return ", ".join(f"{count} layers keep {what}" for count, what in parts if count)

    def more_work(self, layer: int, computed: int) -> float:
        """The share of a step's FLOPs that computing again adds: a forward, a third of them, of the layers that keep their input alone.

        Args:
            layer: elements of a layer. computed: of all but an untied input embedding.
        """
        return self.input * layer / (3 * computed)


def kept(wanted: str, layers: int, budget: float | None = None, layer_bytes: float = 0.0) -> Kept:
    """What `model.activation_checkpointing` means for so many layers.

    Args:
        budget: bytes for what selective layers keep; None: all layers are. layer_bytes: what one of them keeps.
    """
    if wanted == "selective":
        some = layers if budget is None else min(layers, int(budget // layer_bytes))
        return Kept(0, some, layers - some)
    whole = {"none": layers, "every_other": layers // 2, "full": 0}[wanted]
    return Kept(whole, 0, layers - whole)


def product_elements(hidden: int, mlp: int, kv_width: int) -> int:
    """Elements a token that a selective layer keeps, beside its input: queries, keys, values, attention, its projection, gate, up, down."""
    return 4 * hidden + 2 * kv_width + 2 * mlp
