"""A peer's training of the rows it is handed, timed step by step: `peer_trainer.py JOB.json`, by its own interpreter and DeepSpeed's launcher.

Nothing of this program is imported. The peers are used as their pages say, at the settings that suit this machine best: fp32, no activation
checkpointing, one thread a core, torch's fused AdamW, SDPA (which masks packed documents by their positions), the DeepSpeed JSON it is given.
"""

import json
import os
import sys
import tempfile
import time

sys.path.pop(0)  # this folder, whose files are no modules of the peer's


def main(job: dict) -> None:
    import torch

    torch.set_num_threads(job["threads"])
    seconds, tokens = hf_trainer(job) if job["peer"] == "hf" else trl_trainer(job)
    of_all = torch.tensor(tokens[: len(seconds)])
    torch.distributed.all_reduce(of_all)
    if int(os.environ.get("RANK", "0")) == 0:
        rates = [int(n) / s for n, s in zip(of_all, seconds, strict=True)]
        with open(job["result"], "w", encoding="utf-8") as f:
            json.dump({"tokens a second": rates[job["warmup"] :], "versions": versions()}, f)


def hf_trainer(job: dict) -> tuple[list[float], list[int]]:
    """HF Trainer on the very rows, each laid end to end by its own flattening collator."""
    from torch.utils.data import SequentialSampler
    from transformers import DataCollatorWithFlattening, Trainer, TrainingArguments

    flatten = DataCollatorWithFlattening()

    class InOrder(Trainer):
        def _get_train_sampler(self, *_: object) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

    def collate(rows: list[list[list[int]]]) -> dict:
        return flatten([{"input_ids": document, "labels": list(document)} for row in rows for document in row])

    clock = _clock()
    args = TrainingArguments(**_settings(job), remove_unused_columns=False)
    return _timed(InOrder(model=_model(job), args=args, train_dataset=_Rows(job["rows"]), data_collator=collate, callbacks=[clock]), clock)


def trl_trainer(job: dict) -> tuple[list[float], list[int]]:
    """TRL's SFTTrainer on the same documents, packed by its own packer into rows as long."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    documents = Dataset.from_dict({"input_ids": [document for row in job["rows"] for document in row]})
    clock = _clock()
    args = SFTConfig(**_settings(job), packing=True, max_length=job["seq_len"], gradient_checkpointing=False)
    tokenizer = AutoTokenizer.from_pretrained(job["tokenizer"])
    return _timed(SFTTrainer(model=_model(job), args=args, train_dataset=documents, processing_class=tokenizer, callbacks=[clock]), clock)


def _timed(trainer, clock) -> tuple[list[float], list[int]]:
    """Seconds of each step, and this rank's tokens in each batch: packed rows have no padding."""
    tokens, collate = [], trainer.data_collator

    def counted(features: list) -> dict:
        batch = collate(features)
        tokens.append(batch["input_ids"].numel())
        return batch

    trainer.data_collator = counted
    trainer.train()
    return clock.seconds(), tokens


class _Rows:
    def __init__(self, rows: list) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> list:
        return self._rows[i]


def _settings(job: dict) -> dict:
    return {
        "output_dir": tempfile.mkdtemp(), "per_device_train_batch_size": 1, "max_steps": job["warmup"] + job["steps"], "learning_rate": 1e-5,
        "save_strategy": "no", "report_to": [], "logging_strategy": "no", "disable_tqdm": True, "use_cpu": True, "bf16": False,
        "deepspeed": job["deepspeed"], "seed": 0,
    }  # fmt: skip


def _model(job: dict):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    # weights do not change the time a step takes; made outside zero.Init, where transformers 5.23 + DeepSpeed 0.19.8 fail
    config = AutoConfig.from_pretrained(job["model"])
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32)


def _clock():
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.times: list[float] = []

        def on_step_begin(self, *_: object, **__: object) -> None:
            if not self.times:
                self.times.append(time.perf_counter())

        def on_step_end(self, *_: object, **__: object) -> None:
            self.times.append(time.perf_counter())

        def seconds(self) -> list[float]:
            return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]

    return Clock()


def versions() -> dict[str, str]:
    from importlib import metadata

    names = ("torch", "transformers", "accelerate", "trl", "deepspeed")
    return {d.metadata["Name"]: d.version for d in metadata.distributions() if d.metadata["Name"] in names}


if __name__ == "__main__":
    with open(sys.argv[-1], encoding="utf-8") as file:
        main(json.load(file))
