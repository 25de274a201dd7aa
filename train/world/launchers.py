"""Which process of a run this is, as the launcher's variables tell: deepspeed's and torchrun's, or SLURM's where srun alone started it.

A mix that contradicts itself is refused: ranks that disagree about their number train apart, or wait for each other for ever.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

PORTS = 10_000  # from 20,000 on: one a SLURM job, the same on all its nodes


class WorldError(ValueError):
    """The processes of a run could not join."""


@dataclass(frozen=True)
class Place:
    """This process's numbers; local_size: of the ranks its launcher started here, None where none says so."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int | None = None
    address: str | None = None  # where the ranks meet, when the launcher leaves that to us
    port: int | None = None


def place_of(env: Mapping[str, str]) -> Place:
    """Read the environment.

    Raises:
        WorldError: half of what is needed, no numbers, or numbers that contradict each other.
    """
    if "RANK" in env or "WORLD_SIZE" in env:
        return _checked(env, _as_given(env))
    if int(env.get("SLURM_PROCID", 0)) or _in_a_step(env):
        return _checked(env, _by_slurm(env))
    return Place(local_rank=_number(env, "LOCAL_RANK", 0))


def has_launcher(env: Mapping[str, str]) -> bool:
    """Whether deepspeed's launch.py or torchrun started this process: one that it must not outlive."""
    return "CROSS_RANK" in env or "TORCHELASTIC_RUN_ID" in env


def job_ends_at(env: Mapping[str, str]) -> float | None:
    """When the scheduler ends this job, in seconds of the epoch, where it says so: SLURM does."""
    text = env.get("SLURM_JOB_END_TIME", "")
    return float(text) if re.fullmatch(r"\d+", text) else None


def _as_given(env: Mapping[str, str]) -> Place:
    for have, lacks, alone in (("RANK", "WORLD_SIZE", 0), ("WORLD_SIZE", "RANK", 1)):
        if lacks not in env and _number(env, have, alone) != alone:
            raise WorldError(f"{have}={env[have]} is set and {lacks} is not: start with deepspeed, torchrun or srun, or unset {have}")
    local = next((name for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE") if name in env), None)
    return Place(
        _number(env, "RANK", 0), _number(env, "WORLD_SIZE", 1), _number(env, "LOCAL_RANK", 0), _number(env, local, 1) if local else None
    )


def _in_a_step(env: Mapping[str, str]) -> bool:
    """Whether srun started this process as one of several; a batch script has the job's variables, and is alone."""
    started = {"SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "SLURM_LAUNCH_NODE_IPADDR"} & env.keys() or "SLURM_JOB_ID" not in env
    return bool("SLURM_PROCID" in env and started and _slurm_size(env) > 1)


def _slurm_size(env: Mapping[str, str]) -> int:
    return _number(env, next((n for n in ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS") if n in env), "SLURM_NTASKS"), 1)


def _by_slurm(env: Mapping[str, str]) -> Place:
    nodes = next((env[n] for n in ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST") if env.get(n)), "")
    job = _number(env, "SLURM_JOB_ID", 0) + _number(env, "SLURM_STEP_ID", 0)
    here = env.get("SLURM_GTIDS", "").count(",") + 1 if env.get("SLURM_GTIDS") else None
    first = first_host(nodes) if nodes else "127.0.0.1"
    return Place(_number(env, "SLURM_PROCID", 0), _slurm_size(env), _number(env, "SLURM_LOCALID", 0), here, first, 20_000 + job % PORTS)


def first_host(nodes: str) -> str:
    """`gpu[03-05,9],login` → `gpu03`: the first of SLURM's list of hosts."""
    found = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\]([^,]*))?", nodes)
    if not found:
        raise WorldError(f"SLURM_NODELIST={nodes}: no list of hosts; set MASTER_ADDR to the first node's address")
    return found[1] + (found[2] or "") + (found[3] or "")


def _checked(env: Mapping[str, str], p: Place) -> Place:
    if not 0 <= p.rank < p.size:
        raise WorldError(f"rank {p.rank} of {p.size} ranks: ranks count from 0 to {p.size - 1}; {_said(env)}")
    if p.local_size is not None and not 0 <= p.local_rank < p.local_size <= p.size:
        raise WorldError(f"local rank {p.local_rank} of {p.local_size} ranks on this node, {p.size} in all, cannot be; {_said(env)}")
    return p


def _said(env: Mapping[str, str]) -> str:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
    return "mend " + ", ".join(f"{n}={env[n]}" for n in names if n in env) + ", or unset them and let the launcher set them"


def _number(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"\s*\d+\s*", text):
        raise WorldError(f"{name}={text}: not a whole number; unset it and let the launcher set it")
    return int(text)
