"""A Llama-like causal LM, born sharded, with a loss that never holds the whole logits.

1. `config_of` reads the model's config, and refuses heads this trainer would compute wrongly;
2. `build` makes the module tree on the meta device, puts the loss into the head and the attention seam into the layers;
3. `shard` gives every parameter its slice of memory, one tensor at a time, with no communication and no full copy;
4. weights.py then fills the slices from the files.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from train.model import attention, kernels
from train.model_files.folder import ModelError
from train.recipe.vocabulary import Model

if TYPE_CHECKING:
    from train.data.batch import PackedBatch


class LossHead(nn.Linear):
    """The output projection and the cross-entropy in one module, so that ZeRO-3 gathers its weight once for both."""

    loss_chunk: int = 1024
    fused: bool = False

    def forward(
        self, hidden: torch.Tensor, labels: torch.Tensor | None = None, source: torch.Tensor | None = None, sources: int = 1
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Logits, or with labels (loss, losses per source).

        Args:
            hidden: (tokens, width). labels: (tokens,), already shifted, -100 where there is no target.
            source: (tokens,) index into the sources, -1 on padding.
        Returns:
            the sum of token losses, fp32, and its parts: (sources,) fp32, detached.
        """
        if labels is None:
            return nn.functional.linear(hidden, self.weight)
        if self.fused:
            return kernels.fused_loss(hidden, self.weight, labels, source, sources)
        return _ChunkedLoss.apply(hidden, self.weight, labels, source, sources, self.loss_chunk)


class _ChunkedLoss(torch.autograd.Function):
    """Sum of cross-entropies, a chunk of tokens at a time; the gradients are made on the way forward.

    Only one chunk's logits (loss_chunk x vocabulary) exist at once. Making the gradient at once costs a buffer
    of the head's own size and saves computing the logits a second time.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, source: torch.Tensor, sources: int, chunk: int):
        wants_grad = hidden.requires_grad or weight.requires_grad
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        # index 0 takes the padding (source -1), so no boolean selection and no synchronisation is needed
        per_source = torch.zeros(sources + 1, dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.zeros_like(hidden) if wants_grad else None
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if wants_grad else None
        for start in range(0, hidden.shape[0], chunk):
            h, y = hidden[start : start + chunk], labels[start : start + chunk]
            kept = y != -100
            logits = (h @ weight.t()).float()
            target = torch.where(kept, y, 0)
            log_z = torch.logsumexp(logits, dim=-1)
            losses = torch.where(kept, log_z - logits.gather(1, target[:, None]).squeeze(1), 0.0)
            total += losses.sum()
            per_source.index_add_(0, source[start : start + chunk].long() + 1, losses)
            if wants_grad:
                grad = logits.sub_(log_z[:, None]).exp_()
                grad.scatter_add_(1, target[:, None], torch.full_like(target, -1, dtype=grad.dtype)[:, None])
                grad *= kept[:, None]
                grad_low = grad.to(weight.dtype)
                grad_hidden[start : start + chunk] = grad_low @ weight
                if grad_low.dtype == torch.float32:
                    grad_weight.addmm_(grad_low.t(), h)
                else:
                    grad_weight += grad_low.t() @ h
        ctx.save_for_backward(grad_hidden, grad_weight.to(weight.dtype) if wants_grad else None)
        per_source = per_source[1:]
        ctx.mark_non_differentiable(per_source)
        return total, per_source

    @staticmethod
    def backward(ctx: Any, grad_total: torch.Tensor, _: torch.Tensor):
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad_total.to(grad_hidden.dtype), grad_weight * grad_total.to(grad_weight.dtype), None, None, None, None


class PackedCausalLM(nn.Module):
    """A transformers causal LM that takes packed batches and returns sums of token losses."""

    def __init__(self, hf: nn.Module, sources: int):
        super().__init__()
        self.hf = hf
        self.sources = sources

    def forward(self, batch: PackedBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """(sum of token losses, per-source sums (sources,)); the mean is the caller's, who knows the global count."""
        hidden = self.hidden(batch)
        head = self.hf.get_output_embeddings()
        return head(hidden, batch.labels.reshape(-1), batch.source, self.sources)

    def hidden(self, batch: PackedBatch) -> torch.Tensor:
        """Last hidden states (tokens, width) of a packed batch."""
        out = self.hf.base_model(
            input_ids=batch.tokens,
            position_ids=batch.position_ids,
            use_cache=False,
            cu_seqlens=batch.cu_seqlens,
            max_seqlen=batch.max_seqlen,
        )
        return out.last_hidden_state.squeeze(0)

    def logits(self, batch: PackedBatch) -> torch.Tensor:
        """Logits (tokens, vocabulary), whole: for tests and short prompts."""
        return self.hf.get_output_embeddings()(self.hidden(batch))


def config_of(folder: Path) -> Any:
    """The transformers config of a model folder.

    Raises:
        ModelError: no config, remote code wanted, or a head this trainer's loss does not compute.
    """
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: there is no config.json; model.path wants a Hugging Face model folder, a .gguf file, or a Hub name")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, OSError, KeyError) as error:
        raise ModelError(
            f"{folder}/config.json: transformers does not load it without running foreign code: {str(error).splitlines()[0]}"
        ) from None
    for key in ("final_logit_softcapping", "logits_scaling", "logit_scale"):
        if getattr(config, key, None) not in (None, 1, 1.0):
            raise ModelError(
                f"{folder}/config.json: {key}={getattr(config, key)} changes the logits, and this trainer's loss knows nothing of it"
            )
    return config


def build(config: Any, recipe: Model, device: torch.device, sources: int) -> tuple[PackedCausalLM, str]:
    """The module tree with parameters on meta, in the compute dtype; and what was chosen, in words."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    backend, why = attention.choose_backend(recipe.attention, device)
    said = f"attention: {backend} ({why})"
    dtype = torch.bfloat16 if recipe.dtype == "bf16" else torch.float32
    config.use_cache = False
    with init_empty_weights(include_buffers=False):
        # buffers stay real and fp32: rotary frequencies made in bf16 would be wrong
        hf = AutoModelForCausalLM.from_config(config, attn_implementation=attention.install(backend), dtype=torch.float32)
    hf = hf.to(dtype=None)
    for parameter in hf.parameters():
        parameter.data = parameter.data.to(dtype)
    hf.tie_weights()
    _refuse_what_drops(hf)
    if device.type == "cuda" and recipe.fused_kernels == "auto":
        said += "; " + kernels.apply(hf)
    _put_loss_into_head(hf, recipe.loss_chunk, device.type == "cuda" and recipe.fused_kernels == "auto" and kernels.available())
    layers = decoder_layers(hf)
    _set_checkpointing(layers, recipe.activation_checkpointing)
    for buffer_owner in hf.modules():
        for name, buffer in list(buffer_owner._buffers.items()):
            if buffer is not None:
                buffer_owner._buffers[name] = buffer.to(device)
    if recipe.compile:
        for layer in layers:
            layer.compile(dynamic=False)
    hf.train()
    return PackedCausalLM(hf, sources), said


def _put_loss_into_head(hf: nn.Module, chunk: int, fused: bool) -> None:
    old = hf.get_output_embeddings()
    if not isinstance(old, nn.Linear) or old.bias is not None:
        raise ModelError(f"the output head is {old}; this trainer computes a linear head without bias")
    with torch.device("meta"):
        head = LossHead(old.in_features, old.out_features, bias=False)
    head.weight = old.weight
    head.loss_chunk, head.fused = chunk, fused
    hf.set_output_embeddings(head)


def _refuse_what_drops(hf: nn.Module) -> None:
    for name, module in hf.named_modules():
        if isinstance(module, nn.Dropout) and module.p > 0 or getattr(module, "attention_dropout", 0):
            raise ModelError(
                f"{name}: dropout is not 0; packed continual pre-training here has none, set it to 0 in the model's config.json"
            )


def decoder_layers(hf: nn.Module) -> list[nn.Module]:
    """The repeated blocks, in order."""
    layers = getattr(hf.base_model, "layers", None)
    if layers is None or not len(layers):
        raise ModelError(f"{type(hf).__name__}: no .layers in its base model; only Llama-like decoders are supported")
    return list(layers)


def _set_checkpointing(layers: list[nn.Module], wanted: str) -> None:
    from functools import partial

    from torch.utils.checkpoint import checkpoint

    for index, layer in enumerate(layers):
        layer.gradient_checkpointing = wanted == "full" or wanted == "every_other" and index % 2 == 0
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)


def shard(model: PackedCausalLM, ds_config: dict[str, Any], device: torch.device) -> None:
    """Replace meta parameters by ZeRO-3 slices of uninitialised memory, one tensor at a time.

    `zero.Init` as a context would build every tensor whole and broadcast it from rank 0, only to be overwritten
    by the load: 2 bytes a parameter over the network for nothing. Its own two steps are called here instead.
    """
    from deepspeed import zero

    init = zero.Init(config_dict_or_path=ds_config)
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append((module, name))
    # one piece of memory lends every tensor its shape in turn; its values are never looked at, so on a CPU it is not even backed by pages
    lent = torch.empty(max(p.numel() for p in model.parameters()), dtype=next(model.parameters()).dtype, device=device)
    for parameter in list(model.parameters()):
        real = nn.Parameter(lent[: parameter.numel()].view(parameter.shape))
        init._convert_to_deepspeed_param(real)
        real.partition()
        for module, name in owners[id(parameter)]:  # tied weights keep one parameter in several modules
            module._parameters[name] = real
    left = [name for name, p in model.named_parameters() if p.is_meta or not hasattr(p, "ds_tensor")]
    assert not left, f"not partitioned: {left}"


def parameters_by_name(model: PackedCausalLM) -> dict[str, nn.Parameter]:
    """Every distinct parameter under its Hugging Face name; a tied weight stands once, under its first name."""
    return {name.removeprefix("hf."): p for name, p in model.named_parameters()}


def flops_per_token(config: Any, total_parameters: int, attended: float) -> float:
    """Training FLOPs of a token: 6 (N - input embedding) + 12 L d T.

    Args:
        attended: T, the tokens a token's attention is counted over. seq_len compares with most tables;
            sum(L_i^2) / (2 sum(L_i)) over documents is what causal varlen attention computes.
    Tied embeddings are counted once, as the head, which does compute.
    """
    embedding = config.vocab_size * config.hidden_size
    tied = getattr(config, "tie_word_embeddings", False)
    width = config.num_attention_heads * (getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    return 6 * (total_parameters - (0 if tied else embedding)) + 12 * config.num_hidden_layers * width * attended
