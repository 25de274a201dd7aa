"""Real ranks over gloo, one of which does what ranks do: every rank ends soon, and one report names it."""

import contextlib
import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.made import processes, ranks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
HANG = 6


class ShardError(ValueError):
    """As the project's own errors are: their module says so."""


ShardError.__module__ = "data_tools.shards.reader"


def deadlock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def refuse() -> None:
    raise ShardError("shards/00003.arrow: changed while the run read it; copy it again")


def fail() -> None:
    raise TypeError("unsupported operand")


def limited_memory() -> Path | None:
    """A group of processes with little memory, where one can be made here (Linux, root)."""
    for root, name in ((Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"), (Path("/sys/fs/cgroup"), "memory.max")):
        group = root / f"astrollama_test_{os.getpid()}"
        with contextlib.suppress(OSError):
            group.mkdir()
            if (group / name).exists():
                (group / name).write_text(str(64 << 20))
                for swap in ("memory.swap.max", "memory.swappiness"):
                    if (group / swap).exists():
                        (group / swap).write_text("0")
                return group
        with contextlib.suppress(OSError):
            group.rmdir()
    return None


def use_up_memory() -> None:
    """Until the kernel ends this process."""
    if group := limited_memory():
        (group / "cgroup.procs").write_text(str(os.getpid()))
        held = [bytearray(1 << 20) for _ in range(512)]
        held.clear()
    os.kill(os.getpid(), signal.SIGKILL)


def may_limit_memory() -> bool:
    if group := limited_memory():
        group.rmdir()
    return group is not None


DOES = {
    "raises": (fail, "raised", "TypeError: unsupported operand (tests/train/guard/watch/test_watcher.py"),
    "refuses": (refuse, "raised", "shards/00003.arrow: changed while the run read it; copy it again"),
    "exits": (lambda: os._exit(0), "exited", "ended with exit code 0 before the run did"),
    "leaves": (lambda: exit(0), "raised", "asked to exit with 0 from within"),
    "dies": (lambda: os.kill(os.getpid(), signal.SIGKILL), "killed", "killed by SIGKILL"),
    "uses up memory": (use_up_memory, "killed", "killed by SIGKILL, out of memory" if may_limit_memory() else "killed by SIGKILL"),
    "stops": (lambda: os.kill(os.getpid(), signal.SIGSTOP), "stopped", "stopped by a signal"),
    "hangs": (deadlock, "stuck", "in deadlock"),
}
KERNELS = "uses up memory"  # which limits the memory of a group of processes: not beside all other tests
CASES = [(does, k % 2) for k, does in enumerate(does for does in DOES if does != KERNELS)] + [("dies", 1), ("hangs", 1)]
assert len(set(CASES)) == len(CASES)


def train(world, folder: Path, guilty: int, does: str) -> None:
    """Five good steps, then the fault; what the ranks print goes to `screen`."""
    import sys

    from data_tools.work.errors import message
    from train.guard.watch.heartbeat import watched
    from train.world.output import lasting

    screen = os.open(folder / "screen", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(screen, 2)
    sys.stderr = os.fdopen(os.dup(screen), "w", buffering=1)
    sys.argv = ["launch/pretrain.py", "recipe.yaml", "checkpoint.to=s3://KEY:canary-in-a-url@bucket/x"]
    with lasting(), watched(world, folder / "runs" / "tiny", HANG, 600, message), world.beat.failing():
        world.beat.phase("opening")
        for step in range(1, 7):
            world.beat.at_step(step)
            world.beat.documents([f"papers/{world.rank}-{step}"], 1)
            world.beat.phase("forward")
            time.sleep(0.4)
            if step == 6 and world.rank == guilty:
                DOES[does][0]()
            world.beat.phase("backward")
            world.barrier()
            world.beat.checkpoint(f"checkpoints/step_{step:06d}")


def ended(folder: Path, does: str, guilty: int) -> tuple[list[int], float]:
    folder.mkdir()
    codes = ranks.exit_codes(train, 2, folder, guilty, does, seconds=200)
    for group in (g for root in ("/sys/fs/cgroup/memory", "/sys/fs/cgroup") for g in Path(root).glob("astrollama_test_*")):
        with contextlib.suppress(OSError):
            group.rmdir()
    return codes, time.time()


@pytest.fixture(scope="module")
def all_ended(tmp_path_factory) -> dict:
    """Every fault, two processes each, several at once: they wait more than they work."""
    ground = tmp_path_factory.mktemp("faults")
    ranks.start_server()
    with ThreadPoolExecutor(4) as pool:
        ran = pool.map(lambda case: ended(ground / "_".join(map(str, case)), *case), CASES)
        return {case: (ground / "_".join(map(str, case)), *result) for case, result in zip(CASES, ran, strict=True)}


@pytest.mark.parametrize(("does", "guilty"), CASES)
def test_all_ranks_end_and_one_report_names_who_did_not_arrive(all_ended, does, guilty):
    check(*all_ended[does, guilty], does, guilty)


@pytest.mark.soak
def test_a_rank_that_the_kernel_ends_for_want_of_memory_is_named_so(tmp_path):
    ranks.start_server()
    check(tmp_path / "x", *ended(tmp_path / "x", KERNELS, 1), KERNELS, 1)


def check(folder: Path, codes: list[int], at: float, does: str, guilty: int) -> None:
    _, kind, cause = DOES[does]
    [file] = (folder / "runs" / "tiny" / "faults").glob("*.json")
    report = json.loads(file.read_text())
    found = {k: report[k] for k in ("rank", "ranks", "host", "step", "phase", "kind", "documents", "checkpoint")}
    assert found == {
        "rank": guilty, "ranks": [guilty], "host": os.uname().nodename, "step": 6, "phase": "forward", "kind": kind,
        "documents": [f"papers/{guilty}-6"], "checkpoint": "checkpoints/step_000005",
    }  # fmt: skip
    assert cause in report["cause"], report["cause"]
    assert all(codes), codes
    assert at - report["time"] < 30, "the ranks outlived the report"
    screen = (folder / "screen").read_text()
    assert "Traceback" not in screen and len(screen.splitlines()) <= 12, screen
    assert screen.count("fault: ") == 1 and f"fault: rank {guilty} on " in screen and str(file.name) in screen
    assert "canary" not in screen and "canary" not in file.read_text() and "s3://***@bucket/x" in screen
    notes = (folder / "runs" / "tiny" / "faults" / report["attempt"] / f"rank_{1 - guilty:05d}.txt").read_text()
    assert "in barrier" in notes, "the stack or the traceback of the rank that waited"


def finish(world, folder: Path) -> int:
    from data_tools.work.errors import message
    from train.guard.watch.heartbeat import watched

    with watched(world, folder, HANG, 600, message):
        world.beat.phase("opening")
        world.beat.at_step(1)
        time.sleep(0.5 if world.rank else 7)  # one is waited for, and at work for all that its watcher can tell
        world.barrier()
        beat = json.loads((folder / "heartbeats" / f"rank_{world.rank:05d}.json").read_text())
        assert beat["rank"] == world.rank and beat["step"] == 1 and time.time() - beat["time"] < 60
    return os.getpid()


def test_a_run_that_ends_well_leaves_no_watcher_heartbeat_or_notes_and_a_slow_first_step_is_no_fault(tmp_path):
    import psutil

    pids = ranks.run_ranks(finish, 2, tmp_path / "tiny")
    assert not (tmp_path / "tiny").exists() or not list((tmp_path / "tiny").rglob("*"))
    left = [p for p in psutil.process_iter(["cmdline"]) if "train.guard.watch.watcher" in (p.info["cmdline"] or [])]
    assert not [p for p in left if p.ppid() in pids]


def run_out(world, folder: Path) -> None:
    """A start that its time limit ends, on all ranks, with a checkpoint of the run's before."""
    from train.guard.limits import Limits
    from train.guard.outcome import Record
    from train.guard.signals import Stops
    from train.guard.watch.heartbeat import watched

    screen = os.open(folder.with_name("screen"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(screen, 2)
    stops = Stops()
    stops.listen()
    with watched(world, folder, HANG, 600, str):
        stops.join(world)
        world.beat.phase("opening")
        stops.record = Record(folder, world)
        stops.record.checkpoint = "step_000005"
        processes.wait_until((folder / "heartbeats" / f"rank_{world.rank:05d}.json").is_file)
        world.barrier()
        stops.limits = Limits(ends=(("guard.minutes=1", 0.0),))
        deadlock()


def test_a_time_limit_that_ends_a_start_is_a_failure_and_no_fault_of_a_rank(tmp_path):
    assert ranks.exit_codes(run_out, 2, tmp_path / "tiny", seconds=100) == [1, 1]
    reports = lambda: list(tmp_path.rglob("faults/*.json"))  # noqa: E731
    processes.wait_until(lambda: reports() or not list(tmp_path.rglob("rank_*.json")))  # the watchers have ended, too
    assert not reports() and "fault: " not in (tmp_path / "screen").read_text()
    told = json.loads((tmp_path / "tiny" / "outcome.json").read_text())
    assert (told["ended"], told["checkpoint"]) == ("failed", "step_000005")
    assert told["cause"] == "guard.minutes=1 was over before the first step: give it more time; step_000005 stands"
