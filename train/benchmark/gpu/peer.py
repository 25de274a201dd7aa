"""The peer on the same card: HF Trainer on DeepSpeed ZeRO-3, full rows of random tokens, SDPA's causal kernel, liger if asked.

It computes rows without documents, which is less than packed rows ask for; settings are those of DeepSpeed's own guide. Prints one line of
JSON behind RESULT.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from typing import Any

import torch

from train.benchmark.step.made import SIZES, shape_of
from train.benchmark.step.phases import settle


class Rows(torch.utils.data.Dataset):
    """Random tokens, the same at every call."""

    def __init__(self, seq_len: int, vocabulary: int) -> None:
        self.seq_len, self.vocabulary = seq_len, vocabulary

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        tokens = torch.randint(0, self.vocabulary, (self.seq_len,), generator=torch.Generator().manual_seed(i))
        return {"input_ids": tokens, "labels": tokens}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, required=True)
    for name, default in (("seq-len", 4096), ("micro-batch", 8), ("steps", 6), ("warmup", 2), ("local_rank", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name in ("checkpointing", "liger", "offload", "compile"):
        parser.add_argument(f"--{name}", action="store_true")
    args = parser.parse_args()
    from train.world.ranks import World

    world = World.from_env()  # the environment a launcher would give
    world.connect(600)
    print("RESULT", json.dumps(_measured(args, world.device)))


def _measured(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    from transformers import LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

    on_cuda, times = device.type == "cuda", []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            settle(device)
            times.append(time.perf_counter())
            if on_cuda and len(times) == args.warmup:
                torch.cuda.reset_peak_memory_stats()

    shape = shape_of(args.size, None, args.seq_len)
    shape.use_cache, shape._attn_implementation = False, "sdpa"
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder, per_device_train_batch_size=args.micro_batch, max_steps=args.steps + args.warmup, save_strategy="no", report_to=[],
            logging_strategy="no", use_cpu=not on_cuda, bf16=on_cuda, disable_tqdm=True, gradient_checkpointing=args.checkpointing,
            use_liger_kernel=args.liger, torch_compile=args.compile, learning_rate=1e-5, deepspeed=_deepspeed(args, on_cuda),
        )  # fmt: skip
        torch.manual_seed(0)
        with torch.device(device):
            model = LlamaForCausalLM(shape).to(torch.bfloat16 if on_cuda else torch.float32)
        Trainer(model=model, args=settings, train_dataset=Rows(args.seq_len, shape.vocab_size), callbacks=[Clock()]).train()
    steps = (
        [b - a for a, b in zip(times[args.warmup - 1 :], times[args.warmup :])]
        if args.warmup
        else [b - a for a, b in zip(times, times[1:])]
    )
    seconds = statistics.median(steps)
    tokens = args.micro_batch * args.seq_len
    return {
        "peer": "HF Trainer + DeepSpeed ZeRO-3", **{k: v for k, v in vars(args).items() if k != "local_rank"},
        "tokens_per_second_per_gpu": tokens / seconds, "seconds a step": seconds, "steps": steps,
        "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30 if on_cuda else None,
        "device": torch.cuda.get_device_name() if on_cuda else "cpu",
    }  # fmt: skip


def _deepspeed(args: argparse.Namespace, on_cuda: bool) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": 3, "overlap_comm": on_cuda, "contiguous_gradients": True}
    if args.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": on_cuda}
    adam: dict[str, Any] = {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}
    return {
        "train_micro_batch_size_per_gpu": args.micro_batch, "gradient_accumulation_steps": 1, "gradient_clipping": 1.0, "bf16": {"enabled": on_cuda},
        "zero_optimization": zero, "optimizer": {"type": "AdamW", "params": adam if on_cuda else adam | {"torch_adam": True}},
        "zero_force_ds_cpu_optimizer": False,
    }  # fmt: skip


if __name__ == "__main__":
    main()
