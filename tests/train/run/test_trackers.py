"""A tracker sees every step once, across a kill and a resume; one that raises, hangs or dies is warned of once and stops nothing."""

import json
import os
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tests.made import processes
from train.preflight.installed import absent_trackers
from train.recipe.vocabulary import Data, Logging, Model, Recipe
from train.run import trackers
from train.run.metrics_log import MetricsLog
from train.run.rates import Flops, StepNumbers
from train.run.trackers import Tracker, without_secrets
from train.world.ranks import World

pytestmark = pytest.mark.slow

STAND_IN = """
import json, os, time
class Run:
    def __init__(self, **given):
        self.file = open(os.environ["TRACKIO_DIR"] + "/seen.jsonl", "a")
        self.write(given)
    def write(self, record):
        self.file.write(json.dumps(record) + "\\n"); self.file.flush()
    def log(self, values, step):
        {log}
        self.write([step, values])
    def finish(self):
        self.write("finished")
def init(**given):
    print("a library's greeting")
    {init}
    return Run(**given)
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A library called trackio that does as it is told."""

    def make(init: str = "pass", log: str = "pass") -> Recipe:
        library = tmp_path / "library"
        library.mkdir(exist_ok=True)
        (library / "trackio.py").write_text(STAND_IN.replace("{init}", init).replace("{log}", log))
        monkeypatch.setenv("PYTHONPATH", str(library))
        monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
        return recipe_in(tmp_path, "trackio")

    return make


def recipe_in(folder: Path, *to: str) -> Recipe:
    model, data = Model(path="s3://me:secret-in-url@bucket/model"), Data(sources={})
    made = Recipe(name="run", model=model, data=data, steps=9, tokens_per_step=1, runs=folder / "runs", logging=Logging(to=to))
    made.run_dir.mkdir(parents=True, exist_ok=True)
    return made


def ended(tracker: Tracker, how: str) -> None:
    tracker.end(how)
    tracker.close()


def seen(folder: Path) -> list:
    return [json.loads(line) for line in (folder / "seen.jsonl").read_text().splitlines()]


def test_every_step_is_seen_once_under_one_id_across_a_kill(tmp_path, stand_in):
    recipe = stand_in()
    first = Tracker("trackio", recipe, anew=False)
    for step in range(6):
        first.log(step, {"train/loss": 1.0 / (step + 1)})
    first.log(5, {"heldout/a/loss": 2.0})
    processes.wait_until(lambda: (tmp_path / "seen.jsonl").is_file() and len(seen(tmp_path)) == 8)
    first._process.stdin.close()  # as the kernel does for a run that is killed
    first._closing = True
    assert first._process.wait(30) == 0
    again = Tracker("trackio", recipe, anew=False)
    for step in range(3, 9):
        again.log(step, {"train/loss": 1.0 / (step + 1)})
        if step % 4 == 1:
            again.log(step, {"heldout/a/loss": 2.0})
    ended(again, "finished")
    records = seen(tmp_path)
    begins, steps = [r for r in records if isinstance(r, dict)], [r for r in records if isinstance(r, list)]
    assert begins[0] == begins[1] and begins[0]["project"] == "astrollama" and begins[0]["name"].startswith("run-")
    assert [s for s, values in steps if "train/loss" in values] == list(range(9))
    assert [s for s, values in steps if "heldout/a/loss" in values] == [5]
    assert records.count("finished") == 2 and "secret-in-url" not in json.dumps(begins)
    assert "greeting" in (recipe.run_dir / "trackers" / "trackio.log").read_text()
    anew = Tracker("trackio", recipe, anew=True)
    anew.log(1, {"train/loss": 1.0})
    ended(anew, "finished")
    assert seen(tmp_path)[-3]["name"] != begins[0]["name"] and seen(tmp_path)[-2][0] == 1


def test_after_a_rewind_the_curves_go_on_in_a_run_of_their_own_across_a_resume(tmp_path, stand_in):
    recipe = stand_in()
    first = Tracker("trackio", recipe, anew=False)
    for step in range(6):
        first.log(step, {"train/loss": 1.0})
    first.rewound(1)
    for step in range(3, 5):
        first.log(step, {"train/loss": 2.0})
    ended(first, "stopped")
    again = Tracker("trackio", recipe, anew=False)
    again.rewound(1)  # every start tells how many there were
    for step in range(4, 8):
        again.log(step, {"train/loss": 2.0})
    ended(again, "finished")
    runs: dict[str, list[int]] = {}
    for record in seen(tmp_path):
        if isinstance(record, dict):
            points = runs.setdefault(record["name"], [])
        elif isinstance(record, list):
            points.append(record[0])
    (before, kept), (after, made_again) = runs.items()
    assert kept == list(range(6)) and made_again == list(range(3, 8))
    assert before.startswith("run-") and after.startswith("run after rewind 1-")


@pytest.mark.parametrize(
    "init, log, told",
    [
        ("raise ValueError('no server: key-123456')", "pass", "ValueError: no server: ***"),
        ("pass", "raise OSError(28, 'No space left on device')", "No space left on device"),
        ("os._exit(7)", "pass", "exit code 7"),
        ("os.kill(os.getpid(), 11)", "pass", "exit code -11"),
        ("raise SystemExit(3)", "pass", "exit code 3"),
    ],
)
def test_one_that_fails_is_warned_of_once_and_left(tmp_path, stand_in, monkeypatch, capfd, init, log, told):
    monkeypatch.setenv("SOME_API_KEY", "key-123456")
    tracker = Tracker("trackio", stand_in(init, log), anew=False)
    tracker.log(1, {"train/loss": 1.0})
    tracker._process.wait(30)
    processes.wait_until(lambda: tracker._left)
    for step in range(100):
        tracker.log(step, {"train/loss": 1.0})
    ended(tracker, "finished")
    err = capfd.readouterr().err
    assert err.count("warning: trackio:") == 1 and told in err and "the run goes on without it" in err, err
    assert "key-123456" not in err


def test_one_that_hangs_is_not_waited_for(tmp_path, stand_in, monkeypatch, capfd):
    monkeypatch.setattr(trackers, "SHORT_SECONDS", 0.2)
    tracker = Tracker("trackio", stand_in("time.sleep(1000)"), anew=False)
    tracker.log(1, {"train/loss": 1.0})
    begun = time.monotonic()
    ended(tracker, "stopped")
    assert time.monotonic() - begun < 20 and "not done 0.2 s after the run's end" in capfd.readouterr().err
    tracker._process.kill()  # its own end comes 30 s later
    tracker._process.wait(30)


def test_one_that_takes_nothing_is_left_when_its_queue_is_full(tmp_path, stand_in, monkeypatch, capfd):
    tracker = Tracker("trackio", stand_in("time.sleep(1000)"), anew=False)
    values = {"train/loss": 1.0, "train/filling": 12345678.9}
    for step in range(100_000):
        tracker.log(step, values)
        if tracker._left:
            break
    assert tracker._left
    assert tracker._process.wait(30) == -9
    ended(tracker, "finished")
    err = capfd.readouterr().err
    assert err.count("warning:") == 1 and "it has not taken the last 10,000 records" in err


def test_a_process_whose_run_was_killed_while_it_hangs_ends_by_itself(tmp_path, stand_in, monkeypatch):
    short = tmp_path / "tracker_process.py"
    short.write_text(Path(trackers.tracker_process.__file__).read_text().replace("LAST_SECONDS = 30", "LAST_SECONDS = 1"))
    monkeypatch.setattr(trackers.tracker_process, "__file__", str(short))
    tracker = Tracker("trackio", stand_in("time.sleep(1000)"), anew=False)
    tracker._closing = True
    tracker._queue.put(None)
    assert tracker._process.wait(60) == -14


def test_the_log_tells_the_trackers_what_it_writes_and_how_the_run_ended(tmp_path, stand_in):
    tracker = Tracker("trackio", stand_in(), anew=False)
    log = MetricsLog(
        tmp_path, World(0, 1, 0, torch.device("cpu")), Flops(1, 8, 1.0, 1.0, None), Logging(tensorboard=False), 5, 0, [tracker]
    )
    log.step(StepNumbers(
        step=1, loss=float("nan"), lr=1e-5, grad_norm=1.25, tokens=3000, step_tokens=1000, supervised=990, seconds=2.0, wait_seconds=0.5, attended=100.0,
        skipped=True,
    ))  # fmt: skip
    log.close()
    [[step, values]] = [r for r in seen(tmp_path) if isinstance(r, list)]
    assert step == 1 and values["train/lr"] == 1e-5 and values["train/skipped"] == 1.0 and "train/loss" not in values


def test_a_tracker_that_is_not_installed_is_a_fault_with_the_command(tmp_path, monkeypatch):
    for name in ("wandb", "mlflow", "trackio"):
        (tmp_path / name).mkdir()  # a folder that it would leave is no library
    monkeypatch.syspath_prepend(tmp_path)
    absent = [name for name in ("wandb", "mlflow", "trackio") if not find_spec(name).origin]
    faults = list(absent_trackers(recipe_in(tmp_path, "tensorboard", *absent)))
    assert len(faults) == len(absent) and all("pip install" in fault and "logging.to=" in fault for fault in faults)
    assert absent or all(find_spec(name).origin for name in ("wandb", "mlflow", "trackio"))


def test_no_secret_goes_along(monkeypatch):
    monkeypatch.setenv("MY_PASSWORD", "hunter2hunter2")
    told = without_secrets({"to": "s3://key:pass@host/b", "list": ["x hunter2hunter2 y", 3], "plain": "https://host/p"})
    assert told == {"to": "s3://***@host/b", "list": ["x *** y", 3], "plain": "https://host/p"}


@pytest.mark.parametrize("kind", ["wandb", "mlflow", "trackio"])
def test_the_real_one_has_one_run_with_one_curve_after_a_resume(tmp_path, monkeypatch, kind):
    found = find_spec(kind)
    if found is None or not found.origin:
        pytest.skip(f"{kind} is not installed here: its stand-in is tested alone")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "MLFLOW_TRACKING_URI", "TRACKIO_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = recipe_in(tmp_path, kind)
    monkeypatch.setattr(trackers, "WAIT_SECONDS", {"finished": 90.0})
    for steps in (range(1, 6), range(4, 9)):
        tracker = Tracker(kind, recipe, anew=False)
        for step in steps:
            tracker.log(step, {"train/loss": 1.0 / step})
        ended(tracker, "finished")
        assert not tracker._left and tracker._process.poll() == 0
    assert READ[kind](recipe) == [[s, 1.0 / s] for s in range(1, 9)]


def of_wandb(recipe: Recipe) -> list:
    identity = json.loads((recipe.run_dir / "trackers" / "wandb.json").read_text())
    folders = sorted((recipe.run_dir / "wandb").glob(f"offline-run-*-{identity['id']}"))
    assert len({*folders}) == len([*(recipe.run_dir / "wandb").glob("offline-run-*")]) >= 1
    assert identity["sent"] == {"train": 8}
    return [[s, 1.0 / s] for s in range(1, 9)]  # its file can be read by its server alone


def of_mlflow(recipe: Recipe) -> list:
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    from mlflow.tracking import MlflowClient

    client = MlflowClient((recipe.runs / "mlflow").absolute().as_uri())
    [run] = client.search_runs([client.get_experiment_by_name("astrollama").experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["name"] == "run"
    return [[m.step, m.value] for m in client.get_metric_history(run.info.run_id, "train/loss")]


def of_trackio(recipe: Recipe) -> list:
    import sqlite3

    [database] = (recipe.runs / "trackio").glob("*.db")
    rows = sqlite3.connect(database).execute("select distinct run_name, step, metrics from metrics order by step").fetchall()
    assert len({name for name, _, _ in rows}) == 1
    return [[step, json.loads(metrics)["train/loss"]] for _, step, metrics in rows]


READ = {"wandb": of_wandb, "mlflow": of_mlflow, "trackio": of_trackio}
