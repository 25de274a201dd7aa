"""Chat fine-tuning: `deepspeed launch/sft.py RECIPE.yaml [key=value …]`."""

import sys
from pathlib import Path

if not __package__:  # run as a script: put the checkout, not launch/, on the import path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from launch.doors.training import train_door
from train.guard.parting import leave


def main(argv: list[str] | None = None) -> int:
    from train.preflight.chat_run import check

    return train_door(
        "chat fine-tuning of a LLaMA-family model: whole conversations a row, loss on the assistant's words only",
        example="deepspeed --num_gpus 8 launch/sft.py launch/recipes/sft_recommended_7b.yaml name=astrochat model.path=runs/cpt_7b/checkpoints/step_003148",
        argv=argv,
        check=check,
    )


if __name__ == "__main__":
    leave(main())
