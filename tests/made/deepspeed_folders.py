"""Real DeepSpeed checkpoints of a tiny Llama, saved by DeepSpeed's own engine over gloo, with the weights it held at that moment."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.made import tiny

TAG = "global_step2"


@dataclass(frozen=True)
class Case:
    name: str
    stage: int
    dtype: str = "fp32"  # fp32, bf16, fp16
    frozen: bool = False  # the input embedding does not train
    exclude_frozen: bool = False
    tied: bool = False
    groups: int = 1
    fp32_gradients: bool = False  # with bf16 and stage 1: DeepSpeed's own bf16 optimizer
    sub_group: int = 0  # stage 3: elements a sub-group
    round_robin: bool = False  # stages 1 and 2: parameters shuffled between ranks
    wrapped: bool = False  # names begin with module.
    later: bool = False  # trained on for a step and saved again, as global_step3


def make(world, folder: str, cases: list[Case]) -> dict[str, dict[str, torch.Tensor]]:
    """Train each case two steps, save it under folder/NAME, return {case: {name: full weight, fp32 where masters exist}} on rank 0."""
    held = {}
    for case in cases:
        with contextlib.redirect_stdout(io.StringIO()):
            held[case.name] = _one(world, Path(folder) / case.name, case)
    return held if world.rank == 0 else {}


class _Wrapped(torch.nn.Module):
    def __init__(self, module: torch.nn.Module):
        super().__init__()
        self.module = module

    def forward(self, **inputs):
        return self.module(**inputs)


def _one(world, folder: Path, case: Case) -> dict[str, torch.Tensor]:
    import deepspeed
    from deepspeed.accelerator import get_accelerator
    from deepspeed.utils import safe_get_full_fp32_param

    # odd sizes: hardly a tensor divides by 2 or 4, so that every kind of padding is there
    model = tiny.tiny_model(7, vocab_size=317, intermediate_size=97, tie_word_embeddings=case.tied)
    if case.frozen:
        model.get_input_embeddings().weight.requires_grad_(False)
    if case.wrapped:
        model = _Wrapped(model)
    names = {id(p): n for n, p in model.named_parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    cuts = [trained] if case.groups == 1 else [[p for p in trained if p.ndim > 1], [p for p in trained if p.ndim < 2]]
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {
            "stage": case.stage,
            "overlap_comm": False,
            "reduce_bucket_size": 100_000,
            "round_robin_gradients": case.round_robin,
        },
        "bf16": {"enabled": case.dtype == "bf16"},
        "fp16": {"enabled": case.dtype == "fp16", "initial_scale_power": 4},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 1 << 30,
    }
    if case.sub_group:
        config["zero_optimization"]["sub_group_size"] = case.sub_group
    if case.fp32_gradients:
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    optimizer = torch.optim.AdamW([{"params": g, "weight_decay": 0.1 * i} for i, g in enumerate(cuts)], lr=1e-2)
    if case.dtype == "fp16":  # DeepSpeed refuses it on processors without fp16 units; torch computes it on any
        get_accelerator().is_fp16_supported = lambda: True
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    generator = torch.Generator().manual_seed(world.rank)
    for step in range(3 if case.later else 2):
        ids = torch.randint(3, 317, (1, 12), generator=generator)
        engine.backward(engine(input_ids=ids, labels=ids, use_cache=False).loss)
        engine.step()
        if step:
            engine.save_checkpoint(str(folder), tag=f"global_step{step + 1}", exclude_frozen_parameters=case.exclude_frozen)
    held = {}
    for p in model.parameters():
        with deepspeed.zero.GatheredParameters([p]):
            whole = p.detach().clone()
        # with round_robin_gradients DeepSpeed 0.19.8's own accessor returns other parameters' values: keep the 16-bit weight
        if p.requires_grad and case.stage and not case.round_robin:
            whole = safe_get_full_fp32_param(p).detach().clone().view(whole.shape)
        held[names[id(p)]] = whole
    engine.destroy()
    return held
