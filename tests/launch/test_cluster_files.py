"""The files that start runs on clusters: their words are right, their mistakes are told; what they do on nodes is tests/launch/test_multinode.py."""

import json
import os
import socket
import time

import pytest
import yaml

from tests.made import processes
from tests.made.where import ROOT
from train.guard.supervise import parse_hostfile

pytestmark = pytest.mark.slow
LAUNCH = ROOT / "launch"


@pytest.fixture
def env(tmp_path):
    """A python that shows what it is called with."""
    (tmp_path / "python").write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\nexit ${CODE:-0}\n')
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "scontrol").write_text('#!/bin/sh\necho scontrol "$@"\n')
    (tmp_path / "scontrol").chmod(0o755)
    keep = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("SLURM", "MASTER_")) and k not in ("NODE_RANK", "HOSTFILE", "NETWORK", "RESTARTS")
    }
    return keep | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "VENV": str(tmp_path / "none")}


@pytest.mark.parametrize("name", ["multinode.sh", "slurm.sbatch"])
def test_scripts_are_bash_fit_a_page_and_say_how_they_end(name):
    assert processes.run(["bash", "-n", LAUNCH / name]).returncode == 0
    text = (LAUNCH / name).read_text()
    assert len(text.splitlines()) <= 66 and max(map(len, text.splitlines())) <= 140
    head = text.split("set -")[0]
    for word in ("Ctrl-C", "time limit", "a dead rank", "a dead node", "exit code"):
        assert f"# {word}" in head, word


def test_multinode_finds_this_node_in_the_hostfile(env, tmp_path):
    hostfile = tmp_path / "hosts"
    hostfile.write_text(f"# nodes\n\n  first slots=8\n{socket.gethostname()} slots=8 # half of it\n")
    command = ["bash", LAUNCH / "multinode.sh", "my.yaml", "name=x y", "steps=3"]
    words = processes.run(command, env=env | {"HOSTFILE": str(hostfile)}, check=True).stdout.splitlines()
    at = words.index("--")
    assert words[0] == "launch/supervise.py" and words[at + 1] == "deepspeed"
    given = dict(zip(words[at:], words[at + 1 :]))
    assert (given["--node_rank"], given["--master_addr"], given["--hostfile"]) == ("1", "first", str(hostfile)) and "--no_ssh" in words
    assert words[-4:] == ["launch/pretrain.py", "my.yaml", "name=x y", "steps=3"]
    own = {"NODE_RANK": "0", "MASTER_ADDR": "10.0.0.1", "HOSTFILE": str(hostfile)}
    words = processes.run(["bash", LAUNCH / "multinode.sh", "steps=3"], env=env | own, check=True).stdout.splitlines()
    given = dict(zip(words, words[1:]))
    assert (given["--node_rank"], given["--master_addr"]) == ("0", "10.0.0.1")
    assert words[-2:] == ["launch/recipes/cpt_70b.yaml", "steps=3"]


def test_multinode_tells_what_is_missing(env, tmp_path):
    done = processes.run(["bash", LAUNCH / "multinode.sh"], env=env | {"HOSTFILE": str(tmp_path / "no")})
    assert done.returncode == 1 and "no such file" in done.stderr and "hostfile.example" in done.stderr
    (tmp_path / "hosts").write_text("elsewhere slots=8\n")
    done = processes.run(["bash", LAUNCH / "multinode.sh"], env=env | {"HOSTFILE": str(tmp_path / "hosts")})
    assert done.returncode == 1 and "NODE_RANK" in done.stderr and socket.gethostname() in done.stderr


@pytest.mark.parametrize("code", [0, 1, 75])
def test_the_batch_script_hands_the_code_on(env, code):
    batch = env | {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "3", "CODE": str(code)}
    done = processes.run(["bash", LAUNCH / "slurm.sbatch", "my.yaml", "name=x y"], env=batch)
    words = done.stdout.splitlines()
    assert done.returncode == code and ("scontrol requeue 7" in words) == (code == 75)
    at = words.index("--")
    assert words[0] == "launch/supervise.py"
    given = ["srun", "--kill-on-bad-exit=1", "--cpus-per-task=3", "python", "launch/pretrain.py", "my.yaml", "name=x y"]
    assert words[at + 1 : at + 8] == given


def test_the_batch_script_is_one_task_a_rank_and_is_queued_again(env):
    asked = [line.split(None, 1)[1] for line in (LAUNCH / "slurm.sbatch").read_text().splitlines() if line.startswith("#SBATCH")]
    given = dict(word.removeprefix("--").partition("=")[::2] for word in asked)
    assert given["ntasks-per-node"] == given["gpus-per-node"] and "requeue" in given and given["signal"].startswith("B:USR1@")
    done = processes.run(["bash", LAUNCH / "slurm.sbatch"], env=env)
    assert done.returncode != 0 and "sbatch" in done.stderr


def test_the_job_of_kubernetes_is_consistent():
    service, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    [container] = pod["containers"]
    env = {e["name"]: e["value"] for e in container["env"]}
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"] == int(env["NODES"])
    assert service["spec"]["clusterIP"] == "None" and service["metadata"]["name"] == pod["subdomain"] == job["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert int(env["GPUS"]) == container["resources"]["limits"]["nvidia.com/gpu"]
    assert pod["restartPolicy"] == "Never", "podFailurePolicy needs it"
    on_codes = {tuple(r["onExitCodes"]["values"]): r["action"] for r in spec["podFailurePolicy"]["rules"] if "onExitCodes" in r}
    assert on_codes == {(2, 10): "FailJob", (75,): "Ignore"}
    assert all(r["onExitCodes"]["containerName"] == container["name"] for r in spec["podFailurePolicy"]["rules"] if "onExitCodes" in r)
    script = container["args"][0]
    assert (ROOT / env["RECIPE"]).is_file() and f"{job['metadata']['name']}-0.{pod['subdomain']}:" in script
    assert processes.run(["bash", "-n", "-c", script]).returncode == 0
    assert processes.run(["bash", "-n", "-c", container["livenessProbe"]["exec"]["command"][2]]).returncode == 0
    assert "/heartbeats/" in container["livenessProbe"]["exec"]["command"][2]
    mounted = {m["name"] for m in container["volumeMounts"]}
    assert mounted == {v["name"] for v in pod["volumes"]}
    assert pod["terminationGracePeriodSeconds"] > 500, "longer than torchrun waits for its ranks"


def test_the_example_of_a_hostfile_is_one():
    assert list(parse_hostfile((LAUNCH / "hostfile.example").read_text())) == ["gpu01", "gpu02"]


def test_a_pod_lives_while_its_own_ranks_beat(tmp_path):
    job = list(yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text()))[1]
    [container] = job["spec"]["template"]["spec"]["containers"]
    probe = container["livenessProbe"]["exec"]["command"]
    probe[2] = probe[2].replace("/tmp/started", str(tmp_path / "started"))
    beats = tmp_path / "runs" / "cpt" / "heartbeats"
    beats.mkdir(parents=True)

    def alive(host: str) -> bool:
        return processes.run(probe, cwd=tmp_path, env=os.environ | {"NAME": "cpt", "HOSTNAME": host}).returncode == 0

    def beat(rank: int, host: str, minutes_ago: float) -> None:
        file = beats / f"rank_{rank:05}.json"
        file.write_text(json.dumps({"rank": rank, "host": host, "step": 7}))
        os.utime(file, (time.time() - 60 * minutes_ago,) * 2)

    assert not alive("astro-1")
    (tmp_path / "started").touch()
    assert alive("astro-1"), "it has an hour to start"
    os.utime(tmp_path / "started", (time.time() - 7200,) * 2)
    beat(0, "astro-0", 0)
    assert not alive("astro-1") and alive("astro-0")
    beat(1, "astro-1", 5)
    assert alive("astro-1")
    beat(1, "astro-1", 30)
    assert not alive("astro-1")
