"""The least a DeepSpeed user writes: `least_script.py GIVEN.json` loads a model, makes the engine, and takes one step on random tokens.

Nothing of this program is imported but the packages that it imports itself.
"""

import json
import sys

sys.path.pop(0)  # this folder, whose files are no modules of a user's


def main(given: dict) -> None:
    import deepspeed
    import numpy  # noqa: F401
    import pyarrow  # noqa: F401
    import torch
    import torch.utils.tensorboard
    import transformers
    import yaml  # noqa: F401

    deepspeed.init_distributed(dist_backend="gloo")
    transformers.AutoTokenizer.from_pretrained(given["model"])
    model = transformers.AutoModelForCausalLM.from_pretrained(given["model"], dtype=torch.float32, attn_implementation="sdpa")
    config = given["deepspeed"] | {
        "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1, "gradient_clipping": 1.0, "zero_allow_untested_optimizer": True,
    }  # fmt: skip
    engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(model.parameters(), lr=1e-5), config=config)
    tokens = torch.randint(0, model.config.vocab_size, (1, given["seq_len"]))
    loss = engine(input_ids=tokens, labels=tokens).loss
    engine.backward(loss)
    engine.step()
    if torch.distributed.get_rank() == 0:
        with open(given["done"], "w", encoding="utf-8") as f:
            f.write(f"{float(loss)}\n")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    with open(sys.argv[-1], encoding="utf-8") as file:
        main(json.load(file))
