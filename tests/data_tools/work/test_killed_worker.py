"""A worker killed at work or while it waits, under a script that ignores SIGINT, without a terminal: one message, or the results."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_tools.work import watch
from tests.made import processes

FRONT = """
import sys
from pathlib import Path
from data_tools.prepare import call
from data_tools.work import watch
from data_tools.work.tasks import Runner, run_tasks
from tests.data_tools.work.test_tasks import square
watch.PATIENCE = 3
if __name__ == "__main__":
    place = Path(sys.argv[1])
    tasks = [{"n": n, "trace": str(place / "trace"), "seconds": seconds} for n, seconds in enumerate([0.1, float(sys.argv[2])])]
    sys.exit(call(lambda _: print(run_tasks(square, tasks, place / "work", Runner(workers=2))), None))
"""


def front(place: Path, seconds: float) -> subprocess.Popen:
    """The command as a script's `command &` starts it: SIGINT ignored, stdin and stdout no terminal."""
    script = f'trap "" INT; exec "{sys.executable}" -c "$0" "$@"'
    return processes.start(["bash", "-c", script, FRONT, place, seconds])


def kill_worker_of(place: Path, task: int, process: subprocess.Popen) -> None:
    marker = place / "work" / "running" / f"{task:05d}"
    processes.wait_until(lambda: marker.exists() and marker.read_text(), process)
    os.kill(int(marker.read_text()), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a dead worker is seen in /proc")
def test_a_worker_killed_at_work_ends_the_command_with_one_message_and_it_goes_on_again(tmp_path: Path) -> None:
    process = front(tmp_path, 8)
    processes.wait_until((tmp_path / "work" / "completions" / "00000").exists, process)
    kill_worker_of(tmp_path, 1, process)
    begun = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1 and time.monotonic() - begun < 45
    assert said == "error: task 1: its worker was killed, as happens when memory runs out; try fewer --workers\n"
    out, said = front(tmp_path, 8).communicate(timeout=60)
    assert out == "[0, 1]\n", said
    assert (tmp_path / "trace").read_text().split().count("0") == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a dead worker is seen in /proc")
def test_a_worker_killed_while_it_waits_for_work_loses_nothing(tmp_path: Path) -> None:
    process = front(tmp_path, 3)
    processes.wait_until((tmp_path / "work" / "completions" / "00000").exists, process)
    time.sleep(0.5)  # now it waits, and holds the pool's lock: nobody could end the pool
    kill_worker_of(tmp_path, 0, process)
    out, said = process.communicate(timeout=60)
    assert process.returncode == 0 and out == "[0, 1]\n", said


def test_only_a_wait_without_anybody_at_work_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("running", "errors"):
        (tmp_path / name).mkdir()
    now = [0.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    quiet = watch._Quiet(tmp_path, 2)

    def after(seconds: float, done: set[int]) -> bool:
        now[0] += seconds
        return quiet.is_over(done)

    assert not after(1000, set())  # nobody has begun: the pool is still starting
    (tmp_path / "running" / "00000").write_text(str(os.getpid()))
    assert not after(1000, set()) and not after(1000, {0})  # at work, then between two tasks
    (tmp_path / "running" / "00001").write_text("999999999")
    assert not after(1, {0}) and after(1, {0})
    assert watch.first_error(tmp_path).startswith("task 1: its worker was killed")
