"""The process that watches one rank: `python -m train.guard.watch.watcher`, started by the rank itself (train/guard/watch/heartbeat.py).

what its rank says in shared memory, and what Linux says of it  → runs/NAME/heartbeats/rank_00003.json, every two seconds
its rank dead, failed, stopped or without a sign of progress,
or another's watcher out of reach or in alarm                   → all watchers tell each other all they know, judge alike (findings.py),
                                                                  the lowest one reports (fault_report.py), each ends its own rank

It needs nothing of its rank: no lock of its interpreter, no thread, no disk. It dies with it, and it is no rank's child that a
launcher would wait for. Standard library only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import mmap
import os
import select
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from train.guard import outcome
from train.guard.watch import fault_report, findings, process
from train.guard.watch.fault_report import Watched
from train.guard.watch.findings import Condition
from train.guard.watch.peers import Peers, link_is_down
from train.world import beat

MEANT = {outcome.PREEMPTED: "done", outcome.RULED: "done", outcome.AT_ONCE: "interrupted"}  # exit codes of a rank that was asked to end
POLL_SECONDS = 0.25
BEAT_SECONDS = 2.0
WAITS_SECONDS = 5.0  # without a sign of progress: time to ask how the others are
ASK_SECONDS = 3.0
LOST_SECONDS = 12.0  # that a watcher has been reached before and is no longer
DISK_SECONDS = 10.0  # a rank that waited for a disk so recently is not called stuck
# a rank that reads or writes more a second is at work; less may be its listening thread, or on rank 0 the store that all ranks ask
MOVES_BYTES = 1 << 20
SHARE_SECONDS = 2.0
STOPPED_SECONDS = 5.0
MEETING_SECONDS = 60.0
DYING_SECONDS = 1.0  # until a dead rank is seen to be dead, or a failed one has said why
STACK_SECONDS = 2.0
SETTLE_SECONDS = 6.0
OVER_SECONDS = 12.0  # that a rank is kept while another's watcher reports
CLOSING_SECONDS = 3.0  # for a rank to end by itself
LAST_CHANCE_SECONDS = 25.0  # where all have raised alike: a save behind the steps may still be completed


class Patience:
    """How long a rank has been without a sign of progress, by this host's own clock, pauses of the process left out."""

    def __init__(self) -> None:
        self.idle = self.quiet = self.stopped = 0.0
        self.since_disk = float("inf")
        self.longest: dict[str, float] = {}
        self._marks, self._phase, self._cpu, self._others = -1, "", 0.0, (0.0, 0)
        self._share = self._wants = 0.0  # of a processor that it had, of the time that it wanted one

    def pass_(self, seconds: float, said: beat.Said, seen: process.Process, pid: int) -> None:
        """`seconds` more have passed, and this is what the rank says and how it looks now."""
        self.stopped = self.stopped + seconds if seen.state == "T" else 0.0
        if said.marks != self._marks:
            if self._marks >= 0:
                self.longest[self._phase] = max(self.longest.get(self._phase, 0.0), self.idle)
            self._marks, self._phase, self.idle, self.quiet, self.since_disk = said.marks, said.phase, 0.0, 0.0, float("inf")
        elif seen.state != "T":
            computed, threads = seen.cpu_seconds - self._cpu, process.thread_states(pid)
            # who wants a processor and gets none has not been idle for as long as the clock says
            starved = "R" in threads and computed < 0.5 * seconds
            self.idle += max(computed, 0.1 * seconds) if starved else seconds
            if self.idle < WAITS_SECONDS:
                return self._note_cpu(seen)
            others = process.cpu_seconds_of_children(pid), process.bytes_moved(pid)
            at_disk = "D" in threads or 0 < self._others[1] < others[1] - MOVES_BYTES * max(seconds, POLL_SECONDS)
            # of the last seconds: a thread that looks around now and then is no work
            self._share += (computed / max(seconds, POLL_SECONDS) - self._share) * min(1.0, seconds / SHARE_SECONDS)
            self._wants += (("R" in threads) - self._wants) * min(1.0, seconds / SHARE_SECONDS)
            works = at_disk or self._share > 0.05 or self._wants > 0.5 or abs(others[0] - self._others[0]) > 0.05 * seconds
            self.quiet = 0.0 if works else self.quiet + seconds
            self.since_disk = 0.0 if at_disk else self.since_disk + seconds
            self._others = others
        self._note_cpu(seen)

    def longest_in(self, said: beat.Said) -> float | None:
        """The longest pause in this phase so far; None where it is the first of its kind, which takes what it takes. Short ones are not seen."""
        return self.longest.get(said.phase, 0.0 if said.again else None)

    def _note_cpu(self, seen: process.Process) -> None:
        self._cpu = seen.cpu_seconds


class Watcher:
    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        self.block = mmap.mmap(watched.block_fd, beat.SIZE)
        self.words = socket.socket(fileno=watched.words_fd)
        self.peers = Peers(watched.rank, watched.addresses, watched.secret)
        self.patience = Patience()
        self.condition = Condition(watched.rank, watched.host, "running")
        self.alarm, self.over = threading.Event(), threading.Event()
        self.finished: set[int] = set()  # ranks that have ended well
        self.reached: set[int] = set()  # watchers that have answered
        self.lost_since: dict[int, float] = {}
        self.known: dict[int, Condition] = {}
        self._heard = b""
        self._asked, self._began, self._started = 0.0, time.monotonic(), time.time()
        self._end = _end_of(watched.pid)
        self._memory: list[tuple[float, float]] = []
        self._oom_kills: list[int] = []  # of the last ten seconds: one of hours ago explains no death

    # -- watching

    def run(self) -> None:
        self.peers.serve(socket.socket(fileno=self.watched.listener_fd), self.answer)
        threading.Thread(target=self._beat, name="beat", daemon=True).start()
        now = time.monotonic()
        while self.condition.state != "done" and not self.alarm.is_set():
            self._listen(POLL_SECONDS)
            before, now = now, time.monotonic()
            self._look(min(now - before, 4 * POLL_SECONDS))  # a host that was asleep has not waited
            if self.condition.state in ("gone", "raised", "interrupted") or self._waited_too_long():
                self.alarm.set()
        if self.condition.state == "done":
            self.peers.say(self.peers.others, {"done": self.watched.rank})
        else:
            self._end_all()
        self._leave()

    def answer(self, word: dict[str, Any]) -> dict[str, Any]:
        """To another watcher, in a thread of its own."""
        if "done" in word:
            self.finished.add(word["done"])
        if "alarm" in word:
            self.known[word["from"]] = Condition.of(word["alarm"])
            self.alarm.set()
        if "over" in word:
            self.over.set()
        return dataclasses.asdict(self.condition)

    def _listen(self, seconds: float) -> None:
        """What the rank has to say, if anything, within these seconds."""
        ready = select.select([self.words, *self._end], [], [], seconds)[0]
        if self.words not in ready:
            return
        try:
            part = self.words.recv(1 << 16)
        except OSError:
            part = b""
        if not part:  # the rank is dying, or has closed its end: /proc tells
            time.sleep(0.01)
            return
        *lines, self._heard = (self._heard + part).split(b"\n")
        for line in lines:
            word = json.loads(line)
            self._now(word.pop("state"), **word)

    def _look(self, seconds: float) -> None:
        """How the rank is."""
        if self.condition.state in ("gone", "raised", "interrupted", "done"):
            return
        heard, seen = beat.said(self.block), process.look(self.watched.pid)
        if memory := process.memory_gib():
            self._memory = [*self._memory[-40:], memory]
        self._oom_kills = [*self._oom_kills[-40:], process.out_of_memory_kills()]
        if seen.dead:
            # its last words may still lie in the pipe
            self._listen(0.05)
            if self.condition.state in ("running", "stalled", "stopped"):
                status = self._status(seen)
                code = os.waitstatus_to_exitcode(status) if status is not None else self._written_code()
                if code in MEANT or beat.said(self.block).meant:
                    self._now(MEANT.get(code, "done"))
                    return
                self._now("gone", cause=self._death(status))
                if code == 0:
                    process.deny_success(self.watched.launcher)
            return
        self.patience.pass_(seconds, heard, seen, self.watched.pid)
        limit = findings.limit_seconds(
            self.watched.hang_seconds, self.watched.timeout_seconds, self.patience.longest_in(heard), self.patience.quiet,
            at_disk=self.patience.since_disk < DISK_SECONDS,
        )  # fmt: skip
        stopped = self.patience.stopped >= STOPPED_SECONDS
        self._now("stopped" if stopped else "stalled" if self.patience.idle > limit else "running")

    def _now(self, state: str, **more: Any) -> None:
        heard = beat.said(self.block)
        at = self.condition.at if state == self.condition.state else time.time()
        link_down = self.condition.link_down or bool(self.lost_since) and link_is_down(self.watched.addresses[self.watched.rank][0])
        told = {"link_down": link_down, "step": heard.step, "phase": heard.phase, "meetings": heard.meetings, "details": heard.details}
        more["named_ranks"] = tuple(more.get("named_ranks") or ())
        self.condition = dataclasses.replace(
            self.condition, state=state, at=at, waits=heard.meeting, idle_seconds=self.patience.idle, **(told | more)
        )

    def _status(self, seen: process.Process) -> int | None:
        """How the dead rank ended, as wait() would say it: what Linux, the rank or faulthandler tells; slurmstepd takes it within no time."""
        if (code := beat.said(self.block).code) is not None:
            return code << 8
        if seen.exit_status is not None:
            return seen.exit_status
        for end in self._end:
            if (status := process.exit_status(end)) is not None:
                return status
        return process.status_of_fatal(fault_report.text_of(self.watched.notes))

    def _written_code(self) -> int | None:
        """How the run has ended by rank 0's own word, of this attempt."""
        found = outcome.read(Path(self.watched.run_dir))
        return found.exit_code if found and found.started >= self._started - outcome.CLOCKS_SECONDS else None

    def _death(self, status: int | None) -> str:
        said = process.how_it_ended(status)
        if status is None or os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            least = min(self._memory, default=None)
            free = f"; the host had {least[0]:.1f} of {least[1]:.0f} GiB left just before" if least else ""
            if process.out_of_memory_kills() > min(self._oom_kills):
                return f"{said}, out of memory: the kernel ends processes for it{free}"
            return f"{said}{free}"
        return said

    def _waited_too_long(self) -> bool:
        """Whether something must be done, as far as this rank's own state and the others' answers say."""
        state, world = self.condition.state, len(self.watched.addresses)
        if world == 1:
            return state == "stalled"  # alone, a pause is a pause
        if self.patience.idle < WAITS_SECONDS and state == "running":
            now = time.monotonic()
            if len(self.reached) < world - 1 and now - self._began < MEETING_SECONDS and now - self._asked > ASK_SECONDS:
                self._ask()  # at the start: who is never reached is never called lost
            self.lost_since.clear()
            return False
        if time.monotonic() - self._asked < max(ASK_SECONDS, world / 32):
            return False
        self._ask()
        now = time.monotonic()
        if any(now - since >= LOST_SECONDS for since in self.lost_since.values()):
            return True
        others = [c for r, c in self.known.items() if r not in self.lost_since and r not in self.finished]
        if state == "stopped":
            return any(c.state != "stopped" for c in others)
        return state == "stalled" and all(c.state == "stalled" for c in others)

    def _ask(self) -> None:
        self._asked = time.monotonic()
        for r, answer in self.peers.ask(self.peers.others).items():
            if answer:
                self.known[r] = Condition.of(answer)
                self.reached.add(r)
                self.lost_since.pop(r, None)
            elif r in self.reached and r not in self.finished:
                self.lost_since.setdefault(r, self._asked)

    def _beat(self) -> None:
        """Publish the heartbeat, in a thread of its own: a disk that hangs must not stop the watch."""
        reserved = False
        while True:
            heard = beat.said(self.block)
            if heard.phase != "starting":  # before that the folder may be another run's
                if not reserved:
                    fault_report.take_reserve(self.watched)
                    reserved = True
                fault_report.write_heartbeat(self.watched.heartbeat, self._heartbeat(heard))
            if self.over.wait(BEAT_SECONDS):
                return

    def _heartbeat(self, heard: beat.Said) -> dict[str, Any]:
        w = self.watched
        return {
            "rank": w.rank, "host": w.host, "pid": w.pid, "attempt": w.attempt, "time": time.time(), "state": self.condition.state, "step": heard.step,
            "phase": heard.phase, "link_down": self.condition.link_down, "seconds_in_silence": round(self.patience.idle, 1), **heard.details,
        }  # fmt: skip

    # -- ending

    def _end_all(self) -> None:
        """An alarm, heard or raised here: tell all, learn all, report once, end the rank."""
        others = [r for r in self.peers.others if r not in self.finished]
        self.peers.say(others, {"alarm": dataclasses.asdict(self.condition)})
        deadline = time.monotonic() + DYING_SECONDS
        while self.condition.state in ("running", "stalled") and time.monotonic() < deadline:
            self._listen(0.1)
            self._look(0.0)
        place, waits = self._stack()
        self.condition = dataclasses.replace(self.condition, place=place, waits=waits or self.condition.waits, ready=True)
        conditions = self._settled(others)
        reached = sorted(r for r, c in conditions.items() if c)
        if reached[0] == self.watched.rank:
            fault_report.report(findings.judge(conditions, self._cut_off(conditions)), self.watched, conditions)
            self.peers.say([r for r in reached if r != self.watched.rank], {"over": True})
        else:
            self.over.wait(OVER_SECONDS)
        self.over.set()
        self._end_rank()

    def _stack(self) -> tuple[str, bool]:
        """Where the main thread stands, and whether that is in a word with the other ranks; all stacks lie in the notes then."""
        if self.condition.state not in ("running", "stalled"):
            return "", False
        notes = self.watched.notes
        before = fault_report.size(notes)
        try:
            os.kill(self.watched.pid, self.watched.stack_signal)
        except OSError:
            return "", False
        deadline = time.monotonic() + STACK_SECONDS
        while time.monotonic() < deadline:
            time.sleep(0.1)
            if found := fault_report.innermost(notes, before, self.watched.main_thread, self.watched.path):
                return found
        return "", False

    def _settled(self, others: list[int]) -> dict[int, Condition | None]:
        """What all watchers finally know of their ranks."""
        conditions: dict[int, Condition | None] = {self.watched.rank: self.condition}
        deadline = time.monotonic() + SETTLE_SECONDS
        waiting = others
        while waiting:
            for r, answer in self.peers.ask(waiting).items():
                conditions[r] = Condition.of(answer) if answer else None
                if answer:
                    self.reached.add(r)
            waiting = [r for r in waiting if not (conditions[r] and conditions[r].ready) and r not in self.finished]
            if time.monotonic() > deadline:
                break
            time.sleep(0.2)
        for r in [r for r, c in conditions.items() if c is None]:
            if r in self.known and self.known[r].state in ("gone", "raised"):  # it told, and its watcher was ended with it
                conditions[r] = self.known[r]
        # who was never reached since the start is not lost now
        return {r: c for r, c in conditions.items() if c or r in self.reached and r not in self.finished}

    def _cut_off(self, conditions: dict[int, Condition | None]) -> frozenset[int]:
        """Which of the ranks out of reach are known to be at fault, by the heartbeats of them and of this one."""
        beats = {r: fault_report.last_heartbeat(self.watched, r) for r, c in conditions.items() if c is None or r == self.watched.rank}
        own = beats.pop(self.watched.rank)
        return frozenset(r for r, theirs in beats.items() if findings.cut_off(own, theirs, time.time()))

    def _end_rank(self) -> None:
        if self.condition.state in ("raised", "interrupted"):
            self._say_to_rank(b"over\n")
            patient = self.condition.users_fault or self.condition.state == "interrupted"
            if len(self.watched.addresses) == 1 or self._is_gone_within(LAST_CHANCE_SECONDS if patient else CLOSING_SECONDS):
                return  # alone it makes nobody wait
        self._say_to_rank(b"end\n")
        if not self._is_gone_within(CLOSING_SECONDS):
            with contextlib.suppress(OSError):
                os.kill(self.watched.pid, signal.SIGKILL)

    def _say_to_rank(self, word: bytes) -> None:
        with contextlib.suppress(OSError):
            self.words.sendall(word)

    def _is_gone_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not process.look(self.watched.pid).dead:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def _leave(self) -> None:
        """A run that ended well leaves no heartbeat: nobody has to wonder whose it is."""
        self.over.set()
        if self.condition.state == "done":
            fault_report.remove(self.watched.heartbeat)
        fault_report.remove(self.watched.reserve)
        fault_report.remove(self.watched.notes, if_empty=True)


def _end_of(pid: int) -> list[int]:
    """A descriptor that is readable when the process ends; its exit status can be seen until its launcher has taken it."""
    try:
        return [os.pidfd_open(pid)]
    except (OSError, AttributeError):
        return []


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)  # they are for the rank: its watcher stays as long as the rank does
    values = json.loads(sys.stdin.readline())
    values["addresses"] = [tuple(a) for a in values["addresses"]]
    Watcher(Watched(**values)).run()
    os._exit(0)  # threads that hang on a disk or a network do not hold it


if __name__ == "__main__":
    main()
