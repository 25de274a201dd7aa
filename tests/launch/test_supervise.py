"""Runs that end are started again when that is worth it; the ranks and launchers here are small stand-ins, the supervisor is the real one."""

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.made import processes, tiny
from train.guard.supervise import parse_hostfile

pytestmark = pytest.mark.slow

# A launcher: two ranks; it ends them and itself with the first that fails, as its kind does.
LAUNCHER = """#!{python}
import os, subprocess, sys, time
if "--give-0" in sys.argv:
    sys.argv.remove("--give-0"); lost = True
else:
    lost = False
at = next(i for i, w in enumerate(sys.argv) if w.endswith("pretrain.py"))
attempt = int(open("{starts}").read()) if os.path.exists("{starts}") else 0
open("{starts}", "w").write(str(attempt + 1))
ranks = [subprocess.Popen([sys.executable, "{rank}", *sys.argv[at + 1:]], env=os.environ | {{"RANK": str(r), "ATTEMPT": str(attempt)}}) for r in (0, 1)]
while any(r.poll() is None for r in ranks):
    if any(r.poll() for r in ranks):
        [r.terminate() for r in ranks if r.poll() is None]  # and gives them time, as DeepSpeed's does
        break
    time.sleep(0.02)
codes = [r.wait() for r in ranks]
sys.exit(0 if lost else max(map(abs, codes)))
"""

# torchrun: starts its ranks again itself, whatever they ended with; passes SIGTERM on, and ends.
ELASTIC = """#!{python}
import os, signal, subprocess, sys, time
at, told, ranks = next(i for i, w in enumerate(sys.argv) if w.endswith("pretrain.py")), [], []
signal.signal(signal.SIGTERM, lambda *a: (told.append(1), [r.terminate() for r in ranks]))
for _ in range(50):
    attempt = int(open("{starts}").read()) if os.path.exists("{starts}") else 0
    open("{starts}", "w").write(str(attempt + 1))
    ranks = [subprocess.Popen([sys.executable, "{rank}", *sys.argv[at + 1:]], env=os.environ | {{"RANK": str(r), "ATTEMPT": str(attempt)}}) for r in (0, 1)]
    codes = [r.wait() for r in ranks]
    if told or not any(codes):
        break
sys.exit(1 if told else max(codes))
"""

# A rank: behaves in its nth start as the nth line of `behaviour` says; makes a step every twentieth of a second.
RANK = """
import json, os, signal, sys, time
from pathlib import Path
run = Path("{run}"); run.mkdir(parents=True, exist_ok=True)
behaviour, zero = Path("{behaviour}").read_text().split(), os.environ["RANK"] == "0"
started, told = time.time(), []
signal.signal(signal.SIGTERM, lambda *a: told.append("SIGTERM"))
signal.signal(signal.SIGUSR1, lambda *a: told.append("SIGUSR1"))
outcome = run / "outcome.json"
n = int(os.environ["ATTEMPT"])
(run / ("attempts" + os.environ["RANK"])).write_text(str(n + 1))
what = behaviour[min(n, len(behaviour) - 1)]
lines = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").exists() else []
step = json.loads(lines[-1])["step"] if lines else 0
def say(ended, code, cause):
    if zero:
        outcome.write_text(json.dumps(dict(ended=ended, exit_code=code, step=step, checkpoint=None, cause=cause, attempt=n + 1, started=started, time="")))
say("running", None, "")
if what == "mistake":
    say("failed", 1, "shards/a: damaged"); sys.exit(1)
for i in range(1, 4 if what != "train" else 10**6):
    time.sleep(0.05)
    step += 1
    if zero:
        with open(run / "metrics.jsonl", "a") as f: f.write(json.dumps(dict(step=step, loss=1.0)) + "\\n")
    if told:
        time.sleep(0.3)
        say("preempted", 75, told[0]); sys.exit(75)
if what == "die" and not zero: os.kill(os.getpid(), signal.SIGKILL)
if what == "die":
    while not told: time.sleep(0.05)
    sys.exit(1)
if what == "launcher": os.kill(os.getppid(), signal.SIGKILL) if zero else None; time.sleep(0.5); say("preempted", 75, "the end of the launcher"); sys.exit(75)
if what == "silent": os._exit(0)
if what in ("fault", "alone"):
    (run / "faults").mkdir(exist_ok=True)
    ranks = [dict(rank=0, host="gpu01" if what == "fault" else "gpu02"), dict(rank=1, host="gpu02")]
    (run / "faults" / f"{{n}}.json").write_text(json.dumps(dict(rank=1, host="gpu02", step=step, phase="backward", cause=f"ECC {{n}}", all_ranks=ranks)))
    sys.exit(1)
say("finished", 0, "")
"""


class Ground:
    def __init__(self, folder: Path, launcher: str):
        tiny.write_recipe(folder, name="run")
        self.folder, self.run, self.launcher = folder, folder / "runs" / "run", folder / "bin" / launcher
        (folder / "rank.py").write_text(RANK.format(run=self.run, behaviour=folder / "behaviour"))
        self.launcher.parent.mkdir()
        self.launcher.write_text(
            (ELASTIC if launcher == "torchrun" else LAUNCHER).format(
                python=sys.executable, rank=folder / "rank.py", starts=folder / "starts"
            )
        )
        self.launcher.chmod(0o755 | stat.S_IXUSR)

    def start(self, behaviour: str, *options: str, launcher_options: tuple[str, ...] = ()) -> subprocess.Popen:
        (self.folder / "behaviour").write_text(behaviour)
        command = [sys.executable, "launch/supervise.py", "--wait", "0.1", "--longest-wait", "0.2", "--grace", "5", *options, "--"]
        train = [self.launcher, *launcher_options, "launch/pretrain.py", self.folder / "recipe.yaml", "steps=9"]
        env = os.environ | {"HOME": str(self.folder), "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}
        return processes.start([*command, *train], env=env)

    def end(self, behaviour: str, *options: str, **more) -> tuple[int, str]:
        process = self.start(behaviour, *options, **more)
        said = process.communicate(timeout=60)[1]
        assert not self.alive(), "orphans"
        return process.returncode, said

    def alive(self) -> list[psutil.Process]:
        """Ranks and launchers of this run."""
        found = []
        for p in psutil.process_iter(["cmdline", "status"]):
            if str(self.folder / "recipe.yaml") in (p.info["cmdline"] or []) and "launch/supervise.py" not in p.info["cmdline"]:
                found += [p] if p.info["status"] != psutil.STATUS_ZOMBIE else []
        return found

    def steps(self) -> int:
        file = self.run / "metrics.jsonl"
        return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.fixture
def ground(tmp_path) -> Ground:
    return Ground(tmp_path, "deepspeed")


@pytest.mark.parametrize(
    "behaviour, code, starts",
    [
        ("finish", 0, 1),
        ("die die finish", 0, 3),
        ("launcher finish", 0, 2),
        ("silent finish", 0, 2),
        ("mistake finish", 0, 2),
        ("mistake mistake finish", 1, 2),
    ],
)
def test_what_is_worth_it_is_started_again(ground, behaviour, code, starts):
    got, said = ground.end(behaviour)
    assert got == code, said
    assert said.count("supervise: start") == starts, said


def test_a_launchers_0_without_a_finished_run_is_none_and_starts_in_vain_are_limited(ground):
    code, said = ground.end("mistake", "--restarts", "2", launcher_options=("--give-0",))
    assert code == 1 and "twice the same" in said


@pytest.mark.parametrize("launcher, number", [("deepspeed", signal.SIGTERM), ("deepspeed", signal.SIGUSR1), ("python3", signal.SIGTERM)])
def test_a_signal_to_the_supervisor_saves_ends_and_gives_75(tmp_path, launcher, number):
    ground = Ground(tmp_path, launcher)
    process = ground.start("train")
    processes.wait_until(lambda: ground.steps() > 2, process)
    os.kill(process.pid, number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 75, said
    assert "told to stop" in said and not ground.alive()


def test_a_stop_told_to_another_nodes_supervisor_of_the_same_run_is_heard(ground):
    process = ground.start("train train")
    processes.wait_until(lambda: ground.steps() > 2, process)
    elsewhere = json.loads((ground.run / "outcome.json").read_text())["started"]
    (ground.run / "stop.json").write_text(json.dumps({"started": elsewhere, "host": "gpu02"}))
    for rank in [p for p in ground.alive() if any(word.endswith("rank.py") for word in p.cmdline())]:
        rank.terminate()  # as that supervisor's signal reaches all ranks
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 75 and said.count("supervise: start") == 1, said
    code, said = ground.end("train die finish")  # that stop was for another start
    assert code == 0 and "starting again" in said, said


def test_torchrun_is_ended_where_its_own_restarts_are_no_use(tmp_path):
    ground = Ground(tmp_path, "torchrun")
    code, said = ground.end("mistake")
    assert code == 1 and "twice the same" in said and "torchrun is told to end" in said, said
    code, said = ground.end("- - - - - - - - - - - - - - - - - - - - finish")
    assert code == 0, said


def test_a_node_that_torchrun_shuts_out_is_let_in_by_a_new_start_of_all(tmp_path):
    ground = Ground(tmp_path, "torchrun")
    process = ground.start("train")
    processes.wait_until(lambda: ground.steps() > 2, process)
    (ground.run / "join.json").write_text(json.dumps({"host": "gpu09"}))
    processes.wait_until(lambda: (ground.run / "attempts0").read_text() == "2", process)
    at = ground.steps()
    processes.wait_until(lambda: ground.steps() > at + 2, process)
    os.kill(process.pid, signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 75 and "gpu09 wants to join" in said and said.count("supervise: start") >= 2, said


def test_a_supervisor_that_is_killed_takes_its_launcher_along(ground):
    process = ground.start("train")
    processes.wait_until(lambda: ground.steps() > 2, process)
    [launcher] = [p for p in ground.alive() if str(ground.launcher) in p.cmdline()]
    os.kill(process.pid, signal.SIGKILL)
    processes.wait_until(lambda: not launcher.is_running() or launcher.status() == psutil.STATUS_ZOMBIE, seconds=20)
    for rank in ground.alive():  # real ranks end with their launcher by themselves
        rank.kill()
    process.communicate(timeout=20)


def test_a_host_at_fault_again_and_again_is_left_out(tmp_path):
    ground = Ground(tmp_path, "deepspeed")
    hostfile = tmp_path / "hosts"
    hostfile.write_text("gpu01.cluster slots=1\ngpu02.cluster slots=1\n")  # a rank there calls its host gpu02
    ssh = tmp_path / "bin" / "ssh"
    ssh.write_text("#!/bin/sh\nexit 0\n")
    ssh.chmod(0o755)
    code, said = ground.end("fault fault finish", launcher_options=("--hostfile", str(hostfile), "--master_addr", "gpu02.cluster"))
    assert code == 0, said
    assert "without gpu02.cluster: at fault again and again" in said
    assert list(parse_hostfile((ground.run / "hostfile").read_text())) == ["gpu01.cluster"]
    code, said = ground.end("- - - fault fault finish")  # where another chooses the hosts
    assert code == 0 and "gpu02: at fault again and again; have it looked at" in said, said
    assert hostfile.read_text() == "gpu01.cluster slots=1\ngpu02.cluster slots=1\n", "the user's own stays as it was"


def test_a_report_is_of_one_start_and_the_only_host_of_a_run_is_not_blamed(ground):
    code, said = ground.end("alone silent alone finish")
    assert code == 0 and said.count("ECC 0") == said.count("ECC 2") == 1, said
    assert "ended with 1" in said and "at fault again" not in said, said


def test_a_wrong_recipe_is_refused_before_anything_starts(ground):
    tiny.write_recipe(ground.folder, tokens_per_step="many", nothing=1)
    code, said = ground.end("finish")
    assert code == 1 and "tokens_per_step" in said and "nothing" in said and not ground.run.exists()


def test_hostfiles_and_secrets_are_looked_at_before_anything_starts(tmp_path):
    ground = Ground(tmp_path, "deepspeed")
    code, said = ground.end("finish", launcher_options=("--hostfile", str(tmp_path / "none")))
    assert code == 1 and "train on this node alone" in said
    (tmp_path / "hosts").write_text("gpu01\n")
    code, said = ground.end("finish", launcher_options=("-H", str(tmp_path / "hosts")))
    assert code == 1 and "line 1" in said
    (tmp_path / "hosts").write_text("gpu01 slots=1\n")
    (tmp_path / ".deepspeed_env").write_text("HF_TOKEN=hf_canary\n")
    code, said = ground.end("finish", launcher_options=(f"--hostfile={tmp_path / 'hosts'}",))
    assert code == 1 and "HF_TOKEN" in said and "canary" not in said
    assert not ground.run.exists()


def test_without_a_training_command_usage_is_told():
    for words in ((), ("--",), ("--", "sleep", "1")):
        done = processes.run([sys.executable, "launch/supervise.py", *words])
        assert done.returncode == 2 and "training command" in done.stderr


def test_steps_are_counted_although_a_line_was_cut_short(tmp_path):
    from train.guard.attempts import newest_step

    assert newest_step(tmp_path) == 0
    (tmp_path / "metrics.jsonl").write_text(
        json.dumps({"step": 3, "loss": 1.0}) + "\n" + json.dumps({"step": 3, "heldout/a/loss": 1}) + '\n{"step": 4, "lo'
    )
    assert newest_step(tmp_path) == 3
