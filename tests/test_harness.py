"""What the tests rest on: what they start hears signals, ends with them, and is started by marked tests only (conftest.py, made/)."""

import os
import sys
import time

import psutil
import pytest

from tests.made import processes
from tests.made.ranks import RankFailed, run_ranks

pytestmark = pytest.mark.slow

IGNORED = "import signal; print([s.name for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) is signal.SIG_IGN])"
START = f"import sys, tests.conftest; from tests.made import processes; print(processes.run([sys.executable, '-c', {IGNORED!r}]).stdout)"


def test_where_signals_are_ignored_what_a_test_starts_hears_them():
    background = ["sh", "-c", "trap '' INT TERM HUP; exec \"$@\"", "sh", sys.executable, "-c"]
    assert processes.run([*background, IGNORED]).stdout.strip() == "['SIGINT', 'SIGTERM', 'SIGHUP']"
    assert processes.run([*background, START]).stdout.strip() == "[]"


TESTS = """
from pathlib import Path
import pytest
from tests.made import processes

@pytest.mark.slow
def test_that_hangs():
    child = processes.start(["sh", "-c", "sleep 1000 & wait"])
    Path(__file__).with_name("group").write_text(str(child.pid))
    child.wait()

def test_without_the_mark():
    processes.run(["true"])

def test_after_them():
    pass
"""


def test_a_test_that_hangs_is_ended_with_all_it_started_and_an_unmarked_one_starts_nothing(tmp_path):
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  slow\n  soak\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
        "--timeout",
        "2",
        tmp_path / "test_some.py",
    ]
    done = processes.run(command, env=os.environ | {"PYTHONPATH": str(processes.ROOT)})
    assert "Timeout (>2.0s)" in done.stdout and "2 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "starts a command or ranks: mark it `slow`" in done.stdout
    group = int((tmp_path / "group").read_text())
    processes.wait_until(lambda: not members(group), seconds=10)


def members(group: int) -> list[int]:
    found = []
    for process in psutil.process_iter(["status"]):
        try:
            found += [process.pid] if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE else []
        except ProcessLookupError:
            continue
    return found


def sleeping(world, folder) -> None:
    (folder / str(os.getpid())).touch()
    if world.rank == 1:
        time.sleep(1000)


def test_ranks_that_hang_are_named_and_killed(tmp_path):
    with pytest.raises(RankFailed, match=r"ranks \[0, 1\] did not end within 5 s|ranks \[1\] did not end within 5 s"):
        run_ranks(sleeping, 2, tmp_path, seconds=5)
    assert not [pid for pid in map(int, os.listdir(tmp_path)) if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
