"""One tracker in a process of its own: lines of JSON on stdin → wandb, mlflow or trackio; what it has to say, lines of JSON on stdout.

begin {id, name, project, folder, runs, config, state}, then {step, values} …, {rewound: 1} …, then {end: finished | stopped | failed};
an input that just ends has failed. It is run by its path and imports nothing of ours: whatever a library does, it does it here.
"""

from __future__ import annotations

import json
import netrc
import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

LAST_SECONDS = 30  # what a library may take once its run has ended
RECORDS = 10_000  # that wait for it


class Wandb:
    """Online where there is a key, else into the run's folder, from where `wandb sync` sends it."""

    def __init__(self, begin: dict[str, Any]):
        import wandb

        mode = os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
        settings = wandb.Settings(console="off", disable_git=True, disable_code=True, silent=True)
        self._run = wandb.init(
            project=begin["project"], name=begin["name"], id=begin["id"], resume="allow", dir=begin["folder"], config=begin["config"], mode=mode,
            settings=settings,
        )  # fmt: skip
        self.where = self._run.url or f"{mode}; `wandb sync {Path(self._run.dir).parent.parent}/*-{begin['id']}` sends it"

    def log(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def end(self, how: str) -> None:
        self._run.finish(exit_code=int(how == "failed"))


def _has_key() -> bool:
    """Without one wandb would ask for it, and wait."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    try:
        return netrc.netrc().authenticators(urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


class Mlflow:
    """On the server of MLFLOW_TRACKING_URI, else in files beside the runs."""

    def __init__(self, begin: dict[str, Any]):
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"  # a database file is no good on the disks that clusters share
            uri = Path(begin["runs"], "mlflow").as_uri()
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(begin["project"])
        experiment = found.experiment_id if found else self._client.create_experiment(begin["project"])
        runs = self._client.search_runs([experiment], f"tags.`astrollama.id` = '{begin['id']}'")
        if runs:
            self._run = runs[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
        else:
            self._run = self._client.create_run(experiment, tags={"astrollama.id": begin["id"]}, run_name=begin["name"]).info.run_id
            params = [Param(key, str(value)[:500]) for key, value in _flat(begin["config"])]
            for at in range(0, len(params), 100):  # a server takes no more at once
                self._client.log_batch(self._run, params=params[at : at + 100])
        shown = uri if uri.startswith("file:") else "the server of MLFLOW_TRACKING_URI"
        self.where = f"run {self._run} of experiment {begin['project']} in {shown}"

    def log(self, step: int, values: dict[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._run, metrics=[Metric(key, value, now, step) for key, value in values.items()])

    def end(self, how: str) -> None:
        self._client.set_terminated(self._run, {"finished": "FINISHED", "stopped": "KILLED"}.get(how, "FAILED"))


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs = []
    for key, value in values.items():
        pairs += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return pairs


class Trackio:
    """In TRACKIO_DIR, else beside the runs; on the Hub where TRACKIO_SPACE_ID says so."""

    def __init__(self, begin: dict[str, Any]):
        folder = os.environ.setdefault("TRACKIO_DIR", str(Path(begin["runs"], "trackio")))
        import trackio

        name = f"{begin['name']}-{begin['id']}"
        self._run = trackio.init(
            project=begin["project"], name=name, config=begin["config"], resume="allow", embed=False, auto_log_gpu=False, auto_log_cpu=False
        )
        self.where = f"run {name}; `TRACKIO_DIR={folder} trackio show --project {begin['project']}` shows it"

    def log(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def end(self, how: str) -> None:
        self._run.finish()


TRACKERS = {"wandb": Wandb, "mlflow": Mlflow, "trackio": Trackio}


class Sent:
    """The newest step of each kind of record that a tracker has had: what a resumed run makes again is not sent again."""

    def __init__(self, state: Path):
        self._state = state
        self._content = json.loads(state.read_text())
        self._written = 0.0

    def is_new(self, step: int, values: dict[str, float]) -> bool:
        return step > self._content["sent"].get(self._kind(values), -1)

    def note(self, step: int, values: dict[str, float]) -> None:
        self._content["sent"][self._kind(values)] = step
        if time.monotonic() - self._written > 1:
            self.write()

    def write(self) -> None:
        tmp = self._state.with_suffix(".tmp")
        tmp.write_text(json.dumps(self._content))
        tmp.replace(self._state)
        self._written = time.monotonic()

    def of_run(self, begin: dict[str, Any]) -> dict[str, Any]:
        """Under which id and name the run stands there: after a rewind it is another."""
        number = self._content.get("rewinds", 0)
        return begin if not number else {**begin, "id": f"{begin['id']}-{number}", "name": f"{begin['name']} after rewind {number}"}

    def rewound(self, number: int) -> bool:
        """Whether that is news; nothing has been sent of the run after it then."""
        if number <= self._content.get("rewinds", 0):
            return False
        self._content |= {"rewinds": number, "sent": {}}
        self.write()
        return True

    @staticmethod
    def _kind(values: dict[str, float]) -> str:
        return "heldout" if any(key.startswith("heldout/") for key in values) else "train"


def read_input(records: queue.Queue) -> None:
    """Lines of stdin into the queue; at its end this process has LAST_SECONDS to live."""
    parent = os.getppid()
    for line in sys.stdin:
        while True:
            try:
                records.put(json.loads(line), timeout=5)
                break
            except queue.Full:
                if os.getppid() != parent:
                    os._exit(1)
    signal.alarm(LAST_SECONDS)
    records.put({"end": "failed"})


def main(kind: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # the run's stop is told at the end of its input
    os.nice(10)
    records: queue.Queue = queue.Queue(RECORDS)
    threading.Thread(target=read_input, args=(records,), daemon=True).start()
    begin = records.get()
    sent = Sent(Path(begin["state"]))

    def opened() -> Any:
        tracker = TRACKERS[kind](sent.of_run(begin))
        try:
            print(json.dumps({"where": tracker.where}), file=answers, flush=True)
        except BrokenPipeError:
            pass  # the run has ended already; its records are still here
        return tracker

    tracker = opened()
    while "end" not in (record := records.get()):
        if "rewound" in record:
            if sent.rewound(record["rewound"]):
                tracker.end("stopped")
                tracker = opened()
        elif sent.is_new(record["step"], record["values"]):
            tracker.log(record["step"], record["values"])
            sent.note(record["step"], record["values"])
    tracker.end(record["end"])
    sent.write()


if __name__ == "__main__":
    main(sys.argv[1])
