"""Seconds of a micro-step by part, from a job, a cluster and fitted constants.

    products     6 x computed elements x tokens (2 forward, 4 backward; 2 more where a forward is computed again; 4 for a frozen base under an
                 adapter), over what products sustain
    attention    6 L d T for the causal half of 12 L d T, 7/6 for the scores flash attention computes again; T over documents where known
    elementwise  norms, rotations, activations, residuals and the loss: bytes over the memory's rate
    launches     what a layer's kernels take the host to launch: no batch is faster; and what a gather takes it
    network      ZeRO-3: a gather before the forward, one before the backward, a scatter of gradients, each (n - 1) / n of the bytes through
                 the slower of a node's links and its network, and a latency a rank (ring). Copies in each node (HSDP): those inside, the
                 gradients between nodes once a step. hpZ: weights cross once a step, gradients every micro-step. ZeRO-1 and 2: gradients and
                 weights once a step. Bytes of ZeRO-3 and hpZ are train/preflight/wire.py's, which interfaces were measured against
    optimizer    reads and writes of 32 bytes a parameter of a share; in host memory by PCIe and the host's memory
    waiting      for the slowest of the nodes, and in a pipeline's ends

Communication runs beside computing at a price: its bytes go through the GPU's memory and multiprocessors (`taken`, passes over the memory),
and where it is nearly as long as computing it shows. The sum of both is the p-norm: the longer one where they are unlike, more where they are
alike; p is fitted (infinity: perfect overlap, 1: none). What is sent once a step can hide behind its last backward pass alone,
and the weights that ZeRO-1 and 2 gather after the update behind nothing. InternEvo and Colossal-AI send those a rank at a time (`part`, each);
XLA sums gradients between nodes after the loop over layers, behind nothing.

Sources: Rajbhandari et al. 2020 (arXiv 1910.02054: ZeRO's volumes), Wang et al. 2023 (2306.10209: hpZ), Korthikanti et al. 2022 (2205.05198:
recomputation, tensor parallel volumes), Narayanan et al. 2021 (2104.04473: a pipeline's bubble), Dao 2023 (2307.08691: flash attention's 7/6).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from train.engine.gathering import KEEP_WHOLE
from train.preflight.planner.clusters import Cluster
from train.preflight.planner.job import Job
from train.preflight.wire import bytes_a_step

PCIE = 20e9  # bytes/s of a GPU and its host, pinned memory; 16 lanes of generation 4
HEAD_BYTES = {"eager": 30, "partly": 24, "fused": 16}  # of a logit, read and written: cast to fp32, softmax, its gradient
GATHER = 0.15e-3  # seconds of the host that a gather takes, between kernels: 0.1 to 0.2 ms; ZeRO-3 by matrices was 10% behind FSDP (DeepSpeed #5047)
ADAPTER = 67  # copies of seven adapted products: inputs read again, outputs read and written, forward and backward
UNPACKED = 26  # bytes of a packed weight, read and written until it stands in bf16 (model/quantized.py), before each product
LAUNCH = {"eager": 1.2e-3, "partly": 0.9e-3, "fused": 0.5e-3}  # seconds a layer, forward and backward


@dataclass(frozen=True)
class Constants:
    """Fitted by calibrate.py, where each has its prior and what that comes from.

    sustained: share of the best measured product that a training step holds (clocks fall under load, shapes are not the best ones).
    traffic: share of a product's reads and writes, peak / memory rate x (1/M + 1/N + 1/K) of its time, that does not hide behind multiplying.
    attention: share of the peak. early: of today's products, what libraries before mid-2024 reached on Hopper. copies: 2-byte reads and writes of a hidden state, a token and layer, forward and backward.
    """

    sustained_ampere: float
    sustained_hopper: float
    traffic: float
    capped: float
    attention_ampere: float
    attention_hopper: float
    alibi: float
    copies_eager: float
    copies_fused: float
    overlap: float
    network: float
    taken: float
    hop: float  # microseconds
    waiting: float
    host: float  # GB/s
    fp8: float
    part: float  # milliseconds
    early: float


@dataclass(frozen=True)
class Times:
    """Seconds of a micro-step on every GPU; `network` is what it adds to computing, `wire` how long it takes by itself."""

    products: float
    attention: float
    elementwise: float
    launches: float
    network: float
    optimizer: float
    waiting: float
    wire: float
    tokens: float
    measured: float = 1.0  # how much slower a measured run was than this says

    @property
    def computing(self) -> float:
        return self.products + self.attention + self.elementwise + self.launches

    @property
    def total(self) -> float:
        return self.measured * (self.computing + self.network + self.optimizer + self.waiting)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.total

    @property
    def parts(self) -> dict[str, float]:
        """Shares of a step."""
        names = ("products", "attention", "elementwise", "launches", "network", "optimizer", "waiting")
        return {name: self.measured * getattr(self, name) / self.total for name in names}

    @property
    def bottleneck(self) -> str:
        return max(self.parts, key=self.parts.get)


def predict(job: Job, cluster: Cluster, c: Constants) -> Times:
    products, attention = _products(job, cluster, c), _attention(job, cluster, c)
    elementwise = _elementwise(job, cluster, c)
    busy = products + attention + elementwise
    launches = max(0.0, job.sizes.layers / job.stages * LAUNCH[job.kernels] * (1 + job.again.elementwise / 3) - busy)
    if cluster.gpus > 1 and job.sharding in ("zero3", "hpz"):
        launches += GATHER * job.gathers * job.sizes.layers / job.stages
    computing = busy + launches + _tensor(job, cluster)
    sent = _sent(job, cluster, c)
    computing += c.taken * sent.nbytes / cluster.gpu.hbm
    together = _beside(computing, sent.each, c.overlap)
    backward = together * (2 + job.again.products) / (3 + job.again.products)
    last = _beside(backward, sent.once, c.overlap) - backward + sent.after  # of a step
    network = together + last / job.micro_steps - busy - launches
    optimizer = _optimizer(job, cluster, c)
    bubble = together * (job.stages - 1) / (job.micro_steps * job.virtual) if job.stages > 1 else 0.0
    waiting = bubble + (busy + launches + network + optimizer) * c.waiting * math.log2(cluster.nodes)
    wire = sent.each + (sent.once + sent.after) / job.micro_steps
    return Times(products, attention, elementwise, launches, network, optimizer, waiting, wire, job.tokens)


def _rate(job: Job, cluster: Cluster, c: Constants) -> float:
    """FLOP/s of matrix products."""
    gpu = cluster.gpu
    held = c.sustained_ampere if gpu.family == "ampere" else c.sustained_hopper * (c.early if job.early else 1)
    return gpu.peak * gpu.reached * held * (c.capped if gpu.capped else 1)


def _products(job: Job, cluster: Cluster, c: Constants) -> float:
    s = job.sizes
    layers = 2 * (s.computed - s.head) * job.tokens
    passes = (2 if job.adapter else 3) + job.again.products
    head = 2 * s.head * job.tokens * (2 if job.adapter else 3)
    rims = job.tensor / s.hidden + 1 / s.hidden + 1 / max(1.0, job.tokens * job.tensor * job.stages)
    rate = _rate(job, cluster, c) / (1 + c.traffic * cluster.gpu.peak / cluster.gpu.hbm * rims)
    return layers * passes / (rate * (c.fp8 if job.fp8 else 1)) + head / rate


def _attention(job: Job, cluster: Cluster, c: Constants) -> float:
    s, gpu = job.sizes, cluster.gpu
    reached = (
        (c.attention_ampere if gpu.family == "ampere" else c.attention_hopper)
        * (c.alibi if s.alibi else 1)
        * (c.capped if gpu.capped else 1)
    )
    forward = 2 * s.layers * s.width * (job.attended or job.seq_len) * job.tokens
    return forward * (3.5 + job.again.products) / (gpu.peak * reached)


def _elementwise(job: Job, cluster: Cluster, c: Constants) -> float:
    s = job.sizes
    copies = {"eager": c.copies_eager, "partly": (c.copies_eager + c.copies_fused) / 2, "fused": c.copies_fused}[job.kernels]
    copies *= job.copies * (1 + job.again.elementwise / 3)
    layers = 2 * (copies + (ADAPTER if job.adapter else 0)) * s.hidden * s.layers
    unpacked = UNPACKED * (s.computed - s.head) * (2 + job.again.products) / job.stages / job.tensor if job.weight_bytes < 2 else 0.0
    return (job.tokens * (layers + HEAD_BYTES[job.kernels] * s.vocabulary) + unpacked) / cluster.gpu.hbm


def _tensor(job: Job, cluster: Cluster) -> float:
    """Two all-reduces a layer forward, two backward, and two where the forward is computed again, of the hidden states."""
    if job.tensor == 1:
        return 0.0
    nbytes = 2 * job.sizes.hidden * job.micro_batch * job.seq_len / job.split
    once = 2 * nbytes * (job.tensor - 1) / job.tensor / cluster.gpu.links
    return job.sizes.layers / job.stages * (4 + 2 * job.again.products) * once


@dataclass(frozen=True)
class _Sent:
    """Seconds of communication: each micro-step, once a step beside its backward pass, after its update; bytes through a GPU a micro-step."""

    each: float = 0.0
    once: float = 0.0
    after: float = 0.0
    nbytes: float = 0.0


def _beside(computing: float, wire: float, overlap: float) -> float:
    longer, shorter = max(computing, wire), min(computing, wire)
    return longer * (1 + (shorter / longer) ** overlap) ** (1 / overlap) if shorter > 0 else longer


def _sent(job: Job, cluster: Cluster, c: Constants) -> _Sent:
    apart = job.tensor * job.stages
    group = cluster.gpus / apart  # that a model's part is spread over
    if group <= 1:
        return _Sent()
    elements = job.sizes.parameters / apart
    weights, gradients = job.weight_bytes * elements, 0.0 if job.adapter else job.gradient_bytes * elements
    here, nodes = max(1.0, cluster.here / job.tensor), max(1.0, group * job.tensor / cluster.a_node)
    shared = min(job.tensor, cluster.here)  # tensor-parallel ranks of a node share its network

    def inside(nbytes: float) -> float:
        return nbytes * (here - 1) / here / cluster.gpu.links

    def outside(nbytes: float, ends: float = nodes) -> float:  # ends: of the ring, which is one over nodes where each has all
        return nbytes * shared * (ends - 1) / ends / (cluster.network * c.network) if nodes > 1 else 0.0

    def ring(collectives: float) -> float:
        return collectives * job.sizes.layers / job.stages * (group - 1) * c.hop * 1e-6 if nodes > 1 else 0.0

    def everywhere(nbytes: float, collectives: float) -> float:
        return max(inside(nbytes), outside(nbytes, group) + ring(collectives))

    m = job.micro_steps
    if job.sharding in ("zero3", "hpz"):
        zero = {"zero_hpz_partition_size": cluster.here if job.sharding == "hpz" else 1, "stage3_param_persistence_threshold": 0}
        zero["stage3_max_reuse_distance"] = KEEP_WHOLE if job.sizes.parameters <= KEEP_WHOLE and job.keeps_small else 0
        step = bytes_a_step([round(elements)], zero, max(2, round(group)), math.ceil(nodes), m, 2)
        sent = (
            (step.weights * job.weight_bytes / 2 + step.gradients / 4 * (gradients / elements)) / m * shared / (cluster.network * c.network)
        )
        collectives = (job.gathers / 2 / m if job.sharding == "hpz" else job.gathers) + (1 if gradients else 0)
        return _Sent(max(inside(2 * weights + gradients), sent + ring(collectives)), nbytes=2 * weights + gradients)
    if job.sharding == "in node":
        between = outside(2 * gradients) + ring(2 / here)
        once, after = (0.0, between) if job.sums_last else (between, 0.0)
        return _Sent(inside(2 * weights + gradients), once, after, 2 * weights + gradients + 2 * gradients / here / m)
    if job.sharding == "optimizer in node":
        return _Sent(0.0, everywhere(2 * gradients, 2 / here), inside(weights), (2 * gradients + weights) / m)
    if job.sharding == "whole":
        return _Sent(0.0, everywhere(2 * gradients, 2), 0.0, 2 * gradients / m)
    parts = group * c.part * 1e-3 if job.by_parts and nodes > 1 else 0.0
    return _Sent(0.0, everywhere(2 * gradients, 2), everywhere(weights, 1) + parts, (2 * gradients + weights) / m)


def _optimizer(job: Job, cluster: Cluster, c: Constants) -> float:
    # each GPU brings its part of the weights, twice
    weights = 2 * job.weight_bytes * job.sizes.parameters / cluster.here / PCIE if job.offload == "all" else 0.0
    if job.adapter and job.trained is None:
        return weights
    apart = job.tensor * job.stages
    group = cluster.here if "in node" in job.sharding else cluster.gpus
    share = (job.trained if job.adapter else job.sizes.parameters) / (apart if job.sharding == "whole" else max(apart, group))
    if job.offload == "none":
        return 32 * share / cluster.gpu.hbm / job.micro_steps
    pcie = (4 + 2) * share / PCIE  # gradients there, weights back
    # read and written: gradients, masters, two moments, weights; one process alone has its pages on one of a host's two sockets
    adam = 40 * share * cluster.here / (c.host * 1e9 * (0.5 if cluster.here == 1 else 1))
    return (pcie + adam) / job.micro_steps + weights
