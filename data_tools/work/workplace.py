"""An output folder while it is being made: one maker at a time, one plan, and no trace left when it is done.

OUT/.work, or another folder where OUT is remote, holds the lock (who is at work), plan.json (what decides the result) and all that is
half made:

    with claimed(out) as work:
        adopt_plan(work, plan)
        …                       # what is finished appears in OUT, what vouches for it last
        clear(work)
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data_tools.files.atomic import write_atomically
from data_tools.work.errors import is_users_fault


class PrepareError(ValueError):
    """A preparation that must not go on; says what is in the way, and what to do."""


@contextlib.contextmanager
def claimed(out: Path | str, work: Path | None = None) -> Iterator[Path]:
    """OUT/.work, or `work`, for this process alone until the block ends; a killed process holds nothing.

    A mistake of the user's that ends the block before anything was finished leaves no folder behind that was not there before.
    Raises PrepareError when another process has it.
    """
    work = work or Path(out) / ".work"
    absent = [folder for folder in (work, *work.parents) if not folder.exists()]
    try:
        with _held(out, work):
            try:
                yield work
            except ValueError as error:
                # a message may name a log in there
                if is_users_fault(error) and work.exists() and str(work) not in str(error) and not any(work.rglob("completions/*")):
                    clear(work)
                raise
    except ValueError:
        with contextlib.suppress(OSError):  # one of them is not empty
            for folder in absent:
                if folder.exists():
                    folder.rmdir()
        raise


@contextlib.contextmanager
def _held(out: Path | str, work: Path) -> Iterator[None]:
    work.mkdir(parents=True, exist_ok=True)
    path = work / "lock"
    with open(path, "a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                print(
                    f"{path}: this file system cannot lock ({error.strerror}): see to it that no second command writes here",
                    file=sys.stderr,
                )
            else:
                file.seek(0)
                who = file.read().strip() or "another process"
                raise PrepareError(f"{out}: {who} is writing here; wait for it, or name another --out") from None
        if not path.exists() or os.fstat(file.fileno()).st_ino != path.stat().st_ino:
            raise PrepareError(f"{out}: another process has just finished here; start the same command again")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        shutil.rmtree(_given_up(work), ignore_errors=True)  # of a run that was killed while it cleared
        yield


def adopt_plan(work: Path, plan: dict[str, Any], forget: Callable[[], None] = lambda: None) -> bool:
    """Keep the plan; True when unfinished work on the same plan lies here. Raises PrepareError when it is work on another.

    Work whose inputs changed meanwhile, as a cut file that was copied again, is begun anew, and that is said; `forget` then removes
    what of it lies outside this folder.
    """
    path, data = work / "plan.json", json.dumps(plan, indent=1).encode()
    if not path.exists():
        write_atomically(path, data)
        return False
    there, here = json.loads(path.read_bytes()), json.loads(data)
    differences = describe_differences(there, here)
    if not differences:
        return True
    if there != GIVEN_UP and (_rest(there) != _rest(here) or not _same_inputs(there, here)):
        raise PrepareError(
            f"{work}: unfinished work of another command or version ({'; '.join(differences[:5])}); "
            f"finish that one, delete {work}, or name another --out"
        )
    if there != GIVEN_UP:
        changed = _changed(there, here)
        print(f"{work}: inputs changed since this work was begun ({changed}): what was made of them is made anew", file=sys.stderr)
        write_atomically(path, json.dumps(GIVEN_UP).encode())  # a kill meanwhile leaves nothing that could be gone on with
    for old in work.iterdir():
        if old.name not in ("lock", path.name):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    forget()
    write_atomically(path, data)
    return False


GIVEN_UP = {"given_up": True}
INPUTS = ("inputs", "files", "latex_state")  # of a plan: what is read, and the state in which it was found


def _rest(plan: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in plan.items() if key not in INPUTS}


def _states(plan: dict[str, Any]) -> dict[str, Any]:
    return {str(entry.get("path")): entry for entry in plan.get("inputs", []) if isinstance(entry, dict)}


def _same_inputs(there: dict[str, Any], here: dict[str, Any]) -> bool:
    """Whether it is the same command on inputs that changed: of files that have nothing in common it is another one."""
    before, now = _states(there), _states(here)
    return not before or not now or bool(before.keys() & now.keys())


def _changed(there: dict[str, Any], here: dict[str, Any]) -> str:
    before, now = _states(there), _states(here)
    names = [name for name in [*now, *(name for name in before if name not in now)] if before.get(name) != now.get(name)]
    return (", ".join(names[:3]) + " …" * (len(names) > 3)) or "LaTeX sources"


def clear(work: Path) -> None:
    """Remove what was half made, all at once: a kill meanwhile leaves nothing that could be gone on with.

    Whoever waits at the lock sees that it is gone.
    """
    work.rename(_given_up(work))
    shutil.rmtree(_given_up(work), ignore_errors=True)  # the next one at work here may be faster


def _given_up(work: Path) -> Path:
    return work.with_name(f"{work.name}.gone")


def clear_leftovers(out: Path | str, work: Path | None = None) -> None:
    """Beside a finished OUT: what a run left that was killed while it cleared. Raises PrepareError when one is still at it."""
    work = work or Path(out) / ".work"
    if work.exists() or _given_up(work).exists():
        with claimed(out, work):
            clear(work)


def describe_differences(there: Any, here: Any, name: str = "") -> list[str]:
    """`arguments.source: 'a' there, 'b' here`, for all leaves that differ."""
    if isinstance(there, dict) and isinstance(here, dict):
        keys = sorted(there.keys() | here.keys())
        return [line for key in keys for line in describe_differences(there.get(key), here.get(key), f"{name}.{key}".lstrip("."))]
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        return [line for k, pair in enumerate(zip(there, here)) for line in describe_differences(*pair, f"{name}[{k}]")]
    if there == here:
        return []
    return [f"{name}: {_short(there)} there, {_short(here)} here"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}…"
