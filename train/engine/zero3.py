"""A recipe and a model folder → an engine: weights verified in memory, then rate, backward, step; and a rank's slices, to read and write.

The loss of a step is the mean over the supervised tokens of the whole global batch. DeepSpeed averages gradients
over ranks and would divide by accumulation, so a micro-batch's sum of token losses is scaled by world / N, N being
the step's global count, and accumulation is left out (`scale_wrt_gas=False`).
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from train.engine import adapter, gathering, weights
from train.engine.deepspeed_json import adam_kernel, merged_config
from train.engine.traces import Traces
from train.model import causal_lm as model_room
from train.model import lora, quantized
from train.model.adapter_spec import spec_of
from train.model_files.dtypes import BF16, OF_RECIPE
from train.model_files.folder import WeightsError
from train.model_files.quantized import FORMATS
from train.model_files.shapes import described
from train.recipe.vocabulary import Recipe
from train.world import jit_lock
from train.world.ranks import World

OPS = {"cpu": "cpu_adam", "fused": "fused_adam"}  # what DeepSpeed builds for an Adam


def decay_groups(parameters: dict[str, nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices decay, vectors (norms, biases) do not."""

    def is_vector(p: nn.Parameter) -> bool:
        return len(getattr(p, "ds_shape", p.shape)) < 2

    groups = [
        {"params": [p for p in parameters.values() if not is_vector(p)], "weight_decay": weight_decay},
        {"params": [p for p in parameters.values() if is_vector(p)], "weight_decay": 0.0},
    ]
    return [g for g in groups if g["params"]]


class Engine:
    """A ZeRO-3 engine around a packed causal LM."""

    def __init__(self, recipe: Recipe, world: World, model: model_room.PackedCausalLM, config: dict[str, Any]):
        import deepspeed

        kernel = adam_kernel(recipe, config["zero_optimization"], world.device.type == "cuda")
        if kernel == "cpu" and world.device.type == "cpu":
            config = config | {"zero_force_ds_cpu_optimizer": True}
        self.world, self.model, self.config, self.kernel = world, model, config, kernel
        self.parameters = model_room.parameters_by_name(model)
        self.trained = {n: p for n, p in self.parameters.items() if p.requires_grad}  # all, unless an adapter is trained on a frozen base
        self.total_parameters = sum(quantized.numel_of(p) for p in self.parameters.values())
        self.stored: dict[str, str] | None = None  # of an adapter: name in its file → parameter
        self.trained_parameters = sum(p.ds_numel for p in self.trained.values())
        looked_up = None if tied_names(model) else id(model.hf.get_input_embeddings().weight)
        frozen = [quantized.numel_of(p) for p in self.parameters.values() if not p.requires_grad and id(p) != looked_up]
        self.frozen_parameters = sum(frozen)  # that are multiplied by, for FLOPs
        os.environ.setdefault("DS_SKIP_CUDA_CHECK", "1")
        self._ds, *_ = deepspeed.initialize(
            model=model, model_parameters=decay_groups(self.trained, recipe.optim.weight_decay), config=config, dist_init_required=False
        )
        self._zero = self._ds.optimizer
        self._traces = Traces(self._zero.parameter_offload.get_param_coordinator())
        self.grad_norm = float("nan")
        self.updated = False  # whether the last step changed the weights
        self.next_targets: int | None = None  # of all ranks, where the last step has told; None: to be counted
        self._accept: Callable[[float], bool] = lambda norm: True
        # DeepSpeed asks for the norms between backward and update; one that is not finite makes it drop the gradients and change nothing
        self._norm_groups, self._zero._get_norm_groups = self._zero._get_norm_groups, self._accepted_norm_groups
        if world.device.type == "cuda" and not self._zero.offload_optimizer:
            self._norm_groups = self._norm_groups_at_once
        if not recipe.adapter and gathering.in_place(config["zero_optimization"], world.size):
            self._zero._partition_all_parameters = _nothing  # they would be brought together again after the update, one by one
        # and says that gradients are not finite, whatever the reason: the run's own line says which
        logging.getLogger("DeepSpeed").addFilter(_no_word_of_skipped_steps)

    # -- the step

    def set_lr(self, lr: float) -> None:
        for group in self._zero.param_groups:
            group["lr"] = lr

    def backward(self, batch: Any, step_tokens: int, last: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Forward and backward of one micro-batch.

        Args:
            step_tokens: supervised tokens of the whole step over all ranks.
            last: whether this is the step's last micro-batch, at whose end gradients are complete.
        Returns:
            sum of token losses and its per-source parts, on the device, detached: reading them is the caller's synchronisation.
        """
        self._ds.set_gradient_accumulation_boundary(last)
        self._traces.follow("step")
        self.world.beat.phase("forward")
        loss, per_source = self._ds(batch)
        self.world.beat.phase("backward")
        self._ds.backward(loss * (self.world.size / step_tokens), scale_wrt_gas=False)
        return loss.detach(), per_source

    def step(self, accept: Callable[[float], bool] = lambda norm: True) -> float:
        """Clip and update; returns the gradient norm before clipping. A norm that is not finite, or not accepted, changes nothing.

        Args:
            accept: asked for a finite norm, the same on every rank; must answer the same on every rank.
        """
        self.world.beat.phase("optimizer")
        self._accept = accept
        self._ds.step()
        self.updated = not self._zero.overflow
        if self.updated:
            self.grad_norm = float(self._ds.get_global_grad_norm())
        self.world.beat.phase("logging")
        return self.grad_norm

    def _accepted_norm_groups(self) -> list[torch.Tensor]:
        """DeepSpeed's norms of its parameter groups, and one that is infinite beside them where the step is not accepted."""
        from deepspeed.runtime.utils import combine_grad_norm_groups

        groups = self._norm_groups()
        norm = combine_grad_norm_groups(groups)
        self.grad_norm = float(norm)
        accepted = not math.isfinite(self.grad_norm) or self._accept(self.grad_norm)
        return groups if accepted else [*groups, torch.full_like(norm, math.inf)]

    @torch.no_grad()
    def _norm_groups_at_once(self) -> list[torch.Tensor]:
        """DeepSpeed's norms of its parameter groups over all ranks, -1 where they are not finite, in one pass: it makes doubles of each gradient."""
        from deepspeed import comm

        norms = []
        for number, params in enumerate(self._zero.fp16_groups):
            of_each = torch._foreach_norm(self._zero.averaged_gradients[number], 2, dtype=torch.float32)
            total = torch.stack(of_each).double().square().sum()
            comm.all_reduce(total, group=self._zero._get_param_partition_group(params[0]))
            norms.append(torch.where(total.isfinite(), total.sqrt(), -1.0))
        return norms

    @torch.no_grad()
    def losses(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum of token losses and per-source parts, forward only. Every rank must call it equally often."""
        self.world.beat.mark()
        self._traces.follow("losses")
        self.model.eval()
        loss, per_source = self.model(batch)
        self.model.train()
        return loss, per_source

    @torch.no_grad()
    def logits(self, batch: Any) -> torch.Tensor:
        self.world.beat.mark()
        self._traces.follow("logits", whole=False)
        self.model.eval()
        out = self.model.logits(batch)
        self.model.train()
        return out

    # -- slices

    def get_master(self, parameter: nn.Parameter) -> torch.Tensor:
        """A frozen weight is its own."""
        from deepspeed.utils import safe_get_local_fp32_param

        if not parameter.requires_grad:
            return parameter.ds_tensor
        return safe_get_local_fp32_param(parameter)

    def set_master(self, parameter: nn.Parameter, value: torch.Tensor) -> None:
        """Set a master slice (padded length) and the compute-dtype slice that follows from it."""
        from deepspeed.utils import safe_set_local_fp32_param

        safe_set_local_fp32_param(parameter, value.to(self.get_master(parameter).device))
        parameter.ds_tensor.copy_(value)

    def get_moment(self, parameter: nn.Parameter, key: str) -> torch.Tensor:
        from deepspeed.utils import safe_get_local_optimizer_state

        return safe_get_local_optimizer_state(parameter, key)

    def set_moment(self, parameter: nn.Parameter, key: str, value: torch.Tensor) -> None:
        from deepspeed.utils import safe_set_local_optimizer_state

        safe_set_local_optimizer_state(parameter, value, key)

    @property
    def adam_step(self) -> int:
        """Updates Adam has made; 0 before the first."""
        adam = self._zero.optimizer
        first = self._zero.fp32_partitioned_groups_flat[0]
        return int((adam.state.get(first) or adam.param_groups[0]).get("step", 0))

    def create_adam_state(self, step: int) -> None:
        """Adam's state does not exist before its first step: make it, at a step, with zero moments to be filled in.

        torch's AdamW counts in a tensor beside the masters, DeepSpeedCPUAdam in an int, FusedAdam in its param group.
        """
        for flat in self._zero.fp32_partitioned_groups_flat:
            state = self._zero.optimizer.state[flat]
            state["step"] = torch.tensor(float(step), device=flat.device) if self.kernel == "torch" else step
            state["exp_avg"] = torch.zeros_like(flat)
            state["exp_avg_sq"] = torch.zeros_like(flat)
        for group in self._zero.optimizer.param_groups:
            if self.kernel == "fused":
                group["step"] = step

    def release(self) -> None:
        """Drop every gathered copy, so that what is next gathered comes from the slices just written."""
        for parameter in self.parameters.values():
            parameter.partition()
        if hasattr(self._zero, "invalidate_secondary_tensor"):
            self._zero.invalidate_secondary_tensor()


def _building(recipe: Recipe, world: World, config: dict[str, Any]) -> AbstractContextManager:
    """Tells of a build of the optimizer's op, which DeepSpeed says nothing of."""
    op = OPS.get(adam_kernel(recipe, config["zero_optimization"], world.device.type == "cuda"))
    return nullcontext() if op is None or jit_lock.is_built(op) else world.waiting(jit_lock.building(op), jit_lock.ONCE)


def reload(engine: Engine, recipe: Recipe, world: World, folder: Path, config_folder: Path | None = None) -> None:
    """The weights of a model folder, as `start` takes them, into an engine that has trained; Adam begins anew."""
    engine.release()
    loaded = _load(engine.model, recipe, world, folder)
    for name, parameter in _of_base(engine.trained).items():
        if name not in loaded.waiting:
            engine.set_master(parameter, parameter.ds_tensor.detach().float())
    weights.settle(_of_base(engine.parameters), loaded, world, engine.get_master, engine.set_master)
    if recipe.adapter:
        base = described((config_folder or folder) / "config.json")
        adapter.fill(engine.trained, engine.set_master, base, recipe.adapter.path, recipe.seed, world)
    engine.create_adam_state(0)
    engine.release()


def _nothing() -> None:
    pass


def _no_word_of_skipped_steps(record: logging.LogRecord) -> bool:
    return "OVERFLOW! Skipping step" not in record.getMessage()


def tied_names(model: model_room.PackedCausalLM) -> dict[str, str]:
    """Alias -> first name, for parameters that stand in several modules."""
    first = {id(p): n for n, p in model_room.parameters_by_name(model).items()}
    names = {n.removeprefix("hf."): p for n, p in model.named_parameters(remove_duplicate=False)}
    return {n: first[id(p)] for n, p in names.items() if first[id(p)] != n}


def start(
    recipe: Recipe, world: World, folder: Path, sources: int, config_folder: Path | None = None, adapter_from: Path | None = None
) -> tuple[Engine, weights.Loaded, str]:
    """From a model folder to an engine whose weights have been verified in memory.

    Args:
        config_folder: where config.json is, when the weights are not on a disk. adapter_from: an adapter's folder or checkpoint, to start from.
    """
    base = described((config_folder or folder) / "config.json") if recipe.adapter else None
    spec = spec_of(recipe.adapter, base, adapter_from) if base else None
    model, config, said = sharded(recipe, world, model_room.config_of(config_folder or folder), sources, spec)
    loaded = _load(model, recipe, world, folder)
    with _building(recipe, world, config):
        engine = Engine(recipe, world, model, config)
    weights.settle(_of_base(engine.parameters), loaded, world, engine.get_master, engine.set_master)
    if base:
        engine.stored = spec.in_file(base)
        adapter.fill(engine.trained, engine.set_master, base, adapter_from, recipe.seed, world)
    engine.release()
    return engine, loaded, f"{said}; Adam: {engine.kernel}"


def sharded(recipe: Recipe, world: World, shape: Any, sources: int, adapter: Any = None) -> tuple[model_room.PackedCausalLM, dict, str]:
    """The model of a transformers config in slices of uninitialised memory, the engine's config for it, and what was chosen.

    Args:
        adapter: what is attached to it (adapter_spec.Spec).
    """
    config = merged_config(recipe, world.size, world.device.type == "cuda")
    if OF_RECIPE[recipe.model.dtype] is BF16 and world.device.type == "cpu":
        world.log0("model.dtype=bf16 on a CPU: correct, but slower than fp32 on processors without bf16 units")
    if world.device.type == "cpu" and not world.threads_set_by_user:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // world.local_size))
    model, said = model_room.build(shape, recipe.model, world.device, sources, recipe.micro_batch * recipe.data.seq_len)
    if adapter:
        lora.attach(model, adapter)
        zero = config["zero_optimization"]  # its buffer is made at full size, whatever there is to reduce
        config["zero_optimization"] = zero | {"reduce_bucket_size": min(int(zero.get("reduce_bucket_size", 5e8)), lora.trained(model))}
        said += f"; adapter: {adapter.words()}"
        if format := FORMATS.get(recipe.model.quantize):
            left = quantized.attach(model_room.decoder_layers(model.hf), format)
            said += f"; base in {format.name}" + (f", but for {left} weights that make no whole blocks of 64" if left else "")
    layers, zero = model_room.decoder_layers(model.hf), config["zero_optimization"]
    sizes = [sum(p.numel() for p in part.parameters()) for part in (*layers, model)]
    config["zero_optimization"] = gathering.sized(zero, max(sizes[:-1]), sizes[-1])
    if not adapter and gathering.in_place(config["zero_optimization"], world.size):
        config["zero_optimization"] = gathering.alone(config["zero_optimization"], sizes[-1])
    gathering.by_layer(model, layers, zero)
    model_room.shard(model, config, world.device)
    quantized.mark(model)
    return model, config, said


def _of_base(parameters: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Those that a model folder holds."""
    return {name: p for name, p in parameters.items() if not lora.is_adapter(name)}


def _load(model: model_room.PackedCausalLM, recipe: Recipe, world: World, folder: Path) -> weights.Loaded:
    loaded = weights.load(_of_base(model_room.parameters_by_name(model)), tied_names(model), folder, world)
    if recipe.model.fingerprint and recipe.model.fingerprint != loaded.fingerprint:
        raise WeightsError(
            f"{folder}: the weights add up to fingerprint {loaded.fingerprint}, model.fingerprint={recipe.model.fingerprint}; "
            "this is another model, or a damaged copy: fetch it again, or correct the recipe"
        )
    return loaded
