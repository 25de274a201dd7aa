"""Settings every test shares: CPU accelerator, no network, quiet libraries; signals and an end for whatever tests start."""

import os
import signal
import time

import pytest

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

# What the harness ignores (a script's background job SIGINT, nohup SIGHUP) this process goes on to ignore, but by a handler:
# handlers end at exec, so what tests start has the signals of a command typed at a terminal.
for _signal in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
    if signal.getsignal(_signal) is signal.SIG_IGN:
        signal.signal(_signal, lambda number, frame: None)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup():
    """A fixture that fails or runs out of time leaves no process behind."""
    return (yield from _ending_what_was_started())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    """A test that fails or runs out of time leaves no process behind."""
    return (yield from _ending_what_was_started())


def _ending_what_was_started():
    began = time.time()
    try:
        return (yield)
    except BaseException:
        import psutil

        for child in psutil.Process().children(recursive=True):
            if child.create_time() >= began - 0.02:  # it is told in hundredths
                child.kill()
        raise
