"""A process ends with the code it means to end with, and with all that it has started."""

import sys

import psutil
import pytest

from tests.made import processes

pytestmark = pytest.mark.slow
BUILDING = """
import contextlib, os, signal, subprocess, sys, time
from train.guard.signals import Stops
stops = Stops()
stops.listen()
with stops.not_hidden():
    compiler = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    print(compiler.pid, flush=True)
    if compiler.wait():
        raise RuntimeError("Error building extension")
"""
CRASHING = """
import atexit, sys
from train.guard.parting import leave
class Engine:
    def __del__(self):
        import os
        os._exit(134)
engine = Engine()
atexit.register(print, "closed")
leave(75)
"""


def test_a_stopped_start_ends_its_compiler_and_says_nothing_of_it():
    process = processes.start([sys.executable, "-c", BUILDING])
    compiler = int(process.stdout.readline())
    process.terminate()
    _, said = process.communicate(timeout=processes.SECONDS)
    assert process.returncode == 75 and not psutil.pid_exists(compiler)
    assert "SIGTERM: stopped before the first step; there was nothing to save" in said and "Error" not in said


def test_a_teardown_that_crashes_does_not_change_the_code_of_a_run():
    done = processes.run([sys.executable, "-c", CRASHING])
    assert done.returncode == 75 and done.stdout == "closed\n"
