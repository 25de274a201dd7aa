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

from train.model import attention, compiled, kernels, products
from train.model.activations import Kept, kept, product_elements
from train.model.loss import LossHead
from train.model.recompute import set_checkpointing
from train.model_files.dtypes import OF_RECIPE, in_torch
from train.model_files.folder import ModelError
from train.model_files.shapes import require_plain_head
from train.recipe.vocabulary import Model

if TYPE_CHECKING:
    from train.data.batch import PackedBatch


class PackedCausalLM(nn.Module):
    """A transformers causal LM that takes packed batches and returns sums of token losses."""

    def __init__(self, hf: nn.Module, sources: int):
        super().__init__()
        self.hf = hf
        self.sources = sources
        self.compiled = False

    def forward(self, batch: PackedBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """(sum of token losses, per-source sums (sources,)); the mean is the caller's, who knows the global count."""
        hidden = self.hidden(batch)
        head = self.hf.get_output_embeddings()
        return head(hidden, batch.labels.reshape(-1), batch.source, self.sources)

    def hidden(self, batch: PackedBatch) -> torch.Tensor:
        """Last hidden states (tokens, width) of a packed batch."""
        if self.compiled:
            compiled.mark_dynamic(batch)
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
    require_plain_head(config.to_dict(), folder / "config.json")
    return config


def build(config: Any, recipe: Model, device: torch.device, sources: int, rank_tokens: int = 0) -> tuple[PackedCausalLM, str]:
    """The module tree with parameters on meta, in the compute dtype; and what was chosen, in words.

    Args:
        rank_tokens: of a micro-batch, which model.activation_budget is for.
    """
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    dtype = in_torch(OF_RECIPE[recipe.dtype])
    backend, why = attention.choose_backend(recipe.attention, device, dtype)
    said = f"attention: {backend} ({why})"
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
        said += "; " + kernels.apply(hf, recipe.compile, recipe.activation_checkpointing == "selective")
    _put_loss_into_head(hf, recipe.loss_chunk, device.type == "cuda" and recipe.fused_kernels == "auto" and kernels.available())
    if device.type == "cpu" and dtype == torch.float32 and recipe.fused_kernels == "auto" and products.chosen():
        said += "; " + products.apply(hf)
        hf.get_output_embeddings().onednn = True
    layers = decoder_layers(hf)
    keep = _kept(config, recipe, dtype.itemsize * rank_tokens)
    set_checkpointing(layers, keep)
    if recipe.activation_checkpointing == "selective":
        said += f"; activations: {keep.words()}"
    for buffer_owner in hf.modules():
        for name, buffer in list(buffer_owner._buffers.items()):
            if buffer is not None:
                buffer_owner._buffers[name] = buffer.to(device)
    hf.train()
    model = PackedCausalLM(hf, sources)
    if recipe.compile:
        compiled.require_compilable(device, backend)
        compiled.compile_layers(layers)
        model.compiled = True
        said += "; layers: compiled"
    return model, said


def _put_loss_into_head(hf: nn.Module, chunk: int, fused: bool) -> None:
    old = hf.get_output_embeddings()
    if not isinstance(old, nn.Linear) or old.bias is not None:
        raise ModelError(f"the output head is {old}; this trainer computes a linear head without bias")
    with torch.device("meta"):
        head = LossHead(old.in_features, old.out_features, bias=False)
    head.weight = old.weight
    head.loss_chunk, head.fused = chunk, fused
    [name] = [name for name, module in hf.named_modules() if module is old]  # lm_head, embed_out: the files' name for it
    parent, _, own = name.rpartition(".")
    setattr(hf.get_submodule(parent), own, head)
    assert hf.get_output_embeddings() is head, name


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


def _kept(config: Any, recipe: Model, element_tokens: int) -> Kept:
    """element_tokens: bytes of one element of every token of a micro-batch."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kv_width = head * (getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    nbytes = element_tokens * product_elements(config.hidden_size, config.intermediate_size, kv_width)
    budget = recipe.activation_budget and recipe.activation_budget * 2**30
    return kept(recipe.activation_checkpointing, config.num_hidden_layers, budget, nbytes)


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
        real = nn.Parameter(lent[: parameter.numel()].view(parameter.shape), requires_grad=parameter.requires_grad)
        init._convert_to_deepspeed_param(real)
        real.partition()
        for module, name in owners[id(parameter)]:  # tied weights keep one parameter in several modules
            module._parameters[name] = real
    left = [name for name, p in model.named_parameters() if p.is_meta or not hasattr(p, "ds_tensor")]
    assert not left, f"not partitioned: {left}"


def parameters_by_name(model: PackedCausalLM) -> dict[str, nn.Parameter]:
    """Every distinct parameter under its Hugging Face name; a tied weight stands once, under its first name."""
    return {name.removeprefix("hf."): p for name, p in model.named_parameters()}
