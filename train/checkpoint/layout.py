"""What a checkpoint folder holds, by name. Without torch, so that an export reads the names a save wrote.

checkpoints/latest                                 the newest folder's name
checkpoints/step_000500/                           a Hugging Face model folder: config, tokenizer, weights, and
    trainer/rank_00000_of_00002.safetensors …      `master/NAME`, `exp_avg/NAME`, `exp_avg_sq/NAME`: the slices a rank owned
    trainer/index.json                             how many ranks wrote them, Adam's step, elements of each parameter
    trainer/probe.safetensors                      logits of the engine on a few tokens
    state.json, manifest.json                      where the run stood; every file's size and hash, written last
"""

import re

from train.model_files.folder import MANIFEST as MANIFEST

FORMAT = 1
LATEST = "latest"
STEP = re.compile(r"step_(\d{6,})$")
REPLACED = ".tmp-replaced"  # an older save of a step, moved aside while the new one takes its name
STATE = "state.json"
TRAINER, TRAINER_INDEX, PROBE = "trainer", "trainer/index.json", "trainer/probe.safetensors"
MASTER, MOMENTS = "master", ("exp_avg", "exp_avg_sq")


def folder_name(step: int) -> str:
    return f"step_{step:06d}"


def rank_file(rank: int, size: int) -> str:
    """The file of a rank's slices, in the checkpoint's folder."""
    return f"{TRAINER}/rank_{rank:05d}_of_{size:05d}.safetensors"
