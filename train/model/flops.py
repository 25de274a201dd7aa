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


def recomputed_flops_per_token(config: Any, total_parameters: int, attended: float, checkpointing: str) -> float:
    """FLOPs of a token that activation checkpointing computes again: 2 (layers' N) + 4 L d T of the layers that are, as a forward has.

    Model FLOPs (MFU, PaLM, arXiv 2204.02311, appendix B) leave them out, hardware FLOPs (HFU, arXiv 2205.05198, section 6.3) count them.

    Args:
        checkpointing: of a recipe; what keeps all matrix products (selective, within its budget) computes none again.
    """
    layers = config.num_hidden_layers
    share = {"full": 1.0, "every_other": (layers + 1) // 2 / layers}.get(checkpointing, 0.0)
    ends = config.vocab_size * config.hidden_size * (1 if getattr(config, "tie_word_embeddings", False) else 2)
    width = config.num_attention_heads * (getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    return share * (2 * (total_parameters - ends - config.hidden_size) + 4 * layers * width * attended)
