"""Settings every test shares: CPU accelerator, no network, quiet libraries; and an end, signals and marks for what tests start."""

import os
import signal
import time

import pytest

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # else who asks for a GPU before ranks are forked keeps it from them
os.environ.setdefault("OMP_NUM_THREADS", "1")  # models 48 wide: two threads only wait for each other, for minutes on a busy machine

from tests.made import processes, ranks

# What the harness ignores (a script's background job SIGINT, nohup SIGHUP) this process goes on to ignore, but by a handler:
# handlers end at exec, so what tests start has the signals of a command typed at a terminal.
for _signal in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
    if signal.getsignal(_signal) is signal.SIG_IGN:
        signal.signal(_signal, lambda number, frame: None)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})


def pytest_collection_modifyitems(config, items):
    for item in items:
        if item.get_closest_marker("soak") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(1800))
    if hasattr(config, "workerinput"):  # `-n 2`: files with slow tests begin, lest one core waits for the last of them
        files = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in files)


def pytest_collection_finish(session):
    """What DeepSpeed compiles at its first start is compiled before the first test and its clock."""
    if _with_ranks(session) and not session.config.option.collectonly:
        ranks.compile_ops()


@pytest.fixture(scope="session", autouse=True)
def _server_of_ranks(request):
    """It imports while the first tests run; started in a fixture, what its ranks say is caught with their test."""
    if _with_ranks(request.session):
        ranks.start_server()


def _with_ranks(session) -> bool:
    return any("run_ranks" in vars(item.module) for item in session.items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Only tests marked slow may start commands or ranks: `make check` leaves them out by that mark."""
    processes.allowed = bool(item.get_closest_marker("slow") or item.get_closest_marker("soak"))
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup():
    """A fixture that fails or runs out of time leaves no process behind."""
    return (yield from _ending_what_was_started())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    """A test that fails or runs out of time leaves no process behind."""
    return (yield from _ending_what_was_started())


def _ending_what_was_started():
    began = time.clock_gettime(time.CLOCK_BOOTTIME)
    try:
        return (yield)
    except BaseException:
        processes.end_children_since(began)
        raise
