"""Tasks over local cores, SLURM arrays or Ray, on datatrove's executors; what is finished stays finished after a kill.

task (a JSON value) → function(task) in some process → results/00000.json → completions/00000 (datatrove's marker)

    counts = run_tasks(clean_archive, [{"path": "a.tar"}, {"path": "b.tar"}], out / ".work" / "clean", Runner(workers=8))

The function is named by its module, so that any process can import it; it writes its own files atomically and makes the same
ones whenever it runs again. A task cut short leaves no result and is run again; a finished one never is.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_tools.work.ledger import WorkError, describe_error, finished, first_error, open_ledger, result_path
from data_tools.work.task_step import TaskStep
from data_tools.work.watch import WorkerLost, watched

EXECUTORS = ("local", "slurm", "ray")


@dataclass(frozen=True)
class Runner:
    """Where tasks run, and how many at a time."""

    workers: int
    executor: str = "local"
    slurm: dict[str, str] = field(default_factory=dict)  # sbatch's options by their long names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, default=cores(), help="tasks at a time (default: this machine's cores)")
    parser.add_argument(
        "--executor", choices=EXECUTORS, default="local", help="where tasks run; OUT must be on a shared disk for slurm and ray"
    )
    parser.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an sbatch option, e.g. partition=cpu, time=04:00:00, account=astro",
    )


def chosen(args: argparse.Namespace) -> Runner:
    """What the flags of `add_arguments` ask for. Raises WorkError."""
    if args.workers < 1:
        raise WorkError(f"--workers {args.workers}: at least 1 is needed")
    if wrong := [word for word in args.slurm if "=" not in word]:
        raise WorkError(f"--slurm {wrong[0]}: write KEY=VALUE, for instance --slurm partition=cpu")
    return Runner(args.workers, args.executor, dict(word.split("=", 1) for word in args.slurm))


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_tasks(
    function: Callable[[Any], Any],
    tasks: Sequence[Any],
    folder: Path,
    runner: Runner,
    *,
    label: str = "tasks",
    sizes: Sequence[int] | None = None,
) -> list[Any]:
    """Run function(task) once for each task and return their results in the order of the tasks.

    tasks and results are JSON values; function is importable by name. folder: keeps results, markers and a log per task; a second
    call with the same tasks goes on from there. sizes: bytes per task, for the progress. Raises WorkError with the first failure.
    """
    assert function.__module__ != "__main__", f"{function.__qualname__} must live in a module that other processes can import"
    if not tasks:
        return []
    folder = folder.absolute()
    step = TaskStep(
        f"{function.__module__}:{function.__qualname__}",
        str(folder),
        [os.path.abspath(path) for path in sys.path],
        runner.executor,
        os.getpid() if runner.executor == "local" else 0,
    )
    open_ledger(folder, list(tasks))
    if waiting := set(range(len(tasks))) - finished(folder):
        error: BaseException | None = None
        with watched(step, label, sizes or [1] * len(tasks), "B" if sizes else "tasks"):
            try:
                _execute(step, len(tasks), min(runner.workers, len(waiting)), runner)
            except (Exception, KeyboardInterrupt) as caught:
                error = caught
        if (message := first_error(folder)) is not None:
            raise WorkError(message) from error
        if isinstance(error, WorkerLost) and len(finished(folder)) == len(tasks):
            error = None  # a worker was killed that had nothing more to do
        if isinstance(error, KeyboardInterrupt):
            raise error
        if error is not None:
            raise WorkError(describe_error(error, folder)) from error
    return [json.loads(result_path(folder, k).read_bytes()) for k in range(len(tasks))]


def _execute(step: TaskStep, count: int, workers: int, runner: Runner) -> None:
    """Run the step's unfinished tasks; each executor brings its own part of datatrove, which takes its time to import."""
    if runner.executor == "local":
        from data_tools.work import local

        local.run(step, count, workers)
    elif runner.executor == "slurm":
        from data_tools.work import slurm

        slurm.run(step, count, workers, runner.slurm)
    else:
        _run_ray(step, count, workers)


def _run_ray(step: TaskStep, count: int, workers: int) -> None:
    try:
        import ray
    except ImportError as error:
        raise WorkError("--executor ray: ray is not installed; pip install ray, or use --executor local") from error
    from datatrove.executor.ray import RayPipelineExecutor

    ray.init(ignore_reinit_error=True)  # joins the cluster of RAY_ADDRESS, else starts one here
    RayPipelineExecutor([step], tasks=count, workers=workers, logging_dir=step.folder).run()
