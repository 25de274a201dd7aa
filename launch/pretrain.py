"""Continual pre-training: `deepspeed launch/pretrain.py RECIPE.yaml [key=value …]`."""

import sys
from pathlib import Path

if not __package__:  # run as a script: put the checkout, not launch/, on the import path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from launch.doors.training import train_door
from train.guard.parting import leave


def main(argv: list[str] | None = None) -> int:
    return train_door(
        "continual pre-training of a LLaMA-family model on token shards",
        example="deepspeed --num_gpus 8 launch/pretrain.py launch/recipes/cpt_7b.yaml name=astro7b optim.lr=1e-5",
        argv=argv,
    )


if __name__ == "__main__":
    leave(main())
