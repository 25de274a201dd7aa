"""Tasks as SLURM job arrays: submit from the login node, wait, and say which task failed."""

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from datatrove.executor.slurm import SlurmPipelineExecutor

from data_tools.work.ledger import WorkError, finished, first_error
from data_tools.work.task_step import TaskStep

ARRAY_JOBS = 1000  # SLURM's default refuses arrays of more than 1001
SECONDS_BETWEEN_LOOKS = 3


class Executor(SlurmPipelineExecutor):
    def launch_merge_stats(self) -> None:
        """Not wanted: a second job, which waits for ever when the first one fails."""

    def get_sbatch_args(self, max_array: int = 1) -> dict[str, Any]:
        options = super().get_sbatch_args(max_array)
        return {key: value for key, value in options.items() if value != "" or key == "requeue"}


def run(step: TaskStep, count: int, workers: int, options: dict[str, str]) -> None:
    """Run the step's unfinished tasks; options: sbatch's, by their long names."""
    if shutil.which("sbatch") is None:
        raise WorkError("--executor slurm: no sbatch on this machine; start it on the cluster's login node, or use --executor local")
    folder, options = Path(step.folder), dict(options)
    executor = Executor(
        [step],
        tasks=count,
        workers=workers,
        tasks_per_job=-(-count // ARRAY_JOBS),
        partition=options.pop("partition", ""),
        time=options.pop("time", "24:00:00"),
        qos=options.pop("qos", ""),
        job_name=options.pop("job-name", f"prepare-{folder.name}"),
        sbatch_args=options,
        env_command=f"export PATH={Path(sys.executable).parent}:$PATH PYTHONPATH={':'.join(step.search_path)}",
        logging_dir=step.folder,
    )
    try:
        executor.run()
    except subprocess.CalledProcessError as error:
        said = [line for line in (folder / "console.log").read_text().splitlines() if line.startswith("sbatch:")]
        raise WorkError(f"sbatch refused the job ({' '.join(said) or error}); give what it wants with --slurm KEY=VALUE") from error
    try:
        _wait(str(executor.job_id), folder, count)
    except BaseException:
        subprocess.run(["scancel", str(executor.job_id)], check=False)
        raise


def _wait(job: str, folder: Path, count: int) -> None:
    looks_without_job = 0
    while len(finished(folder)) < count:
        if (message := first_error(folder)) is not None:
            raise WorkError(message)
        queue = subprocess.run(["squeue", "--noheader", "--jobs", job], capture_output=True, text=True)
        # a shared disk may show the last marker some seconds after the job is gone
        looks_without_job = 0 if queue.returncode == 0 and queue.stdout.strip() else looks_without_job + 1
        if looks_without_job > 10:
            missing = sorted(set(range(count)) - finished(folder))
            raise WorkError(
                f"SLURM job {job} ended without task {missing[0]} ({len(missing)} in all); see {folder}/slurm_logs, then start again"
            )
        time.sleep(SECONDS_BETWEEN_LOOKS)
