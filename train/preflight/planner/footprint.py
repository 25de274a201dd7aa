"""Memory of a GPU in any framework's run, from a job and a cluster: for tables of figures. What this trainer's own recipes take, item by
item, is memory_items.py's; a block's activations are counted there for both."""

from __future__ import annotations

from train.preflight.memory_items import of_a_block
from train.preflight.planner.clusters import Cluster
from train.preflight.planner.job import Job

GATHERED = 3  # layers whose weights are whole at once: computed, fetched ahead, reduced
LOGIT = 10  # bytes: bf16, fp32, fp32 gradient
EAGER = 1.25  # of what fused kernels keep


def peak(job: Job, cluster: Cluster) -> float:
    """Bytes of a GPU, as an allocator counts them."""
    return _states(job, cluster) + _gathered(job, cluster) + _activations(job)


def _states(job: Job, cluster: Cluster) -> float:
    """Rajbhandari et al. 2020, with fp32 masters and two moments; gradients as they are summed."""
    n = job.sizes.parameters / job.tensor / job.stages
    group = max(1.0, cluster.gpus / job.tensor / job.stages)
    here = max(1.0, min(group, cluster.here / job.tensor))
    if job.adapter:
        return job.weight_bytes * n / group
    kept = job.optimizer_bytes if job.offload == "none" else 0
    grads = job.summed_bytes if job.offload == "none" else 0
    weights = 0 if job.offload == "all" else 2
    if job.sharding == "whole":
        return (weights + grads + kept) * n
    if job.sharding == "in node":
        return (weights + grads + kept) * n / here
    if job.sharding == "gradients":
        return weights * n + (grads + kept) * n / group
    if job.sharding.startswith("optimizer"):
        return (weights + grads) * n + kept * n / (here if "node" in job.sharding else group)
    return (weights + grads + kept) * n / group + (2 * n / here if job.sharding == "hpz" else 0)


def _gathered(job: Job, cluster: Cluster) -> float:
    if job.sharding.startswith(("optimizer", "gradients", "whole")) or cluster.gpus == 1:
        return 0.0
    s = job.sizes
    layer = (s.parameters - s.head * (1 if s.tied else 2)) / s.layers
    return (GATHERED * 2 * layer + (2 + 4) * s.head) / job.tensor  # of embedding and head weights, and their gradient


def _activations(job: Job) -> float:
    s = job.sizes
    tokens = job.micro_batch * job.seq_len / job.tensor / job.split
    block = 2 * (of_a_block(s.hidden, s.kv_width, s.mlp) if s.gated else 16 * s.hidden)  # 34 h bytes, less dropout masks (2205.05198)
    block *= EAGER if job.kernels == "eager" else 1
    live = min(job.stages, job.micro_steps)  # micro-batches that a first stage holds
    kept = max(2 * s.hidden, job.again.kept * block)
    logits = 0 if job.chunked_loss else LOGIT * s.vocabulary
    return tokens * (live * s.layers / job.stages * kept + block + logits)
