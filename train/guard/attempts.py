"""One start of a launcher's command after another: watched, told to stop, and gone with all that it started.

`Supervisor.run` starts the command, passes signals on to those who save (the ranks, or a launcher that passes them on itself), waits until
nothing of it is left, and asks the rules of `supervise.py` what follows.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from train.guard import outcome, run_lock
from train.guard.supervise import Ended, Limits, Verdict, judge, left_out

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
# Launchers that pass a signal on to their ranks and wait for them, and the one that they do this with: torchrun knows no SIGUSR1, and at
# SIGTERM srun has its tasks killed within seconds.
HAND_ON = {"torchrun": signal.SIGTERM, "srun": signal.SIGUSR1}
GRACE_SECONDS = 300.0  # for ranks that save after their launcher is gone
STOP, JOIN = "stop.json", "join.json"  # in a run's folder
POLL_SECONDS = 0.2
SHOWN = 200  # characters of a cause; all of it is in the run's folder


@dataclass(frozen=True)
class Plan:
    """What to supervise. command: made anew for each start, from the hosts left out so far."""

    command: Callable[[Sequence[Ended]], list[str]]
    run_dir: Path
    limits: Limits
    grace: float = GRACE_SECONDS
    over_ssh: bool = False  # ranks on other nodes are nobody's children here: the run's lock tells whether they are there


@dataclass
class Supervisor:
    """Starts a command as often as is worth it. Not for threads: it takes the process's signals and adopts its orphans."""

    plan: Plan
    asked: str | None = None  # the signal that asked to stop
    history: list[Ended] = field(default_factory=list)
    _child: subprocess.Popen | None = None
    _waiting: signal.Signals | None = None  # a signal still to be passed on
    _over: bool = False  # torchrun was told to end, for good
    _shut_out: int = 0  # ends in a row of a torchrun while others trained

    def run(self) -> int:
        """The exit code of the run: 0 finished, 75 stopped after saving, other failed."""
        adopt_orphans()
        before = {s: signal.signal(s, self._on_signal) for s in PASSED_ON if signal.getsignal(s) != signal.SIG_IGN or s != signal.SIGHUP}
        try:
            step_before = newest_step(self.plan.run_dir)
            while True:
                self.history.append(self._attempt())
                if self._over:
                    return self.history[-1].code or outcome.FAILED
                verdict = judge(self.history, self.plan.limits, step_before)
                self._say(verdict)
                if not verdict.again:
                    return verdict.code
                if not self._wait(verdict.wait):
                    return self.history[-1].code
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _say(self, verdict: Verdict) -> None:
        last = self.history[-1]
        then = f"starting again in {verdict.wait:g} s" if verdict.again else f"exit code {verdict.code}"
        if not self.plan.over_ssh:  # there the next start says whom it leaves out
            blamed = sorted({host for ended in self.history for host in ended.hosts})
            for host in left_out(self.history, blamed, self.plan.limits, at_least=0):
                say(f"{host}: at fault again and again; have it looked at, and leave it out meanwhile")
        say(f"start {len(self.history)} ended at step {last.step} ({verdict.why[:SHOWN]}); {then}")

    def _attempt(self) -> Ended:
        began, told_before = time.time(), names_of_reports(self.plan.run_dir)
        command = self.plan.command(self.history)
        try:
            self._child = subprocess.Popen(command, process_group=0, preexec_fn=_end_with_parent)  # signals reach it through us alone
        except OSError as error:
            say(f"{command[0]}: {error.strerror}")
            return Ended(2, newest_step(self.plan.run_dir), error.strerror)
        watch = Watch(self.plan, began, told_before) if _name(command) == "torchrun" else None
        while self._child.poll() is None:
            self._pass_on(command)
            if watch and (reason := watch.reason_to_end(self.history)):
                say(reason)
                self._child.terminate()
            time.sleep(POLL_SECONDS)
        self._clear()
        found = outcome.read(self.plan.run_dir)
        if watch:
            self.history += watch.ends(found)
            self._over = watch.for_good
            self._ask_to_join()
        told = found if found and found.started >= began - outcome.CLOCKS_SECONDS and found.exit_code is not None else None
        code = outcome.true_code(found, self._child.returncode, began)
        if code == 0 and told is None:
            code = 1  # a launcher that lost its ranks may end with 0; a run that finished says so
        faults = fault_reports(self.plan.run_dir, told_before)
        # a report names who was at fault; what the run itself tells may be what its other ranks saw of it
        cause = _of(faults[0]) if faults else told.cause if told else ""
        hosts = tuple(sorted({str(f["host"]) for f in faults if f.get("host") and not _alone(f)}))
        asked = (
            self.asked is not None
            or found is not None
            and _asked_to_stop(self.plan.run_dir) == found.started >= began - outcome.CLOCKS_SECONDS
        )
        return Ended(code, newest_step(self.plan.run_dir), cause, told is not None, asked, hosts)

    def _ask_to_join(self) -> None:
        """torchrun closes a run's rendezvous for good when one of its agents ends by an error: this node is then shut out of a run that
        others train, until they start again.
        """
        trains = self._child.returncode != 0 and not self.asked and run_lock.is_held(self.plan.run_dir)
        self._shut_out = self._shut_out + 1 if trains else 0
        if self._shut_out >= 2:
            say("torchrun does not let this node into the run that others train: they are asked to save and start again, with it")
            _tell(self.plan.run_dir / JOIN, {"host": socket.gethostname()})

    def _on_signal(self, number: int, _: object) -> None:
        self.asked = signal.Signals(number).name
        self._waiting = signal.Signals(number)

    def _pass_on(self, command: list[str]) -> None:
        number, self._waiting = self._waiting, None
        if number is None:
            return
        name = _name(command)
        if name not in HAND_ON:
            _ask_to_stop(self.plan.run_dir)
        ranks = [] if name in HAND_ON else ranks_of(self._child.pid, command)
        for rank in ranks:
            _send(rank, number)
        if not ranks:  # none yet, or none here
            self._child.send_signal(HAND_ON.get(name, signal.SIGTERM if name == "deepspeed" else number))

    def _clear(self) -> None:
        """Nothing of a start outlives it: ranks that still save get the grace, then those of this machine are killed."""
        deadline = time.monotonic() + self.plan.grace
        while self.plan.over_ssh and not alive_below(os.getpid()) and run_lock.is_held(self.plan.run_dir) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        while left := alive_below(os.getpid()):
            if time.monotonic() > deadline:
                say(f"{len(left)} processes still there after {self.plan.grace:g} s are killed: {[p.pid for p in left]}")
                for process in left:
                    _send(process, signal.SIGKILL)
                deadline = time.monotonic() + 10
            if self._waiting:
                number, self._waiting = self._waiting, None
                for process in left:
                    _send(process, number)
            time.sleep(POLL_SECONDS)
        reap()

    def _wait(self, seconds: float) -> bool:
        """Back-off; False when told to stop meanwhile."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.asked:
                say("told to stop; not started again")
                return False
            time.sleep(POLL_SECONDS)
        return self.asked is None


@dataclass
class Watch:
    """torchrun starts ranks again by itself, whatever they ended with: this counts those starts, and says when another is no use."""

    plan: Plan
    began: float
    told_before: frozenset[str] = frozenset()  # fault reports that are older
    _newest: outcome.Outcome | None = None  # of the ranks' present start
    _step: int = 0  # which that has made; the next start may take lines back
    _ended: list[Ended] = field(default_factory=list)
    _told: bool = False
    for_good: bool = False  # what it told was no reason to start again

    def reason_to_end(self, history: Sequence[Ended]) -> str | None:
        """Why torchrun should end; said once."""
        found = outcome.read(self.plan.run_dir)
        if self._told or not found or found.started < self.began - outcome.CLOCKS_SECONDS:
            return None
        here = socket.gethostname()
        if (other := _newer(self.plan.run_dir / JOIN, self.began)) and other.get("host") != here:
            self._told = True
            return f"{other.get('host')} wants to join: saving, then starting again with it"
        if self._newest and found.started != self._newest.started:
            self._ended.append(self._end_of(self._newest))
            self._step = 0
        self._step = max(self._step, newest_step(self.plan.run_dir))
        if found == self._newest:
            return None
        self._newest = found
        ends = [*history, *self._ended, *([self._end_of(found)] if found.exit_code is not None else [])]
        verdict = judge(ends, self.plan.limits) if ends else None
        recent = fault_reports(self.plan.run_dir, self.told_before)[-self.plan.limits.host_memory :]
        mine = [f for f in recent if f.get("host") == here and not _alone(f)]
        reason = None
        if len(mine) >= self.plan.limits.host_faults:
            reason = f"{len(mine)} faults on this host, {here}: it leaves, the others go on without it; newest: {mine[-1].get('cause', '')}"
        elif verdict and not verdict.again and ends[-1].code != outcome.FINISHED:
            reason = f"{verdict.why}; torchrun is told to end"
        self._told = self.for_good = reason is not None
        return reason

    def ends(self, last: outcome.Outcome | None) -> list[Ended]:
        """How the ranks' starts ended, but for the last one."""
        before = self._newest and (last is None or last.started != self._newest.started)
        return [*self._ended, *([self._end_of(self._newest)] if before else [])]

    def _end_of(self, found: outcome.Outcome) -> Ended:
        """A start whose ranks said nothing at their end died."""
        code = outcome.FAILED if found.exit_code is None else found.exit_code
        return Ended(code, self._step, found.cause, said=found.exit_code is not None)


def say(text: str) -> None:
    print(f"supervise: {text}", file=sys.stderr, flush=True)


def _ask_to_stop(run_dir: Path) -> None:
    """For supervisors of the same run on other nodes: its ranks there end with 75, too, and are not to be started again."""
    if found := outcome.read(run_dir):
        _tell(run_dir / STOP, {"started": found.started, "host": socket.gethostname()})


def _tell(path: Path, what: dict) -> None:
    """A word to the supervisors of the same run on other nodes."""
    try:
        path.write_text(json.dumps(what), encoding="utf-8")
    except OSError as error:
        say(f"{path}: cannot be written ({error.strerror}); supervisors on other nodes do not hear of this")


def _newer(path: Path, since: float) -> dict | None:
    """What another supervisor told after a time in seconds of the epoch."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.stat().st_mtime > since else None
    except (OSError, ValueError):
        return None


def _asked_to_stop(run_dir: Path) -> float | None:
    """Which start a supervisor, here or on another node, was told to stop, by when it began."""
    try:
        return json.loads((run_dir / STOP).read_text(encoding="utf-8"))["started"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _of(report: dict) -> str:
    who = " ".join(f"{key} {report[key]}" for key in ("rank", "host") if report.get(key) is not None)
    return f"{who}: {report.get('cause', '')}"


def newest_step(run_dir: Path) -> int:
    """The last step in metrics.jsonl; 0 where there is none."""
    try:
        with open(run_dir / "metrics.jsonl", "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 65536))
            lines = file.read().splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            record = json.loads(line)
            if "loss" in record:
                return int(record["step"])
        except (ValueError, KeyError, TypeError):
            continue  # cut short by a death, or by where reading began
    return 0


def names_of_reports(run_dir: Path) -> frozenset[str]:
    """Of `runs/NAME/faults/*.json`, those there are."""
    return frozenset(path.name for path in (run_dir / "faults").glob("*.json"))


def fault_reports(run_dir: Path, told_before: frozenset[str]) -> list[dict]:
    """What `runs/NAME/faults/*.json` say, the oldest first, but for those that were there before."""
    reports = []
    for name in sorted(names_of_reports(run_dir) - told_before):
        try:
            content = json.loads((run_dir / "faults" / name).read_text(encoding="utf-8"))
            reports += [content] if isinstance(content, dict) else []
        except (OSError, ValueError):
            continue
    return reports


def _alone(report: dict) -> bool:
    """Whether all ranks were on the host at fault: there is no other to do without it on."""
    return {known.get("host") for known in report.get("all_ranks", [])} == {report.get("host")}


def ranks_of(child: int, command: list[str]) -> list[psutil.Process]:
    """The ranks on this machine: below the launcher, or, where ssh started them, those with the very words of the command."""
    words = _script_words(command)
    found = []
    below = {p.pid for p in alive_below(child)}
    for process in psutil.process_iter():
        try:
            cmdline = process.cmdline()
            if not words or not _ends_with(cmdline, words) or "deepspeed.launcher.launch" in cmdline:
                continue
            if "RANK" in process.environ() and (process.pid in below or _name(command) == "deepspeed"):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _script_words(command: list[str]) -> list[str]:
    """The recipe and what follows it: `… launch/pretrain.py R.yaml name=x` → [R.yaml, name=x]."""
    at = script_at(command)
    return command[at + 1 :] if at is not None else []


def script_at(command: Sequence[str]) -> int | None:
    """Where the training door stands in a launcher's command."""
    return next((i for i, word in enumerate(command) if word.endswith(("launch/pretrain.py", "launch/sft.py"))), None)


def _ends_with(cmdline: list[str], words: list[str]) -> bool:
    return bool(words) and cmdline[-len(words) :] == words


def _name(command: list[str]) -> str:
    return Path(command[0]).name


def alive_below(pid: int) -> list[psutil.Process]:
    """Processes started by this one, and theirs; the dead that nobody waited for do not count."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def _send(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.Error:
        pass  # it ended meanwhile


def adopt_orphans() -> None:
    """Processes whose launcher dies become this one's children instead of init's, so that none is lost sight of (Linux)."""
    _prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


def _end_with_parent() -> None:
    _prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: the launcher hears of this process's death, however it dies


def _prctl(option: int, value: int) -> None:
    try:
        ctypes.CDLL(None).prctl(option, value)
    except (OSError, AttributeError):
        pass  # not Linux


def reap() -> None:
    """Wait for adopted processes that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
