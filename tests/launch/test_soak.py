"""A long run under supervision with a fault every twenty seconds, of every kind, ends with the weights of the run without (`make soak`)."""

import collections
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.made import faulty, processes, tiny
from tests.made.small_disk import empty, fill, small_disk
from train.guard import outcome

pytestmark = [pytest.mark.soak, pytest.mark.slow, pytest.mark.timeout(5400)]
BIN = Path(sys.executable).parent
STEPS = int(os.environ.get("SOAK_STEPS", 2000))
EVERY = float(os.environ.get("SOAK_EVERY", 20))
SAVED, LIFE = 20, 140  # steps from a checkpoint to the next; that a start makes before its fault
PATIENCE = 300
RANKS = 2
WITHIN = 60  # seconds from a fault to the end of all ranks

# from outside: to whom, and the signal; what the report must call it, None where nothing failed
OUTSIDE = {
    "SIGKILL of a rank": ("rank", signal.SIGKILL, "killed"),
    "SIGSEGV of a rank": ("rank", signal.SIGSEGV, "killed"),
    "SIGSTOP of a rank": ("rank", signal.SIGSTOP, "stopped"),
    "SIGTERM to a rank": ("rank", signal.SIGTERM, None),
    "SIGUSR1 to a rank": ("rank", signal.SIGUSR1, None),
    "SIGKILL of its watcher": ("watcher", signal.SIGKILL, None),
    "SIGTERM to launch.py": ("launch.py", signal.SIGTERM, None),
    "SIGKILL of launch.py": ("launch.py", signal.SIGKILL, None),
    "SIGTERM to deepspeed": ("deepspeed", signal.SIGTERM, None),
    "SIGKILL of deepspeed": ("deepspeed", signal.SIGKILL, None),
    "SIGTERM to the supervisor": ("supervisor", signal.SIGTERM, None),
    "SIGKILL of the supervisor": ("supervisor", signal.SIGKILL, None),
}
# from within (tests/made/faulty.py): what is done, and in which phase
INSIDE = {
    "exception": ("raise", "backward", "raised"),
    "exit 0": ("exit", "optimizer", "raised"),
    "exit 0 at once": ("exit at once", "forward", "exited"),
    "out of memory": ("out of memory", "forward", "raised"),
    "deadlock": ("deadlock", "backward", "stuck"),
    "full disk": ("full disk", "", "raised"),
}
GOES_ON = {"SIGKILL of its watcher"}
EARLY = [name for name, (whom, _, _) in OUTSIDE.items() if whom in ("rank", "deepspeed", "launch.py") and "STOP" not in name]


@dataclass
class Soak:
    """The run, and whoever starts it again when its supervisor is gone: here a loop, elsewhere systemd or a person."""

    folder: Path
    log: Path
    supervisor: subprocess.Popen | None = None
    began: float = 0.0

    @property
    def run(self) -> Path:
        return self.folder / "runs" / "soak"

    @property
    def order(self) -> Path:
        return self.folder / "order"

    def start(self) -> None:
        command = [
            sys.executable, "launch/supervise.py", "--wait", 1, "--longest-wait", 10, "--", BIN / "deepspeed", "--num_gpus", RANKS, "--master_port",
            processes.free_port(), self.folder / "launch" / "pretrain.py", self.folder / "recipe.yaml", "name=soak",
        ]  # fmt: skip
        with self.log.open("a") as to:
            self.supervisor = processes.start(command, env=environment(), stdout=to, stderr=subprocess.STDOUT)

    def keep_alive(self) -> bool:
        """Whether the run goes on; a supervisor that was told to stop, or was killed, is started again."""
        code = self.supervisor.poll()
        if code is None:
            return True
        if code == 0:
            return False
        assert code in (75, -signal.SIGKILL), self.said()[-5000:]
        processes.wait_until(lambda: not self.ranks(), seconds=PATIENCE)
        self.start()
        return True

    def said(self) -> str:
        return self.log.read_text()

    def of_run(self, word: str) -> list[psutil.Process]:
        """Processes with the run's name and a word in their command line."""
        found = []
        for p in psutil.process_iter(["cmdline", "status"]):
            words = p.info["cmdline"] or []
            if "name=soak" in words and str(self.folder / "recipe.yaml") in words and any(w.endswith(word) for w in words[:6]):
                found += [p] if p.info["status"] != psutil.STATUS_ZOMBIE else []
        return found

    def ranks(self) -> dict[int, psutil.Process]:
        found = {}
        for p in self.of_run("launch/pretrain.py"):
            with contextlib.suppress(psutil.Error):
                if not set(p.info["cmdline"][:5]) & {"-m", "--", str(BIN / "deepspeed")}:
                    found[int(p.environ()["RANK"])] = p
        return found

    def process(self, whom: str, rank: int) -> psutil.Process | None:
        if whom == "rank":
            return self.ranks().get(rank)
        if whom == "watcher":
            return next((p for p in self.ranks()[rank].children() if "train.guard.watch.watcher" in p.cmdline()), None)
        if whom == "supervisor":
            return psutil.Process(self.supervisor.pid)
        launchers = self.of_run("deepspeed.launcher.launch" if whom == "launch.py" else "bin/deepspeed")
        return next((p for p in launchers if "launch/supervise.py" not in p.info["cmdline"]), None)

    def newest(self) -> int:
        found = [int(p.name[5:]) for p in (self.run / "checkpoints").glob("step_" + "[0-9]" * 6)]
        return max(found, default=0)

    def steps(self) -> list[dict]:
        file = self.run / "metrics.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        return [r for r in map(json.loads, (t for t in lines if t.endswith("\n"))) if "loss" in r]

    def reports(self) -> dict[str, dict]:
        return {p.name: json.loads(p.read_text()) for p in (self.run / "faults").glob("*.json")}


def environment() -> dict[str, str]:
    return os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PATH": f"{BIN}:{os.environ['PATH']}"}


def plain(folder: Path) -> Path:
    """The run without faults."""
    command = [BIN / "deepspeed", "--num_gpus", RANKS, "--master_port", processes.free_port(), "launch/pretrain.py"]
    done = processes.run([*command, folder / "recipe.yaml", "name=plain"], seconds=1800, env=environment())
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder / "runs" / "plain"


def do(soak: Soak, fault: str, rank: int) -> float | None:
    """The fault; when it was done, None where whom it was for had gone."""
    if fault in OUTSIDE:
        whom, number, _ = OUTSIDE[fault]
        try:
            soak.process(whom, rank).send_signal(number)
        except (psutil.Error, AttributeError, KeyError):
            return None
    elif fault == "full disk":
        fill(soak.folder / "runs")
    else:
        what, phase, _ = INSIDE[fault]
        faulty.order(soak.order, rank, phase, what)
    return time.time()


def one_fault(soak: Soak, fault: str, rank: int, at: str) -> str | None:
    """Do it and see what follows: all ranks gone in time, a report where one is due. What to tell; None where it was not done."""
    before, there = set(soak.reports()), {p.pid for p in soak.ranks().values()}
    if (done := do(soak, fault, rank)) is None:
        return None
    if fault in GOES_ON:
        return "the run goes on"
    processes.wait_until(lambda: not there & {p.pid for p in soak.ranks().values()} or soak.supervisor.poll() == 0, seconds=PATIENCE)
    seconds = time.time() - done
    empty(soak.folder / "runs")
    assert not soak.order.exists() or soak.supervisor.poll() == 0, f"{fault}: not done"
    assert seconds < WITHIN, f"{fault} of rank {rank} {at}: all ranks gone after {seconds:.1f} s\n{soak.said()[-4000:]}"
    kind = (OUTSIDE | INSIDE)[fault][2] if at != "starting" and soak.supervisor.poll() != 0 else None
    if kind:  # watchers outlive their ranks, and may still be judging
        processes.wait_until(lambda: set(soak.reports()) - before, seconds=20)
    new = [report for name, report in soak.reports().items() if name not in before]
    said = f"gone after {seconds:.1f} s; reports {[(r['kind'], r['ranks'], r['step'], r['phase']) for r in new]}"
    if kind:
        assert [r["kind"] for r in new] == [kind], f"{fault} of rank {rank}: {said}\n{soak.said()[-4000:]}"
        assert fault == "full disk" or new[0]["ranks"] == [rank], f"{fault} of rank {rank}: {said}"
    elif (OUTSIDE | INSIDE)[fault][2] is None:
        assert not new, f"{fault} of rank {rank} {at}: {said}\n{soak.said()[-4000:]}"
    return said


def test_a_fault_every_twenty_seconds_changes_no_bit_of_the_weights(tmp_path):
    rng = random.Random(os.environ.get("SOAK_SEED", "0"))
    folder = tiny.ground(tmp_path, documents=10_000)
    tiny.write_recipe(
        folder, steps=STEPS, tokens_per_step=128, heldout=None, schedule={"warmup_steps": 5},
        checkpoint={"every_steps": SAVED, "keep_last": 3}, guard={"hang_seconds": 15, "timeout_seconds": 60},
    )  # fmt: skip
    soak = Soak(folder, folder / "log")
    faulty.door(folder, soak.order)
    with small_disk(folder / "runs") as may_be_filled:
        without = plain(folder)
        kinds = [f for f in (*OUTSIDE, *INSIDE) if may_be_filled or f != "full disk"]
        drawn: list[str] = []
        done, began, last = collections.Counter(), time.time(), time.time()
        soak.start()
        while soak.keep_alive():
            reached, early = soak.newest(), rng.random() < 0.15
            drawn = drawn or rng.sample(kinds, len(kinds))  # each as often as the others
            fault, rank, moment = drawn.pop(), rng.randrange(RANKS), rng.uniform(0, 10)
            if early:
                fault = rng.choice(EARLY)
                processes.wait_until(lambda: len(soak.ranks()) == RANKS or soak.supervisor.poll() is not None, seconds=PATIENCE)
                time.sleep(moment)
            else:  # a life that gets no further than a start would be a fault of the machine's speed
                processes.wait_until(lambda at=reached: soak.newest() >= at + LIFE or soak.supervisor.poll() is not None, seconds=PATIENCE)
                while time.time() < last + EVERY and soak.supervisor.poll() is None:
                    time.sleep(0.05)
            if soak.supervisor.poll() is not None or max((r["step"] for r in soak.steps()), default=0) > STEPS - LIFE:
                time.sleep(0.2)  # too near the end to be sure that it still meets somebody
                continue
            at = "starting" if early and soak.newest() == reached else f"after step {max((r['step'] for r in soak.steps()), default=0)}"
            last = time.time()
            said = one_fault(soak, fault, rank, at)
            done[fault] += said is not None
            print(f"{time.time() - began:5.0f} s  {fault}, rank {rank}, {at}: {said or 'not done'}", file=sys.__stderr__, flush=True)
        wall = time.time() - began
        lives = outcome.read(soak.run).attempt
        goodput = re.findall(r"goodput \d+%.*", soak.said())[-1]
        print(f"{STEPS} steps, {lives} starts, {sum(done.values())} faults in {wall:.0f} s: {dict(done)}\n{goodput}", file=sys.__stderr__)
        assert sum(done.values()) >= STEPS // 400, done
        same(without, soak.run)


def same(without: Path, with_faults: Path) -> None:
    """Every step once, in order, with its loss; the last checkpoints' weights, masters and moments bit by bit."""
    lines = [[json.loads(t) for t in (run / "metrics.jsonl").read_text().splitlines()] for run in (without, with_faults)]
    losses = [[(r["step"], r["loss"], r["tokens"]) for r in of_run if "loss" in r] for of_run in lines]
    assert losses[0] == losses[1] and [step for step, *_ in losses[0]] == list(range(1, STEPS + 1))
    compared = 0
    last = without / "checkpoints" / f"step_{STEPS:06d}"
    for file in sorted(p for p in last.rglob("*") if p.suffix == ".safetensors" or "trainer" in str(p.relative_to(last)) and p.is_file()):
        assert file.read_bytes() == (with_faults / "checkpoints" / last.name / file.relative_to(last)).read_bytes(), file
        compared += 1
    assert compared >= 3
