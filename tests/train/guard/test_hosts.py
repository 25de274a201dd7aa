"""The command of the next start, on the hosts that are left."""

from pathlib import Path

import pytest

from train.guard.hosts import Hosts, hostfile_of, on_hosts
from train.guard.supervise import Ended, Limits

TRAIN = ["launch/pretrain.py", "r.yaml", "--hostfile=not-the-launchers"]


@pytest.mark.parametrize("given", [["-H", "h"], ["--hostfile", "h"], ["--hostfile=h"]])
def test_the_hostfile_is_exchanged_however_it_was_given(given):
    command = ["/venv/bin/deepspeed", "--num_nodes", "2", *given, *TRAIN]
    assert hostfile_of(command) == Path("h")
    assert on_hosts(command, Path("new"), []) == ["/venv/bin/deepspeed", "--num_nodes", "2", "--hostfile", "new", *TRAIN]


def test_a_hostfile_that_was_not_given_is_put_first():
    assert on_hosts(["deepspeed", "--num_nodes", "2", *TRAIN], Path("new"), [])[:3] == ["deepspeed", "--hostfile", "new"]


@pytest.mark.parametrize("command", [["torchrun", *TRAIN], ["deepspeed", "-H", "h", "--no_ssh", *TRAIN], ["srun", "python", *TRAIN]])
def test_hosts_of_others_are_left_to_them(command):
    assert hostfile_of(command) is None


def test_the_meeting_place_goes_with_its_host():
    command = ["deepspeed", "-H", "h", "--master_addr", "127.0.0.1", *TRAIN]
    assert "--master_addr" not in on_hosts(command, Path("new"), ["localhost"])
    assert "--master_addr" in on_hosts(command, Path("new"), [])


def test_a_command_that_names_its_hosts_keeps_them(tmp_path):
    (tmp_path / "h").write_text("gpu01 slots=1\ngpu02 slots=1\n")
    command = ["deepspeed", "-H", str(tmp_path / "h"), "--include", "gpu01@gpu02:0", *TRAIN]
    hosts = Hosts(command, tmp_path / "h", tmp_path / "now", Limits(), 1, say=lambda text: None)
    assert hosts.command_for([Ended(1, 0, hosts=("gpu02",))] * 3) == command and not (tmp_path / "now").exists()
