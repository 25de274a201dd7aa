"""What is shown of a process's environment, and what never is."""

from __future__ import annotations

from train.world.environment import chosen


def test_what_changes_a_run_is_shown_and_no_secret_is():
    env = {
        "NCCL_ALGO": "Ring", "OMP_NUM_THREADS": "4", "LD_PRELOAD": "x.so", "HOME": "/root", "AWS_SECRET_ACCESS_KEY": "canary", "HF_TOKEN": "canary",
        "HF_HOME": "/hf", "HF_ENDPOINT": "https://me:canary@hub.example", "CUDA_VISIBLE_DEVICES": "0", "WANDB_API_KEY": "canary", "TORCH_AUTH": "canary", "RANK": "1",
    }  # fmt: skip
    shown = chosen(env)
    assert shown == {
        "HF_ENDPOINT": "https://***@hub.example", "HF_HOME": "/hf", "HF_TOKEN": "set, not shown", "LD_PRELOAD": "x.so", "NCCL_ALGO": "Ring", "OMP_NUM_THREADS": "4", "TORCH_AUTH": "set, not shown"
    }  # fmt: skip
