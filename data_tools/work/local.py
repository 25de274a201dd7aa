"""Tasks on this machine's cores: datatrove's pool, and no process of it left when the command is killed."""

import ctypes
import os
import signal
import sys

from data_tools.work.task_step import TaskStep

_front_pid = 0  # this process, while it runs tasks
_hooked = False


def run(step: TaskStep, count: int, workers: int) -> None:
    """Run the step's unfinished tasks."""
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
    except BaseException:
        for worker in multiprocess.active_children():  # a pool that was left in its wait leaves them behind
            worker.kill()
        raise
    finally:
        _front_pid = 0


def _after_fork() -> None:
    """datatrove's local executor forks a helper that would outlive a killed command for ever (Linux)."""
    if _front_pid and sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
