"""A real SLURM on the nodes of tests/made/cluster.py: munge, slurmctld on the head, a slurmd a node, all with files of their own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.made import processes
from tests.made.cluster import Cluster, Node

TOOLS = ("slurmctld", "slurmd", "munged", "srun", "sbatch")
SLOTS = 4  # tasks a node takes


@dataclass
class Slurm:
    cluster: Cluster
    folder: Path

    @property
    def env(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(self, *command: object, **options: Any) -> str:
        """A command of SLURM's on the head; what it printed."""
        env = os.environ | self.env | options.pop("env", {})
        return self.cluster.head.run(list(command), env=env, check=True, **options).stdout

    def start_node(self, node: Node) -> None:
        node.run(["slurmd", "-N", node.name], env=os.environ | self.env, check=True)

    def state(self, job: str) -> str:
        """`RUNNING`, `PENDING`, `COMPLETED` … of a job the controller still knows."""
        line = self.run("scontrol", "show", "job", job, "--oneliner")
        return line.split("JobState=")[1].split()[0]


def slurm(cluster: Cluster, kill_wait: int = 30) -> Slurm:
    """SLURM, up on every node."""
    folder = cluster.folder / "slurm"
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "munge.key-file").write_bytes(os.urandom(1024))
    (folder / "munge.key-file").chmod(0o600)
    names = ",".join(n.name for n in cluster)
    lines = [
        "ClusterName=tried", f"SlurmctldHost=head({cluster.head.address})", "SlurmUser=root", "SlurmdUser=root", "AuthType=auth/munge", f"AuthInfo=socket={folder}/munge.socket",
        "CredType=cred/munge", "ProctrackType=proctrack/linuxproc", "TaskPlugin=task/none", "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_CPU", "SlurmdParameters=config_overrides", "ReturnToService=2", "MpiDefault=none", "SwitchType=switch/none",
        f"StateSaveLocation={folder}/state", f"SlurmdSpoolDir={folder}/spool/%n", f"SlurmctldPidFile={folder}/slurmctld.pid",
        f"SlurmdPidFile={folder}/slurmd.%n.pid", f"SlurmctldLogFile={folder}/slurmctld.log", f"SlurmdLogFile={folder}/slurmd.%n.log",
        f"KillWait={kill_wait}", "SlurmdTimeout=20", "SlurmctldTimeout=20", "InactiveLimit=0", "MinJobAge=3600", "JobRequeue=1",
        "AccountingStorageType=accounting_storage/none", "JobAcctGatherType=jobacct_gather/none", "SchedulerParameters=requeue_delay=1,bf_interval=5",
        *(f"NodeName={n.name} NodeAddr={n.address} NodeHostname={n.name} CPUs={SLOTS} RealMemory=1000 State=UNKNOWN" for n in cluster),
        f"PartitionName=all Nodes={names} Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES",
    ]  # fmt: skip
    (folder / "slurm.conf").write_text("\n".join(lines) + "\n")
    started = Slurm(cluster, folder)
    own = [f"--{what}={folder}/munge.{what}" for what in ("key-file", "socket", "pid-file", "log-file", "seed-file")]
    cluster.head.run(["munged", "--force", *own], check=True)  # one for all nodes: its socket is a file, and files are everybody's
    cluster.head.run(["slurmctld"], env=os.environ | started.env, check=True)
    for node in cluster:
        started.start_node(node)

    def up() -> bool:
        asked = cluster.head.run(["sinfo", "-h", "-o", "%t"], env=os.environ | started.env)
        return asked.stdout.split() == ["idle"]

    processes.wait_until(up, seconds=60)
    return started
