"""Curves on wandb, mlflow, trackio: each in a process of its own, which is told of every record and never waited for.

Tracker("wandb", …).log(step, values) → a bounded queue → a thread → tracker_process.py → the library
A tracker that fails, hangs or falls behind costs its own curves: it is warned of once and left, and the run goes on.
Its id lies in runs/NAME/trackers/wandb.json, so that a run that goes on is the same run there. None of them takes points back: after a
rewind the curves go on in a run of their own there, `NAME after rewind 1`, from the step gone back to.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import secrets
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from train.recipe.vocabulary import Recipe
from train.run import tracker_process
from train.world import voice
from train.world.places import write_durably

WAIT_SECONDS = {"finished": 15.0}  # at the run's end; what has not ended by then has tracker_process.LAST_SECONDS of its own
SHORT_SECONDS = 5.0  # a scheduler that stops a run does not wait
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)


class Tracker:
    """One tracker, as the run sees it. No call raises, and none but `close`, which follows `end`, waits."""

    def __init__(self, kind: str, recipe: Recipe, anew: bool):
        self.kind = kind
        self._queue: queue.Queue = queue.Queue(tracker_process.RECORDS)
        self._lock, self._left, self._closing = threading.Lock(), False, False
        self._process: subprocess.Popen | None = None
        folder = recipe.run_dir.absolute()
        self._words = folder / "trackers" / f"{kind}.log"
        try:
            begin = {
                "id": _identity(self._words.with_suffix(".json"), anew), "name": recipe.name, "project": recipe.logging.project, "folder": str(folder),
                "runs": str(recipe.runs.absolute()), "config": without_secrets(recipe.to_dict()), "state": str(self._words.with_suffix(".json")),
            }  # fmt: skip
            with self._words.open("ab") as words:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", tracker_process.__file__, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words,
                    start_new_session=True, cwd=folder, text=True,
                )  # fmt: skip
        except OSError as error:
            self._leave(str(error))
            return
        self._put(begin)
        for work in (self._write, self._read):
            threading.Thread(target=work, name=kind, daemon=True).start()

    def log(self, step: int, values: dict[str, float]) -> None:
        self._put({"step": step, "values": values})

    def rewound(self, number: int) -> None:
        """Steps that follow are of a run that has gone back so often; told again, it changes nothing."""
        self._put({"rewound": number})

    def end(self, how: str) -> None:
        """how: finished, stopped or failed."""
        self._closing = True
        self._seconds = WAIT_SECONDS.get(how, SHORT_SECONDS)
        self._ended = time.monotonic()
        self._put({"end": how})
        self._put(None)

    def close(self) -> None:
        """Wait a little for what `end` has begun; all trackers of a run wait at once."""
        if self._left:
            return
        try:
            code = self._process.wait(max(0.1, self._ended + self._seconds - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._warn(
                f"not done {self._seconds:g} s after the run's end; it has {tracker_process.LAST_SECONDS} s more, then its last records are lost"
            )
            return
        if code:
            self._leave(self._last_words(code))

    def _put(self, item: dict[str, Any] | None) -> None:
        if self._left:
            return
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self._leave(f"it has not taken the last {self._queue.maxsize:,} records")

    def _write(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # it is gone: _read says so
            while (item := self._queue.get()) is not None:
                self._process.stdin.write(json.dumps(item) + "\n")
                self._process.stdin.flush()
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.close()

    def _read(self) -> None:
        for line in self._process.stdout:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                voice.say(f"{self.kind}: {without_secrets(json.loads(line)['where'])}")
        code = self._process.wait()
        if not self._closing:
            self._leave(self._last_words(code))

    def _last_words(self, code: int) -> str:
        try:
            lines = self._words.read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return f"{lines[-1][:300] if lines else 'no word of why'} (exit code {code})"

    def _leave(self, why: str) -> None:
        with self._lock:
            if self._left:
                return
            self._left = True
        self._warn(f"{without_secrets(why)}; the run goes on without it, and metrics.jsonl has everything. More in {self._words}")
        if self._process is not None:
            self._process.kill()

    def _warn(self, text: str) -> None:
        print(f"warning: {self.kind}: {text}", file=sys.stderr, flush=True)


def _identity(path: Path, anew: bool) -> str:
    """The id under which a run stands at a tracker: the one it has had, unless it starts anew."""
    if not anew:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            kept = json.loads(path.read_text())
            if kept["sent"].keys() <= {"train", "heldout"}:
                return str(kept["id"])
    path.parent.mkdir(parents=True, exist_ok=True)
    identity = secrets.token_hex(4)
    write_durably(path, json.dumps({"id": identity, "sent": {}}))
    return identity


def without_secrets(value: Any) -> Any:
    """Text, or texts within lists and mappings, without passwords in URLs and values of variables that hold keys."""
    if isinstance(value, dict):
        return {key: without_secrets(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_secrets(one) for one in value]
    if not isinstance(value, str):
        return value
    text = re.sub(r"(?<=://)[^/@\s]+@", "***@", value)
    for name, secret in os.environ.items():
        if SECRET.search(name) and len(secret) >= 6 and secret in text:
            text = text.replace(secret, "***")
    return text
