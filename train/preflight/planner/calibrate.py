"""Fit timing.py's constants to published figures: `python -m train.preflight.planner.calibrate [--write]`.

Each constant has a prior: what is known of it without these figures, and how well. The fit minimises the logarithm of predicted over published,
large ones damped (soft L1: a source may err), and each constant's distance from its prior in standard deviations; a source counts by the root of
its rows, so that none decides by its length alone. Shown is how well rows are predicted, and how well those of a source that the fit
has not seen are (leave one source out).
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import dataclass

import numpy as np

from train.preflight.planner.calibrated import FILE
from train.preflight.planner.clusters import Cluster
from train.preflight.planner.job import Job
from train.preflight.planner.published import RowError, rate, read, rows
from train.preflight.planner.timing import Constants, predict

# constant: prior, standard deviation. Fitted in the logarithm
PRIORS = {
    "sustained_ampere": (0.95, 0.05),  # of the best product, at the clocks a whole step holds
    "sustained_hopper": (0.90, 0.07),  # 700 W are not enough for 1,980 MHz
    "traffic": (0.7, 0.3),
    "capped": (0.88, 0.06),  # (500 / 700 W) to the power of a third
    "attention_ampere": (0.50, 0.08),  # FlashAttention-2: 50-73% forward, less backward (2307.08691)
    "attention_hopper": (0.35, 0.06),  # the same kernel on H100: 335 TFLOP/s forward and backward (2307.08691)
    "alibi": (0.65, 0.15),  # Triton's first kernel, with a bias
    "copies_eager": (200, 60),  # counted over a Llama block of eager transformers: 67 forward, twice that backward
    "copies_fused": (75, 25),  # one kernel each for norm, rotation, activation, residual
    "overlap": (3.0, 1.0),
    "network": (0.80, 0.15),  # NCCL's share of a node's nominal rate
    "taken": (4.0, 2.0),  # passes over the memory for a byte sent
    "hop": (5.0, 3.0),  # microseconds a rank of a ring
    "waiting": (0.008, 0.005),  # a doubling of the nodes
    "host": (40, 15),  # GB/s of a host's memory that Adam gets: 7 s for 6.7e9 parameters (DeepSpeed's ZenFlow page)
    "fp8": (1.5, 0.15),
    "part": (1.5, 1.0),  # milliseconds that a broadcast takes hundreds of ranks
    "early": (0.92, 0.06),  # no measurement of products alone was found: a guess
}
PRIOR, WIDTH = (np.array(x) for x in zip(*((np.log(p), np.log(1 + s / p)) for p, s in PRIORS.values()), strict=True))
DAMPED, TRUST = 0.08, 0.10  # errors above count linearly; a row's own standard deviation, beside the priors' ones
# rows whose own source, or whose reader, says that they cannot be taken as they stand
DOUBTED = {
    "colossal-b200-7b": "parallel sizes exceed the GPUs", "colossal-h200-70b": "memory exceeds the GPU's", "torchtune-8b-a6000": "80% of the peak",
    "olmo3-7b": "second-hand, no settings",
}  # fmt: skip

# rows that others of the same source contradict: shown with the rest, and nothing was made for them
CONTRADICTED = {
    "lf-a10040-70b-2048-64": "128 of the same GPUs have 376 tokens/s at micro-batch 4, 32 of 80 GiB 373 at the same 2: both as predicted within 5%",
}


@dataclass(frozen=True)
class Known:
    name: str
    source: str
    job: Job
    cluster: Cluster
    rate: float  # tokens/s a GPU


def known(those: list[dict[str, str]] | None = None) -> list[Known]:
    """The published rows that can be predicted: a model, a GPU and a sharding that are told, and a rate."""
    found = []
    for row in rows() if those is None else those:
        if not rate(row) or row.get("parallelism", "not stated") in ("4D", "not stated") or row["id"] in DOUBTED:
            continue
        try:
            what = read(row)
        except RowError:
            continue
        found.append(Known(row["id"], row["system"].split()[0], what.job, what.cluster, rate(row)))
    return found


def fit(those: list[Known], steps: int = 60) -> Constants:
    """Levenberg's and Marquardt's method, reweighted for the damping."""
    often = Counter(k.source for k in those)
    trust = np.array([often[k.source] ** -0.25 / TRUST for k in those])

    def residuals(u: np.ndarray) -> np.ndarray:
        made = _made(u)
        errors = np.array([np.log(predict(k.job, k.cluster, made).tokens_per_second / k.rate) for k in those])
        return np.concatenate([trust * errors, (u - PRIOR) / WIDTH])

    def weights(r: np.ndarray) -> np.ndarray:
        errors = r[: len(those)] / trust
        return np.concatenate([1 / np.sqrt(1 + (errors / DAMPED) ** 2), np.ones(len(PRIOR))])

    def cost(r: np.ndarray) -> float:
        errors = r[: len(those)] / trust
        damped = 2 * (trust * DAMPED) ** 2 * (np.sqrt(1 + (errors / DAMPED) ** 2) - 1)
        return float(damped.sum() + (r[len(those) :] ** 2).sum())

    u, damping = PRIOR.copy(), 1e-2
    r = residuals(u)
    for _ in range(steps):
        slopes = np.stack([(residuals(u + step) - r) / 1e-4 for step in 1e-4 * np.eye(len(u))], axis=1)
        w = weights(r)[:, None]
        matrix, gradient = slopes.T @ (w * slopes), slopes.T @ (w[:, 0] * r)
        gained = 0.0
        for _ in range(8):
            move = -np.linalg.solve(matrix + damping * np.diag(np.diag(matrix)), gradient).clip(-0.5, 0.5)
            tried = residuals(u + move)
            if (gained := cost(r) - cost(tried)) > 0:
                u, r, damping = u + move, tried, max(damping / 4, 1e-7)
                break
            damping *= 5
        if gained < 1e-5:
            break
    return _made(u)


def _made(u: np.ndarray) -> Constants:
    return Constants(**dict(zip(PRIORS, np.exp(u).tolist(), strict=True)))


def errors(those: list[Known], made: Constants) -> dict[str, float]:
    """id → predicted / published - 1."""
    return {k.name: predict(k.job, k.cluster, made).tokens_per_second / k.rate - 1 for k in those}


def left_out(those: list[Known]) -> dict[str, float]:
    """id → the error of a fit that has not seen any row of its source."""
    found: dict[str, float] = {}
    for source in sorted({k.source for k in those}):
        found |= errors([k for k in those if k.source == source], fit([k for k in those if k.source != source]))
    return found


def said(what: str, found: dict[str, float], most: int = 8) -> str:
    sizes = np.abs(list(found.values()))
    worst = sorted(found, key=lambda n: -abs(found[n]))[:most]
    return (
        f"{what}: {len(found)} rows, mean error {100 * sizes.mean():.1f}%, median {100 * np.median(sizes):.1f}%, "
        f"{np.mean(sizes <= 0.2):.0%} within 20%; largest: {', '.join(f'{n} {100 * found[n]:+.0f}%' for n in worst)}"
    )


def report() -> tuple[Constants, list[str]]:
    """The constants of a fit to all rows, and what is to be said of it."""
    those = known()
    bf16 = [k.name for k in those if not k.job.fp8]
    made = fit(those)
    here, out = errors(those, made), left_out(those)
    lines = [f"{'row':<30}{'published':>10}{'fitted':>9}{'left out':>10}"]
    lines += [f"{k.name:<30}{k.rate:>10.0f}{100 * here[k.name]:>+8.1f}%{100 * out[k.name]:>+9.1f}%" for k in those]
    lines += [said("all, as fitted", here), said("bf16, as fitted", {n: here[n] for n in bf16})]
    lines += [said("all, their source left out", out), said("bf16, their source left out", {n: out[n] for n in bf16})]
    lines += [f"{name}, {out[name]:+.0%}: contradicted by its own source; {why}" for name, why in CONTRADICTED.items()]
    sharded = [k.name for k in those if not k.job.fp8 and k.job.tensor == k.job.stages == k.job.split == 1]
    lines += [said("bf16, sharded data parallel only, their source left out", {n: out[n] for n in sharded})]
    return made, lines


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="fit the planner's constants to published figures and show how well those left out are predicted",
        epilog="example: python -m train.preflight.planner.calibrate",
    )
    parser.add_argument("--write", action="store_true", help=f"keep the constants in {FILE.name}")
    args = parser.parse_args(argv)
    made, lines = report()
    print("\n".join(lines))
    for name, (prior, width) in PRIORS.items():
        print(f"{name:<18}{getattr(made, name):>10.4g}   prior {prior:g} ± {width:g}")
    if args.write:
        values = {name: float(f"{getattr(made, name):.4g}") for name in PRIORS}
        FILE.write_text(json.dumps({"constants": values, "rows": len(known())}, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {FILE}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
