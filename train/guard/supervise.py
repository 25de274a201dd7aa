"""Which end of a run is worth another start, after what wait, and on which hosts: pure rules over how earlier starts ended.

history of ends → judge → again after so many seconds, or the exit code to give
history, hosts  → left_out → hosts that were at fault again and again
"""

from __future__ import annotations

import re
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

FINISHED, FAILED, USAGE, RULED, PREEMPTED, AT_ONCE = 0, 1, 2, 10, 75, 130


@dataclass(frozen=True)
class Ended:
    """How one start of the command ended.

    code: the run's own where it left a word, else the launcher's. step: the newest that any start so far has made.
    said: the run itself told its end; without, it died, or did not even begin. hosts: those that fault reports of this start name.
    """

    code: int
    step: int
    cause: str = ""
    said: bool = False
    asked: bool = False  # this supervisor was told to stop
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Limits:
    """restarts: starts in a row that get no further than those before. A wait doubles from first_wait to longest_wait, in seconds."""

    restarts: int = 10
    first_wait: float = 5.0
    longest_wait: float = 300.0
    host_faults: int = 2  # faults at which a host is left out
    host_memory: int = 10  # of the last so many starts


@dataclass(frozen=True)
class Verdict:
    """again: start once more after `wait` seconds; otherwise end with `code`. why: for people."""

    again: bool
    why: str
    wait: float = 0.0
    code: int = FAILED


def judge(history: Sequence[Ended], limits: Limits, step_before: int = 0) -> Verdict:
    """What follows from the ends so far, the newest last.

    Args:
        step_before: the newest step there was before the first start.
    """
    last, vain = history[-1], in_vain(history, step_before)
    if last.code == FINISHED:
        return Verdict(False, "finished", code=FINISHED)
    if last.code == RULED:
        return Verdict(False, f"ended by its own rule: {last.cause}", code=RULED)
    if last.asked:
        return Verdict(False, "told to stop", code=last.code)
    if last.code == PREEMPTED and _TIME.search(last.cause):
        return Verdict(False, f"{last.cause} is over", code=PREEMPTED)
    if last.code in (USAGE, AT_ONCE):
        return Verdict(False, "the command line is wrong" if last.code == USAGE else "interrupted at once", code=last.code)
    if reason := _mistake(history, vain):
        return Verdict(False, reason, code=last.code)
    if vain > limits.restarts:
        return Verdict(False, f"{vain} starts in a row got no further than step {last.step}", code=last.code)
    why = ": ".join(filter(None, ["preempted" if last.code == PREEMPTED else "", last.cause])) or in_words(last.code)
    wait = min(limits.longest_wait, limits.first_wait * 2.0 ** max(0, vain - 1))
    return Verdict(True, why, wait)


def in_vain(history: Sequence[Ended], step_before: int = 0) -> int:
    """How many of the last starts got no further than the best before them; a failure at one step again and again is no progress."""
    best, vain = step_before, 0
    for ended in history:
        vain = 0 if ended.step > best else vain + 1
        best = max(best, ended.step)
    return vain


def _mistake(history: Sequence[Ended], vain: int) -> str | None:
    """What no start will mend: the run itself told the same cause twice in a row, and got no further in between.

    A full disk and a file server that is away are nobody's mistake: others make room there, and it comes back.
    """
    if len(history) < 2 or vain < 2:
        return None
    before, last = history[-2:]
    told = last.said and before.said and last.code == before.code == FAILED
    if told and last.cause and _essence(last.cause) == _essence(before.cause) and not _PASSES.search(last.cause):
        return f"twice the same, at step {last.step}: {last.cause}"
    return None


def in_words(code: int) -> str:
    """An exit code that nobody has explained: shells give 128 + n for a signal n, deepspeed's launcher 256 - n."""
    names = {number.value: number.name for number in signal.Signals}
    name = names.get(256 - code) if code > 256 - 65 else names.get(code - 128)
    return f"killed by {name} (exit code {code}), without a word" if name else f"ended with {code}"


_PASSES = re.compile(
    r"No space left on device|Disk quota exceeded|Input/output error|Stale file handle|a checkpoint takes .* free"
    r"|Transport endpoint is not connected|Host is down"
)
_TIME = re.compile(r"guard\.minutes|time limit")  # what a run with a time of its own tells (train/guard/limits.py)


def _essence(cause: str) -> str:
    """Process numbers, ports and addresses differ between starts."""
    return re.sub(r"\d+", "0", cause)


def left_out(history: Sequence[Ended], hosts: Sequence[str], limits: Limits, at_least: int) -> list[str]:
    """Hosts to do without, the worst first; so many that `at_least` stay."""
    blamed = Counter(host for ended in history[-limits.host_memory :] for host in set(ended.hosts) if host in hosts)
    bad = [host for host, faults in blamed.most_common() if faults >= limits.host_faults]
    return bad[: max(0, len(hosts) - at_least)]


def parse_hostfile(text: str) -> dict[str, str]:
    """Host → its line (`node1 slots=8`), in order.

    Raises:
        ValueError: a line that DeepSpeed would refuse.
    """
    lines = {}
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.strip()
        if not bare or bare.startswith("#"):
            continue
        if not re.match(r"\S+\s+slots=\d+", bare):
            raise ValueError(f"line {number}: {bare!r}: a line is a host and its GPUs, as in `node1 slots=8`")
        host = bare.split()[0]
        if host in lines:
            raise ValueError(f"line {number}: {host} stands there twice")
        lines[host] = bare
    if not lines:
        raise ValueError("no hosts in it; a line is a host and its GPUs, as in `node1 slots=8`")
    return lines


def env_file_faults(text: str) -> list[str]:
    """What is wrong with a `.deepspeed_env`, whose lines DeepSpeed puts on the command line of every node."""
    faults = []
    for number, line in enumerate(text.splitlines(), 1):
        name, is_set, _ = line.partition("=")
        if not is_set:
            faults.append(
                f"line {number}: {line.strip()[:40]!r}: DeepSpeed's launcher stops at a line that is not NAME=value, blank ones too"
            )
        elif _SECRET.search(name):
            faults.append(
                f"line {number}: {name}: everybody on the nodes could read its value, as it goes onto their command lines; "
                "take it out, and lay secrets in files that only you can read (~/.aws/credentials, ~/.cache/huggingface/token)"
            )
    return faults


_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|(^|_)(API_?|ACCESS_?|PRIVATE_?)?KEY(_ID)?$", re.IGNORECASE)
