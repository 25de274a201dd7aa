"""What a recipe will be on a cluster, before it is started: whether it fits, how fast it is and why, what it costs."""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any

from data_tools.shards.reader import Shards
from train.engine.deepspeed_json import merged_config
from train.engine.gathering import sized
from train.model_files.dtypes import OF_RECIPE
from train.preflight import memory_plan
from train.preflight.memory_items import LIBRARIES, UNFUSED, Plan, plan
from train.preflight.planner.calibrated import constants
from train.preflight.planner.clusters import GIB, HOURS_BETWEEN_FAILURES, NO_BF16, Cluster
from train.preflight.planner.cost import Cost, Saving, cost, saving
from train.preflight.planner.job import Job, of_recipe
from train.preflight.planner.models import Model
from train.preflight.planner.timing import Times, predict
from train.preflight.wire import Wire, bytes_a_step
from train.recipe.vocabulary import Recipe
from train.world.machine import FreeBytes

IMPORTED = 0.38 * GIB  # of a process that has imported torch, DeepSpeed and transformers, and has not begun
NEAR = 0.92  # of a GPU's memory: above, allocators begin to give back and take again, at up to a third of the speed (published rows)


@dataclass(frozen=True)
class Setting:
    """What is asked of a cluster beyond its GPUs. host: bytes of a node's main memory (None: not judged); disk: bytes/s of all nodes."""

    price: float | None = None
    host: float | None = None
    disk: float = 2e9
    measured: float = 1.0
    attended: float | None = None  # tokens a token's attention is counted over; None: whole rows
    failure_hours: float = HOURS_BETWEEN_FAILURES  # of one GPU


@dataclass(frozen=True)
class Forecast:
    """short: what does not fit, in words; near: what may not. there: what a rank and a node have. useful: share of places that
    are no padding rows."""

    recipe: Recipe
    job: Job
    cluster: Cluster
    memory: Plan
    times: Times
    useful: float
    short: tuple[str, ...]
    near: tuple[str, ...]
    model: Model
    there: FreeBytes
    wire: Wire
    saving: Saving
    cost: Cost | None
    steps: int | None  # of the whole run

    @property
    def fits(self) -> bool:
        return not self.short

    @functools.cached_property
    def remedies(self) -> tuple[str, ...]:
        """Words after the recipe, each of which is enough; or more nodes."""
        if self.fits:
            return ()
        device, on_cuda = self.there.device, self.cluster.on_cuda

        def judged(p: Plan) -> bool:
            return not device or peak(p, self.job) <= device

        return tuple(memory_plan.what_would_fit(self.recipe, self.model.shape, self.memory, self.there, on_cuda, judged))

    @property
    def host(self) -> float:
        """Bytes of a node's main memory, with its processes."""
        return self.cluster.here * (self.memory.need("host", sure=False) + IMPORTED)

    @property
    def seconds_per_step(self) -> float:
        return self.times.total * self.job.micro_steps

    @property
    def save_every(self) -> float:
        """Seconds of steps between two saves, as the recipe says; of the whole run where there is but the last."""
        steps = self.recipe.checkpoint.every_steps or self.steps or 0
        return self.seconds_per_step * min(steps, self.steps or steps)

    @property
    def lost(self) -> float:
        """Share of the time that saves and failures take, as the recipe says."""
        return self.saving.lost_at(self.save_every) if self.save_every else self.saving.lost

    @property
    def rate(self) -> float:
        """Tokens/s a GPU."""
        return self.times.tokens_per_second * self.useful

    @property
    def mfu(self) -> float:
        """6 (N - input embedding) + 12 L d T, as most tables count."""
        return self.rate * self.job.flops_per_token() / self.cluster.gpu.peak

    @property
    def mfu_causal(self) -> float:
        """The causal half of attention alone."""
        return self.rate * self.job.flops_per_token((self.job.attended or self.job.seq_len) / 2) / self.cluster.gpu.peak

    @property
    def bottleneck(self) -> str:
        if self.job.offload != "none" and self.times.bottleneck == "optimizer":
            return "optimizer in host memory"
        return self.times.bottleneck

    @property
    def peak(self) -> float:
        return peak(self.memory, self.job)


def forecast(recipe: Recipe, model: Model, cluster: Cluster, setting: Setting = Setting()) -> Forecast:
    """Args: model: as models.of_recipe tells. Raises RecipeError: the recipe's DeepSpeed JSON cannot be read, or does not go with so many ranks."""
    tokens = 0.0 if recipe.epochs is not None else float(recipe.total_steps * recipe.tokens_per_step)
    recipe = of_some_length(recipe)
    on_cuda = cluster.on_cuda
    config: dict[str, Any] = merged_config(recipe, cluster.gpus, on_cuda)
    job = dataclasses.replace(of_recipe(recipe, model.sizes, cluster.gpus, on_cuda, setting.attended), trained=model.shape.trained)
    memory = plan(recipe, model.shape, cluster.gpus, cluster.here, config["zero_optimization"], on_cuda)
    device = cluster.gpu.gib * GIB if on_cuda else None
    there = FreeBytes(host=math.inf if setting.host is None else setting.host, device=device, disk=math.inf)
    short = memory_plan.short_of(memory, there)
    expected = peak(memory, job)
    if device and not short and expected > device:
        short = [f"a rank will take about {expected / GIB:.1f} GiB on its device, there are {cluster.gpu.gib:g} GiB"]
    near = []
    if device and not short and expected > NEAR * device:
        near.append(f"{expected / GIB:.1f} of {cluster.gpu.gib:g} GiB: near the limit allocators cost up to a third of the speed")
    if cluster.gpu.name in NO_BF16 and recipe.model.dtype == "bf16":
        near.append(f"{cluster.gpu.name} has no bf16 in its tensor cores, and this trainer no fp16: its rate is far below this")
    times = dataclasses.replace(predict(job, cluster, constants()), measured=setting.measured)
    useful = recipe.rows_per_step / (recipe.micro_batch * cluster.gpus * job.micro_steps)
    wire = _wire(recipe, model, cluster, config, job)
    saved = saving(memory.checkpoint_bytes, cluster, setting.disk, recipe.checkpoint.background, setting.failure_hours)
    steps = recipe.total_steps if tokens else None
    made = Forecast(recipe, job, cluster, memory, times, useful, tuple(short), tuple(near), model, there, wire, saved, None, steps)
    return dataclasses.replace(made, cost=cost(tokens, made.rate, cluster, made.lost, setting.price)) if tokens else made


def _wire(recipe: Recipe, model: Model, cluster: Cluster, config: dict[str, Any], job: Job) -> Wire:
    """Bytes a node sends in a step."""
    shape = model.shape
    zero = sized(config["zero_optimization"], shape.layer, shape.parameters)
    element, gradient = OF_RECIPE[recipe.model.dtype].itemsize, job.gradient_bytes * (1 if cluster.on_cuda else 2)
    made = bytes_a_step(model.numels, zero, cluster.gpus, cluster.nodes, job.micro_steps, element, gradient)
    weights = made.weights * (job.weight_bytes / 2 if recipe.model.quantize != "none" else 1)
    return dataclasses.replace(made, weights=weights).of_trained(shape.trained / shape.parameters)


def peak(memory: Plan, job: Job) -> float:
    """Bytes of a GPU that are expected: upper bounds too, but for activations that fused kernels never keep and memory that the CUDA context takes
    outside the allocator; on a CPU with what the process holds before."""
    where = "device" if any(i.where == "device" for i in memory.items) else "host"
    process = 0 if where == "device" else IMPORTED
    left = [i for i in memory.items if i.where == where and (job.kernels == "fused" and i.what == UNFUSED or i.nbytes == LIBRARIES)]
    kept = tuple(i for i in memory.items if i not in left)
    return process + dataclasses.replace(memory, items=kept).need(where, sure=False)


def attended(recipe: Recipe) -> float | None:
    """Tokens a token's attention is counted over, sum(L^2) / sum(L) over documents cut to rows; None where not all shards are here."""
    sources, row = recipe.data.sources.values(), recipe.data.seq_len
    if not all(source.path.exists() for source in sources):
        return None
    weighted = of_all = 0.0
    for source in sources:
        lengths = Shards.open(source.path, verify="size").lengths.astype("float64")
        tokens = float(lengths.sum())
        rest = lengths % row
        share = tokens if source.weight is None else source.weight
        weighted += share * float(((lengths - rest) * row + rest * rest).sum()) / max(1.0, tokens)
        of_all += share
    return weighted / of_all if weighted else None


def of_some_length(recipe: Recipe) -> Recipe:
    """One in epochs, whose shards are not here: as long as it takes to keep all the checkpoints it may."""
    if recipe.epochs is None:
        return recipe
    c = recipe.checkpoint
    return dataclasses.replace(recipe, epochs=None, steps=max(1, c.every_steps) * (c.keep_last + c.keep_best + 1))
