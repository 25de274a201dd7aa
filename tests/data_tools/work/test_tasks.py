"""Tasks in other processes: each done once, kept after a kill, and a failure told in one message."""

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from data_tools.prepare import main as prepare
from data_tools.work.ledger import WorkError
from data_tools.work.progress import Progress
from data_tools.work.tasks import Runner, run_tasks
from tests.made import processes


def square(task: dict[str, Any]) -> int:
    """A task's work: leave a trace of having run, then do what the task says."""
    with open(task["trace"], "a") as trace:
        trace.write(f"{task['n']}\n")
    time.sleep(task.get("seconds", 0))
    if task.get("fault") and not Path(task["trace"]).with_name("mended").exists():
        FAULTS[task["fault"]]()
    return task["n"] ** 2


def _no_space() -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "/data/part")


def _crash() -> None:
    raise RuntimeError("boom")


def _user_error() -> None:
    raise WorkError("papers.tar: member 7 is a device; take it out")


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


FAULTS = {"no space": _no_space, "crash": _crash, "user": _user_error, "die": _die}


def tasks_for(tmp_path: Path, count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"n": n, "trace": str(tmp_path / "trace"), **more} for n in range(count)]


def trace(tmp_path: Path) -> list[int]:
    return [int(line) for line in (tmp_path / "trace").read_text().split()]


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_the_order_of_the_tasks_whatever_the_workers(tmp_path: Path, workers: int) -> None:
    assert run_tasks(square, tasks_for(tmp_path, 7), tmp_path / "work", Runner(workers=workers)) == [n**2 for n in range(7)]
    assert sorted(trace(tmp_path)) == list(range(7))


def test_a_finished_task_is_not_run_again(tmp_path: Path) -> None:
    for _ in range(2):
        assert run_tasks(square, tasks_for(tmp_path, 3), tmp_path / "work", Runner(workers=1)) == [0, 1, 4]
    assert trace(tmp_path) == [0, 1, 2]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("crash", r"task 2 failed with RuntimeError: boom; the whole story is in .*task_00002.log"),
        ("no space", r"no space left on the disk \(/data/part\); make room and start the same command again"),
        ("user", r"^papers.tar: member 7 is a device; take it out$"),
        ("die", r"task 2: its worker was killed.*fewer --workers"),
    ],
)
def test_a_failure_is_one_message_and_the_next_start_does_only_the_rest(tmp_path: Path, fault: str, message: str) -> None:
    tasks = tasks_for(tmp_path, 4)
    tasks[2]["fault"] = fault
    with pytest.raises(WorkError, match=message):
        run_tasks(square, tasks, tmp_path / "work", Runner(workers=2))
    (tmp_path / "mended").touch()
    assert run_tasks(square, tasks, tmp_path / "work", Runner(workers=2)) == [0, 1, 4, 9]
    assert trace(tmp_path).count(0) == 1


@pytest.mark.slow
def test_a_killed_worker_is_told_in_a_background_job_too(tmp_path: Path) -> None:
    """A script's `command &` ignores SIGINT: what ends the wait for a dead worker must not be that."""
    tasks = tasks_for(tmp_path, 3)
    tasks[1]["fault"] = "die"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(WorkError, match="task 1: its worker was killed"):
            run_tasks(square, tasks, tmp_path / "work", Runner(workers=2))
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_tasks_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    run_tasks(square, tasks_for(tmp_path, 2), tmp_path / "work", Runner(workers=1))
    with pytest.raises(WorkError, match="holds the work on other tasks"):
        run_tasks(square, tasks_for(tmp_path, 3), tmp_path / "work", Runner(workers=1))


def test_a_marker_without_its_result_counts_for_nothing(tmp_path: Path) -> None:
    run_tasks(square, tasks_for(tmp_path, 2), tmp_path / "work", Runner(workers=1))
    (tmp_path / "work" / "results" / "00001.json").unlink()
    assert run_tasks(square, tasks_for(tmp_path, 2), tmp_path / "work", Runner(workers=1)) == [0, 1]
    assert trace(tmp_path) == [0, 1, 1]


def test_no_task_is_no_work(tmp_path: Path) -> None:
    assert run_tasks(square, [], tmp_path / "work", Runner(workers=2)) == []


FRONT = """
import sys
from pathlib import Path
from data_tools.work.tasks import Runner, run_tasks
from tests.data_tools.work.test_tasks import square, tasks_for
if __name__ == "__main__":
    path, count, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    print(run_tasks(square, tasks_for(path, count, seconds=seconds), path / "work", Runner(workers=2)))
"""


def front(tmp_path: Path, count: int, seconds: float) -> subprocess.Popen:
    """The command, in a process group of its own."""
    command = [sys.executable, "-c", FRONT, str(tmp_path), str(count), str(seconds)]
    return processes.start(command)


def results(tmp_path: Path) -> set[int]:
    return {int(path.stem) for path in (tmp_path / "work" / "results").glob("*.json")}


def group_members(group: int) -> list[str]:
    """Living processes of the group, by name."""
    members = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, rest = path.read_text().split("(", 1)[1].rsplit(")", 1)
            if int(rest.split()[2]) == group and rest.split()[0] != "Z":
                members.append(name)
    return members


@pytest.mark.slow
def test_a_kill_loses_no_finished_task(tmp_path: Path) -> None:
    for _ in range(2):
        begun, process = results(tmp_path), front(tmp_path, 30, 0.1)
        processes.wait_until(lambda begun=begun: results(tmp_path) > begun)
        time.sleep(random.Random(len(begun)).random() / 5)
        process.kill()
        process.wait(processes.SECONDS)
    processes.wait_until(lambda process=process: not group_members(process.pid))
    done = {k for k in results(tmp_path) if (tmp_path / f"work/completions/{k:05d}").exists()}
    before = trace(tmp_path)
    assert done and len(done) < 30
    out, err = front(tmp_path, 30, 0).communicate(timeout=60)
    assert "holds the work on other tasks" in err  # the same tasks, or none
    out, err = front(tmp_path, 30, 0.1).communicate(timeout=60)
    assert out.strip() == str([n**2 for n in range(30)]), err
    assert sorted(trace(tmp_path)[len(before) :]) == sorted(set(range(30)) - done)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="workers are tied to the command on Linux only")
def test_a_kill_leaves_no_process_behind(tmp_path: Path) -> None:
    process = front(tmp_path, 2, 30)
    processes.wait_until(lambda: (tmp_path / "trace").exists() and len(trace(tmp_path)) == 2)
    assert len(group_members(process.pid)) > 3
    process.kill()
    process.wait(processes.SECONDS)
    processes.wait_until(lambda: not group_members(process.pid), seconds=10)


def test_slurm_and_ray_say_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(WorkError, match="no sbatch on this machine"):
        run_tasks(square, tasks_for(tmp_path, 1), tmp_path / "slurm", Runner(workers=1, executor="slurm"))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(WorkError, match="pip install ray"):
        run_tasks(square, tasks_for(tmp_path, 1), tmp_path / "ray", Runner(workers=1, executor="ray"))


def test_the_time_left_is_reckoned_from_this_runs_own_speed() -> None:
    progress = Progress("encode", 100)
    progress.show(40)
    assert progress.line(40, 60) == "encode: 40 of 100 after 1:00, time left not known yet"
    assert progress.line(60, 120) == "encode: 60 of 100 after 2:00, about 4:00 left"
    assert Progress("read", 9_000_000, unit="B").line(3_000_000, 3600) == "read: 3.0 MB of 9.0 MB after 1:00:00, about 2:00:00 left"


# ---- a real SLURM on this machine ----


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """munged, slurmctld and slurmd of this machine, all their files in tmp_path."""
    if missing := [program for program in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(program) is None]:
        pytest.skip(f"no {missing[0]} here: apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        pytest.skip("SLURM's daemons start jobs as root only")
    room = Path(tempfile.mkdtemp(prefix="slurm"))  # a socket's path must be short
    (room / "key").write_bytes(os.urandom(128))
    (room / "key").chmod(0o400)
    for name in ("state", "spool"):
        (room / name).mkdir()
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("", 0))
            ports.append(free.getsockname()[1])
    (room / "slurm.conf").write_text(SLURM_CONF.format(room=room, host=socket.gethostname(), ports=ports, cpus=os.cpu_count()))
    monkeypatch.setenv("SLURM_CONF", str(room / "slurm.conf"))
    munge = ["munged", "--foreground", "--force", f"--key-file={room}/key", f"--socket={room}/munge", f"--pid-file={room}/munge.pid"]
    commands = [[*munge, f"--log-file={room}/munge.log", f"--seed-file={room}/seed"], ["slurmctld", "-D"], ["slurmd", "-D"]]
    daemons = []
    for command in commands:
        log = open(room / f"{command[0]}.out", "w")
        daemons.append(processes.start(command, stdout=log, stderr=log))
        time.sleep(1)
    try:
        processes.wait_until(lambda: "idle" in processes.run(["sinfo", "--noheader", "-o", "%T"]).stdout, seconds=60)
    except AssertionError:
        pytest.fail("\n".join(path.read_text() for path in room.glob("*.out")))
    yield
    for daemon in daemons[::-1]:
        processes.end(daemon, signal.SIGTERM)
    shutil.rmtree(room, ignore_errors=True)


SLURM_CONF = """ClusterName=test
SlurmctldHost={host}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={room}/munge
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
StateSaveLocation={room}/state
SlurmdSpoolDir={room}/spool
SlurmctldPidFile={room}/slurmctld.pid
SlurmdPidFile={room}/slurmd.pid
SlurmctldLogFile={room}/slurmctld.log
SlurmdLogFile={room}/slurmd.log
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ReturnToService=2
NodeName={host} CPUs={cpus} RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@pytest.mark.soak
def test_slurm_runs_the_same_tasks_and_tells_the_same_failure(tmp_path: Path, slurm: None) -> None:
    runner = Runner(2, "slurm", {"time": "00:05:00", "mem-per-cpu": "100M"})
    assert run_tasks(square, tasks_for(tmp_path, 5), tmp_path / "work", runner) == [n**2 for n in range(5)]
    with pytest.raises(WorkError, match="sbatch refused the job .*nowhere"):
        run_tasks(square, tasks_for(tmp_path, 1), tmp_path / "refused", Runner(2, "slurm", {"partition": "nowhere"}))
    tasks = tasks_for(tmp_path, 4, seconds=0.1)
    tasks[1]["fault"] = "user"
    with pytest.raises(WorkError, match="papers.tar: member 7 is a device; take it out"):
        run_tasks(square, tasks, tmp_path / "faulty", runner)
    (tmp_path / "mended").touch()
    assert run_tasks(square, tasks, tmp_path / "faulty", runner) == [0, 1, 4, 9]


@pytest.mark.soak
def test_slurm_makes_the_shards_of_local_cores(tmp_path: Path, slurm: None) -> None:
    (tmp_path / "text").write_text("the galaxy cluster\nof old red stars\n" * 50)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"), model_prefix=str(tmp_path / "tokenizer"), vocab_size=40, hard_vocab_limit=False, minloglevel=2
    )
    for k in range(3):
        (tmp_path / f"{k}.jsonl").write_text("".join(json.dumps({"id": f"{k}-{n}", "text": f"old stars {n}"}) + "\n" for n in range(50)))
    made = []
    for executor in ("local", "slurm"):
        words = [
            "corpus",
            *(str(tmp_path / f"{k}.jsonl") for k in range(3)),
            "--tokenizer",
            str(tmp_path),
            "--out",
            str(tmp_path / executor),
        ]
        assert prepare([*words, "--executor", executor, "--workers", "2", "--slurm", "time=00:05:00", "--slurm", "mem-per-cpu=100M"]) == 0
        made.append({path.name: path.read_bytes() for path in (tmp_path / executor).iterdir()})
    assert made[0] == made[1] and sorted(made[0]) == ["00000.arrow", "manifest.json"]
