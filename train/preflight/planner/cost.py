"""What a run costs, and how often it should be saved.

Young (1974, doi 10.1145/361147.361115): with a failure every M seconds and a save that holds a run up for d seconds, the time lost is least at
an interval of sqrt(2 d M). Daly (2006, doi 10.1016/j.future.2004.11.016) has the next order, sqrt(2 d M) (1 + sqrt(d / 2M) / 3 + d / 18 M) - d,
which counts where d is not small against M.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from train.preflight.planner.clusters import HOURS_BETWEEN_FAILURES, Cluster
from train.preflight.planner.timing import PCIE

RESTART = 300.0  # seconds until a run steps again: found out, processes started, weights loaded


@dataclass(frozen=True)
class Saving:
    """nbytes: of one checkpoint. seconds: a save holds the run up. failure_hours: between two failures of the whole cluster. every: seconds
    between two saves at which least is lost; lost: that share of the time."""

    nbytes: float
    seconds: float
    failure_hours: float
    every: float

    @property
    def lost(self) -> float:
        return self.lost_at(self.every)

    def lost_at(self, every: float) -> float:
        """Share of the time that saves, steps made again and restarts take where a save comes after so many seconds of steps."""
        return self.seconds / (every + self.seconds) + (every / 2 + RESTART) / (self.failure_hours * 3600)


@dataclass(frozen=True)
class Cost:
    """Of a run: hours of the cluster, GPU-hours, dollars, with what saves and failures take."""

    hours: float
    gpu_hours: float
    dollars: float
    price: float  # of a GPU-hour


def saving(nbytes: float, cluster: Cluster, disk: float, background: bool, gpu_failure_hours: float = HOURS_BETWEEN_FAILURES) -> Saving:
    """Args: disk: bytes/s that all nodes together write. background: the run waits for the copy to host memory alone."""
    seconds = nbytes / cluster.gpus / PCIE if background else nbytes / disk
    mean = gpu_failure_hours * 3600 / cluster.gpus
    every = optimal_interval(seconds, mean)
    return Saving(nbytes, seconds, mean / 3600, every)


def optimal_interval(save: float, failure: float) -> float:
    """Daly's interval between the end of a save and the start of the next, in the unit of its arguments."""
    if save >= 2 * failure:
        return failure
    ratio = save / (2 * failure)
    return math.sqrt(2 * save * failure) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - save if save > 0 else failure


def cost(tokens: float, rate: float, cluster: Cluster, lost: float, price: float | None = None) -> Cost:
    """Args: rate: tokens/s a GPU; lost: a share of the time."""
    each = cluster.gpu.dollars if price is None else price
    hours = tokens / rate / cluster.gpus / 3600 / max(0.05, 1 - lost)
    return Cost(hours, hours * cluster.gpus, hours * cluster.gpus * each, each)
