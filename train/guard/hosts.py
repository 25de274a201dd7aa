"""The hosts of a `deepspeed --hostfile` command from start to start: without those at fault again and again, or that ssh does not reach."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from train.guard.supervise import Ended, Limits, left_out, parse_hostfile

HOSTFILE = ("-H", "--hostfile")
UNASKED = Path("/job/hostfile")  # DeepSpeed takes it where none is given
FILTERS = ("-i", "--include", "-e", "--exclude")  # they name hosts, which must stand in the hostfile
PATIENCE_SECONDS = 10


@dataclass(frozen=True)
class Hosts:
    """A command's hostfile, and how few of its hosts will do. now: where the hostfile of the next start is written."""

    command: list[str]
    file: Path
    now: Path
    limits: Limits
    at_least: int
    say: Callable[[str], None]

    def command_for(self, history: Sequence[Ended]) -> list[str]:
        """The command for the next start; as it was given for the first, or where it picks its hosts itself."""
        if not history or _option(self.command, FILTERS)[0] is not None:
            return self.command
        lines = parse_hostfile(self.file.read_text(encoding="utf-8"))
        bad = left_out([_by_names_of(lines, ended) for ended in history], list(lines), self.limits, self.at_least)
        silent = [h for h in unreachable([h for h in lines if h not in bad], _ssh_options(self.command))]
        silent = silent[: max(0, len(lines) - len(bad) - self.at_least)]
        for hosts, why in ((bad, "at fault again and again"), (silent, "not reached by ssh; looked for again at the next start")):
            if hosts:
                self.say(f"without {', '.join(hosts)}: {why}")
        kept = {host: line for host, line in lines.items() if host not in (*bad, *silent)}
        self.now.parent.mkdir(parents=True, exist_ok=True)
        self.now.write_text("".join(line + "\n" for line in kept.values()), encoding="utf-8")
        return on_hosts(self.command, self.now, [*bad, *silent])


def _by_names_of(hosts: Iterable[str], ended: Ended) -> Ended:
    """Ranks know their host as it calls itself, a hostfile perhaps by its full name or address."""
    named = {known: host for host in hosts for known in (host, host.split(".")[0], _address(host)) if known}
    found = (named.get(host) or named.get(host.split(".")[0]) or named.get(_address(host)) for host in ended.hosts)
    return replace(ended, hosts=tuple(host for host in found if host))


def hostfile_of(command: Sequence[str]) -> Path | None:
    """The hostfile of a `deepspeed` command that starts its nodes over ssh."""
    if Path(command[0]).name != "deepspeed" or "--no_ssh" in command:
        return None
    at, given = _option(command, HOSTFILE)
    return Path(given) if at is not None else UNASKED if UNASKED.is_file() else None


def on_hosts(command: Sequence[str], hostfile: Path, without: Sequence[str]) -> list[str]:
    """The command with another hostfile; a master address that is a host left out goes, too: DeepSpeed then takes the first host."""
    words = list(command)
    at, _ = _option(words, HOSTFILE)
    before, after = (1, 1) if at is None else (at, at + (1 if "=" in words[at] else 2))
    words[before:after] = ["--hostfile", str(hostfile)]
    at, address = _option(words, ("--master_addr",))
    if at is not None and address in {*without, *(a for host in without if (a := _address(host)))}:
        del words[at : at + (1 if "=" in words[at] else 2)]
    return words


def unreachable(hosts: Sequence[str], options: Sequence[str] = ()) -> list[str]:
    """Those on which ssh cannot run `true`, all asked at once."""
    ssh = ["ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={PATIENCE_SECONDS}", *options]

    def answers(host: str) -> bool:
        try:
            asked = subprocess.run([*ssh, host, "true"], stdin=subprocess.DEVNULL, capture_output=True, timeout=2 * PATIENCE_SECONDS)
        except (subprocess.TimeoutExpired, OSError):
            return False
        return asked.returncode == 0

    with ThreadPoolExecutor(max_workers=32) as together:
        return [host for host, well in zip(hosts, together.map(answers, hosts)) if not well]


def _ssh_options(command: Sequence[str]) -> list[str]:
    at, port = _option(command, ("--ssh_port",))
    return ["-p", port] if at is not None else []


def _option(words: Sequence[str], names: tuple[str, ...]) -> tuple[int | None, str]:
    """Where an option of the launcher stands, and its value."""
    for at, word in enumerate(words):
        if word in names and at + 1 < len(words):
            return at, words[at + 1]
        if word.startswith(tuple(name + "=" for name in names if name.startswith("--"))):
            return at, word.partition("=")[2]
        if word.endswith(".py"):
            break  # the script's own words follow
    return None, ""


def _address(host: str) -> str | None:
    try:
        return socket.gethostbyname(host)
    except OSError:
        return None
