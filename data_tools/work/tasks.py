"""Tasks over local cores, SLURM arrays or Ray, on datatrove's executors; what is finished stays finished after a kill.

task (a JSON value) → function(task) in some process → results/00000.json → completions/00000 (datatrove's marker)

    counts = run_tasks(clean_archive, [{"path": "a.tar"}, {"path": "b.tar"}], out / ".work" / "clean", workers=8)

The function is named by its module, so that any process can import it; it writes its own files atomically and makes the same
ones whenever it runs again. A task cut short leaves no result and is run again; a finished one never is.
"""

import argparse
import contextlib
import ctypes
import errno
import functools
import importlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from data_tools.files.atomic import write_atomically
from data_tools.work.progress import Progress

EXECUTORS = ("local", "slurm", "ray")
_front_pid = 0  # this process, while it runs tasks on local cores
_hooked = False


class WorkError(ValueError):
    """Work that could not be done; says which task, why, and what to do."""


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


def chosen(args: argparse.Namespace) -> dict[str, Any]:
    """The keywords for `run_tasks` from the flags of `add_arguments`."""
    if args.workers < 1:
        raise WorkError(f"--workers {args.workers}: at least 1 is needed")
    if wrong := [word for word in args.slurm if "=" not in word]:
        raise WorkError(f"--slurm {wrong[0]}: write KEY=VALUE, for instance --slurm partition=cpu")
    return {"workers": args.workers, "executor": args.executor, "slurm": dict(word.split("=", 1) for word in args.slurm)}


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_tasks(
    function: Callable[[Any], Any],
    tasks: Sequence[Any],
    folder: Path,
    *,
    workers: int,
    executor: str = "local",
    slurm: dict[str, str] | None = None,
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
    step = TaskStep(
        f"{function.__module__}:{function.__qualname__}",
        str(folder.absolute()),
        [os.path.abspath(path) for path in sys.path],
        executor,
        os.getpid() if executor == "local" else 0,
    )
    folder = folder.absolute()
    _prepare_folder(folder, list(tasks))
    if waiting := set(range(len(tasks))) - _finished(folder):
        error: BaseException | None = None
        with _noise_to(folder / "console.log") as stderr, _watch(step, sizes or [1] * len(tasks), "B" if sizes else "tasks", label, stderr):
            try:
                RUN[executor](step, len(tasks), min(workers, len(waiting)), slurm or {})
            except (Exception, KeyboardInterrupt) as caught:
                error = caught
        if (message := first_error(folder)) is not None:
            raise WorkError(message) from error
        if isinstance(error, KeyboardInterrupt):
            raise error
        if error is not None:
            raise WorkError(_describe(error, folder)) from error
    return [json.loads(_result(folder, k).read_bytes()) for k in range(len(tasks))]


@dataclass(frozen=True)
class TaskStep:
    """The one step of each datatrove pipeline: look up the rank's task, run it, keep its result."""

    function: str  # "module:name"
    folder: str
    search_path: list[str]  # where the module lies, for processes that SLURM or Ray start
    executor: str
    front: int  # the command's process when it runs on the same machine, else 0

    def __call__(self, _: Any, rank: int, world_size: int) -> None:
        if self.front and os.getpid() != self.front:
            _end_with(self.front)
        sys.path += [path for path in self.search_path if path not in sys.path]
        folder = Path(self.folder)
        (folder / "running" / f"{rank:05d}").write_text(str(os.getpid()))
        try:
            task = _read_tasks(folder / "tasks.json", (folder / "tasks.json").stat().st_mtime_ns)[rank]
            module, name = self.function.split(":")
            result = getattr(importlib.import_module(module), name)(task)
            write_atomically(_result(folder, rank), json.dumps(result).encode())
        except Exception as error:
            with contextlib.suppress(OSError):  # the disk may be what failed; datatrove still reports the error itself
                _write_error(folder, rank, _describe(error, folder, rank))
            raise


def _run_local(step: TaskStep, count: int, workers: int, slurm: dict[str, str]) -> None:
    global _front_pid, _hooked
    from datatrove.executor.local import LocalPipelineExecutor

    if not _hooked:
        os.register_at_fork(after_in_child=_after_fork)
        _hooked = True
    import multiprocess

    # the server from which workers are forked imports once what every worker needs
    multiprocess.set_forkserver_preload(["__main__", step.function.split(":")[0], "datatrove.executor.local", "pyarrow"])
    _front_pid = os.getpid()
    try:
        LocalPipelineExecutor([step], tasks=count, workers=workers, logging_dir=step.folder).run()
    finally:
        _front_pid = 0


def _run_slurm(step: TaskStep, count: int, workers: int, slurm: dict[str, str]) -> None:
    from data_tools.work import slurm as slurm_jobs

    slurm_jobs.run(step, count, workers, slurm)


def _run_ray(step: TaskStep, count: int, workers: int, slurm: dict[str, str]) -> None:
    try:
        import ray
    except ImportError as error:
        raise WorkError("--executor ray: ray is not installed; pip install ray, or use --executor local") from error
    from datatrove.executor.ray import RayPipelineExecutor

    ray.init(ignore_reinit_error=True)  # joins the cluster of RAY_ADDRESS, else starts one here
    RayPipelineExecutor([step], tasks=count, workers=workers, logging_dir=step.folder).run()


RUN = {"local": _run_local, "slurm": _run_slurm, "ray": _run_ray}


# ---- the folder ----


def _result(folder: Path, k: int) -> Path:
    return folder / "results" / f"{k:05d}.json"


def _prepare_folder(folder: Path, tasks: list[Any]) -> None:
    for name in ("errors", "running"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("errors", "running", "results", "completions"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    plan = json.dumps(tasks).encode()
    if not (folder / "tasks.json").exists():
        write_atomically(folder / "tasks.json", plan)
    elif (folder / "tasks.json").read_bytes() != plan:
        raise WorkError(f"{folder}: holds the work on other tasks; delete this folder to start anew")
    for marker in (folder / "completions").iterdir():
        if not _result(folder, int(marker.name)).exists():
            marker.unlink()


@functools.lru_cache(maxsize=4)
def _read_tasks(path: Path, _mtime_ns: int) -> list[Any]:
    return json.loads(path.read_bytes())


def _finished(folder: Path) -> set[int]:
    return {int(marker) for marker in os.listdir(folder / "completions")}


def _write_error(folder: Path, rank: int, message: str) -> None:
    write_atomically(folder / "errors" / f"{rank:05d}.json", json.dumps(message).encode())


def first_error(folder: Path) -> str | None:
    """What the first failing task said, if one failed."""
    paths = sorted((folder / "errors").glob("*.json"))
    return json.loads(paths[0].read_bytes()) if paths else None


def _describe(error: BaseException, folder: Path, rank: int | None = None) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        place = f" ({error.filename})" if error.filename else f" (below {folder})"
        return f"no space left on the disk{place}; make room and start the same command again: finished tasks are kept"
    if isinstance(error, ValueError) and type(error) is not ValueError:
        return str(error)  # one of ours: place, value, remedy
    log = folder / ("console.log" if rank is None else f"logs/task_{rank:05d}.log")
    return f"{'the work' if rank is None else f'task {rank}'} failed with {type(error).__name__}: {error}; the whole story is in {log}"


# ---- processes ----


@contextlib.contextmanager
def _noise_to(path: Path) -> Iterator[TextIO]:
    """Everything this process and its workers print to stderr goes to a file; yields the true stderr for the progress."""
    from datatrove.utils.logging import setup_default_logger

    sys.stderr.flush()
    with open(path, "a") as log, os.fdopen(os.dup(2), "w") as stderr:
        os.dup2(log.fileno(), 2)
        try:
            with contextlib.redirect_stderr(log):
                setup_default_logger()
                yield stderr
        finally:
            os.dup2(stderr.fileno(), 2)
            setup_default_logger()


@contextlib.contextmanager
def _watch(step: TaskStep, sizes: Sequence[int], unit: str, label: str, stderr: TextIO) -> Iterator[None]:
    """A thread that shows the progress and, on this machine, notices a killed worker: the pool itself would wait for ever."""
    folder, stop = Path(step.folder), threading.Event()

    def look() -> None:
        dead_before: set[int] = set()
        with Progress(label, sum(sizes), unit=unit, stream=stderr) as progress:
            while True:
                ended = stop.wait(1)
                done = _finished(folder)
                progress.show(sum(sizes[k] for k in done))
                if ended:
                    return
                dead = _dead(folder) - done if step.executor == "local" else set()
                if (lost := dead & dead_before) and first_error(folder) is None:
                    _write_error(
                        folder, min(lost), f"task {min(lost)}: its worker was killed, as happens when memory runs out; try fewer --workers"
                    )
                    os.kill(os.getpid(), signal.SIGINT)
                    return
                dead_before = dead

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _dead(folder: Path) -> set[int]:
    """Tasks whose process is gone."""
    dead = set()
    for marker in (folder / "running").iterdir():
        pid = marker.read_text()
        if pid and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
            dead.add(int(marker.name))
    return dead


@functools.cache
def _end_with(front: int) -> None:
    """A worker ends at once when the command is gone, as after kill -9; a pool's worker by itself would finish its task first."""

    def watch() -> None:
        while True:
            time.sleep(0.3)
            try:
                os.kill(front, 0)
            except ProcessLookupError:
                os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _after_fork() -> None:
    """datatrove's local executor forks a helper that would outlive a killed command for ever (Linux)."""
    if _front_pid and sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
