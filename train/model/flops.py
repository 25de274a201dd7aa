"""FLOPs of a training token."""

from __future__ import annotations

from typing import Any


def flops_per_token(config: Any, total_parameters: int, attended: float, frozen: int = 0) -> float:
    """Training FLOPs of a token: 6 (N - input embedding) + 12 L d T, and 2 fewer a frozen parameter, which has no gradient of its own.

    Args:
        attended: T, the tokens a token's attention is counted over. seq_len compares with most tables;
            sum(L_i^2) / (2 sum(L_i)) over documents is what causal varlen attention computes.
        frozen: of the total, those without a gradient, an untied input embedding not counted.
    Tied embeddings are counted once, as the head, which does compute.
    """
    embedding = config.vocab_size * config.hidden_size
    tied = getattr(config, "tie_word_embeddings", False)
    width = config.num_attention_heads * (getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    return 6 * (total_parameters - (0 if tied else embedding)) - 2 * frozen + 12 * config.num_hidden_layers * width * attended
