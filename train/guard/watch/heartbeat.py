"""A rank's side of the watch: the ranks meet, each starts a process that watches it, and tells it what it is at and how it ends.

with watched(world, run_dir, hang_seconds, timeout_seconds):     around a run, at its door
    …                                                            world.beat says where the run is (train/world/beat.py)

What ends the run by an error is told to the watcher at once, which reports for all ranks (train/guard/watch/watcher.py); what libraries
print to stderr goes to the run's folder from then on: of twenty tracebacks of lost connections none is the cause.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import json
import mmap
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from train.guard import outcome
from train.guard.watch import peers, process
from train.guard.watch.fault_report import Watched
from train.world import beat, output
from train.world.environment import own_address
from train.world.ranks import World, node_of_process
from train.world.redact import redacted

ROOT = str(Path(__file__).resolve().parents[3])
STACK_SIGNAL = signal.SIGRTMIN + 9 if hasattr(signal, "SIGRTMIN") else signal.SIGUSR2  # schedulers send SIGUSR1 and SIGUSR2
REPORT_SECONDS = 15.0  # an error waits so long for its report to be said
RESTARTS = 3
Message = Callable[[BaseException], str | None]


class Watch:
    """The watcher of this rank, and the words to it."""

    def __init__(
        self, watched: Watched, kept: tuple[mmap.mmap, socket.socket], words: tuple[socket.socket, socket.socket], message: Message
    ) -> None:
        self.watched, self._kept, self._message = watched, kept, message
        self._mine, self._its = words
        self.over = threading.Event()
        self._told = False
        self._process = self._start()
        threading.Thread(target=self._listen, name="watch", daemon=True).start()

    def _start(self) -> subprocess.Popen:
        """Its own session, so that no signal of a terminal or launcher reaches it; names of the environment that hold no secret."""
        w = self.watched
        started = subprocess.Popen(
            [sys.executable, "-S", "-P", "-m", "train.guard.watch.watcher"],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=_screen(), pass_fds=(w.block_fd, w.listener_fd, w.words_fd), start_new_session=True,
            env={"PYTHONPATH": ROOT, "PATH": os.environ.get("PATH", ""), "LANG": os.environ.get("LANG", "C.UTF-8")},
        )  # fmt: skip
        with contextlib.suppress(OSError), started.stdin:
            started.stdin.write(json.dumps(dataclasses.asdict(w)).encode() + b"\n")
        return started

    def _listen(self) -> None:
        """The watcher's word. `end` means now, wherever the main thread hangs."""
        heard = b""
        while part := self._mine.recv(64):
            heard += part
            if b"over\n" in heard:
                self.over.set()
            if b"end\n" in heard:
                os._exit(1)

    def look_after(self) -> None:
        """A watcher that was killed is started again, a few times."""
        for _ in range(RESTARTS):
            self._process.wait()
            if self._told or self.over.is_set():
                return
            print(
                f"rank {self.watched.rank}: its watcher has ended with {self._process.returncode}; another is started",
                file=sys.stderr,
                flush=True,
            )
            self._process = self._start()

    def tell(self, state: str, **more: object) -> None:
        self._told = True
        with contextlib.suppress(OSError):
            self._mine.sendall(json.dumps({"state": state, **more}).encode() + b"\n")

    def failed(self, error: BaseException) -> None:
        """Tell what ends the run, once."""
        if self._told:
            return
        if isinstance(error, KeyboardInterrupt):
            self.tell("interrupted")
            return
        users = self._message(error)
        with contextlib.suppress(OSError), self.watched.notes.open("a", encoding="utf-8") as notes:
            notes.write(redacted("".join(traceback.format_exception(error))))
        self.tell(
            "raised", cause=redacted(users or cause_of(error)), error_type=type(error).__name__, users_fault=users is not None,
            named_ranks=list(getattr(error, "ranks", ())),
        )  # fmt: skip

    def end(self, error: BaseException | None) -> None:
        """The run is over: well, or the report of this error is waited for."""
        if error is None:
            self.tell("done")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            return
        self.failed(error)
        if not isinstance(error, KeyboardInterrupt) and self.over.wait(REPORT_SECONDS):
            if len(self.watched.addresses) > 1:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(1)  # what the interpreter would close now waits for ranks that are gone
            error.reported = True  # type: ignore[attr-defined]


def _screen() -> int | None:
    """Where Python's words to the user go."""
    with contextlib.suppress(OSError, ValueError):
        return sys.stderr.fileno()
    return None


# of libraries that ask the device for memory beside torch's allocator, whose errors are of no kind of their own
DEVICE_MEMORY = re.compile(r"\b(CUDA|HIP|NCCL)\b.{0,40}out of memory|STATUS_ALLOC_FAILED", re.IGNORECASE)


def cause_of(error: BaseException) -> str:
    """An error that has no message for the user in words: its kind, what it says, the place in our code."""
    text = str(error).strip()
    if isinstance(error, SystemExit):
        return f"the process was asked to exit with {error.code!r} from within, before the run was done{_place(error)}"
    name = type(error).__name__
    if name == "OutOfMemoryError" or DEVICE_MEMORY.search(text):
        line = next((line for line in text.splitlines() if DEVICE_MEMORY.search(line)), text)
        sentences = ". ".join(line.strip().split(". ")[:3]).rstrip(".")
        return (
            f"{sentences}. Lower micro_batch or data.seq_len, set model.activation_checkpointing, or take an engine that offloads "
            f"(ds_configs/README.md){_place(error)}"
        )
    if isinstance(error, MemoryError):
        return f"the host's memory is used up ({text or name}); fewer ranks a host, or an engine that offloads less{_place(error)}"
    return f"{name}: {text}{_place(error)}"


def _place(error: BaseException) -> str:
    ours = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(ROOT + "/") and "site-packages" not in f.filename]
    return f" ({ours[-1].filename[len(ROOT) + 1 :]}:{ours[-1].lineno} in {ours[-1].name})" if ours else ""


@contextlib.contextmanager
def watched(world: World, run_dir: Path, hang_seconds: float, timeout_seconds: float, message: Message) -> Iterator[None]:
    """A run under watch. Collective: the ranks meet here, and each comes to know where the others' watchers listen.

    Args:
        message: what an error says to the user; None for one of the program's own faults.
    Raises:
        what the run raises; its attribute `reported` is true when the watchers have said all there is to say.
    """
    world.connect(int(timeout_seconds))
    address = own_address(os.environ)
    listener = peers.listen(address)
    chosen = (f"{time.strftime('%Y%m%dT%H%M%S')}-{secrets.token_hex(2)}", secrets.token_hex(16))
    met = world.gather((socket.gethostname(), address, listener.getsockname()[1], node_of_process(), chosen))
    attempt, secret = met[0][4]
    block_fd, block = _block()
    words = socket.socketpair()
    told = Watched(
        rank=world.rank, host=_hosts(met)[world.rank], hosts=_hosts(met), pid=os.getpid(), main_thread=threading.main_thread().ident, attempt=attempt,
        secret=secret, run_dir=str(run_dir), addresses=_addresses(met), block_fd=block_fd, listener_fd=listener.fileno(),
        words_fd=words[1].fileno(), stack_signal=STACK_SIGNAL, hang_seconds=hang_seconds, timeout_seconds=timeout_seconds,
        command=_command(), path=[ROOT, *_libraries()], launcher=os.getppid(),
    )  # fmt: skip
    world.beat.tell(block)
    with _noted(told.notes), _leaving_told(world.beat):
        watch = Watch(told, (block, listener), words, message)
        threading.Thread(target=watch.look_after, name="watch", daemon=True).start()
        world.beat.listener = watch.failed
        try:
            yield
        except BaseException as error:
            watch.end(error)
            raise
        else:
            watch.end(None)
        finally:
            world.beat.listener = None
            world.beat.tell(None)


def _command() -> list[str]:
    own = [os.path.basename(sys.executable), *(w for w in sys.argv if not w.startswith("--local_rank"))]
    return [redacted(w) for w in process.command_of(sys.argv[0], own, os.environ)]


def _block() -> tuple[int, mmap.mmap]:
    """Memory that another process can map, and that is gone with the last of them."""
    if hasattr(os, "memfd_create"):
        number = os.memfd_create("beat")
    else:
        import tempfile

        number = os.dup(tempfile.TemporaryFile().fileno())
    os.ftruncate(number, beat.SIZE)
    return number, mmap.mmap(number, beat.SIZE)


@contextlib.contextmanager
def _leaving_told(to: beat.Beat) -> Iterator[None]:
    """Who ends this process without Python's own end has said so before: by nothing else is it told from one that was killed. What leaves
    with 0 in the midst of a run has not finished it, and no launcher is to take it for that."""
    own, leave = os.getpid(), os._exit

    def told(code: int) -> None:
        if os.getpid() != own:  # a child, which shares the block
            leave(code)
        to.leaves(code)
        leave(code or outcome.FAILED)

    os._exit = told
    try:
        yield
    finally:
        os._exit = leave


@contextlib.contextmanager
def _noted(notes: Path) -> Iterator[None]:
    """Stacks on demand, and the libraries' stderr, into the notes; without a file for them all stays as it was."""
    try:
        notes.parent.mkdir(parents=True, exist_ok=True)
        file = notes.open("ab", buffering=0)
    except OSError:
        yield
        return
    with file, output.native_stderr_to(file):
        was = faulthandler.is_enabled()
        faulthandler.enable(file)  # where it dies of a signal
        faulthandler.register(STACK_SIGNAL, file, all_threads=True)
        try:
            yield
        finally:
            faulthandler.unregister(STACK_SIGNAL)
            faulthandler.enable() if was else faulthandler.disable()


def _libraries() -> list[str]:
    return sorted({p for p in sys.path if p.startswith("/")} - {ROOT}, key=len, reverse=True)


def _hosts(met: list) -> list[str]:
    """Host names by rank, with the address where two nodes bear one name."""
    nodes: dict[str, set] = {}
    for host, _, _, node, _ in met:
        nodes.setdefault(host, set()).add(node)
    return [host if len(nodes[host]) == 1 else f"{host} ({address})" for host, address, *_ in met]


def _addresses(met: list) -> list[tuple[str, int]]:
    return [(address, port) for _, address, port, _, _ in met]
