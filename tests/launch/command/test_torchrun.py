"""What torchrun says of ranks that failed is a line, its exit code what it was; real torchrun, ranks that end as they are told."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.made import processes
from tests.made.where import ROOT

pytestmark = pytest.mark.slow
RANK = """
import os, signal, sys, time
how = sys.argv[1 + int(os.environ["RANK"])]
signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a shell may have it ignored
if how == "wait":
    os.write(1, b"waits\\n")  # whole: both ranks write to one pipe
    time.sleep(60)
os.kill(os.getpid(), signal.SIGKILL) if how == "die" else sys.exit(int(how))
"""


def started(folder: Path, *ranks: str) -> subprocess.Popen:
    """torchrun on ranks that end so; the plug-in is described beside it as an installation does."""
    described = folder / "described-0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: described\nVersion: 0\n")
    (described / "entry_points.txt").write_text("[torchrun.logs_specs]\nastrollama = launch.command.torchrun:Brief\n")
    (folder / "rank.py").write_text(RANK)
    torchrun = [Path(sys.executable).parent / "torchrun", "--nproc-per-node", len(ranks), "--master-port", processes.free_port()]
    env = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
    return processes.start([*torchrun, "--logs-specs", "astrollama", folder / "rank.py", *ranks], env=env)


def test_failed_ranks_are_a_line_each_way_and_the_exit_code_stays(tmp_path):
    process = started(tmp_path, "0", "die")
    said = process.communicate(timeout=100)[1]
    assert process.returncode == 1
    assert said.splitlines()[-1] == "torchrun: rank 1 failed first here (killed by SIGKILL)" and len(said.splitlines()) <= 4, said


def test_a_torchrun_that_is_told_to_end_says_so_in_a_line(tmp_path):
    process = started(tmp_path, "wait", "wait")
    assert [process.stdout.readline() for _ in range(2)] == ["waits\n"] * 2
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=100)[1]
    assert process.returncode == 1
    assert said.splitlines()[-1] == "torchrun: ended by SIGTERM" and len(said.splitlines()) <= 4, said
