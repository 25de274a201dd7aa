"""torchrun is asked to be brief only where it would understand."""

import os
import sys
from pathlib import Path

from tests.made.where import ROOT
from train.guard.briefly import briefly

BESIDE = str(Path(sys.executable).parent / "torchrun")
COMMAND = [BESIDE, "--nnodes", "2", "launch/pretrain.py", "R.yaml"]


def described(folder: Path, module: str) -> str:
    """A folder for PYTHONPATH in which an installation says where the plug-in is."""
    info = folder / "described-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: described\nVersion: 0\n")
    (info / "entry_points.txt").write_text(f"[torchrun.logs_specs]\nastrollama = {module}:Brief\n")
    return f"{ROOT}{os.pathsep}{folder}"


def test_torchrun_of_this_installation_is_asked_to_be_brief(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", described(tmp_path, "launch.command.torchrun"))
    assert briefly(COMMAND) == [BESIDE, "--logs-specs", "astrollama", *COMMAND[1:]]
    assert briefly([BESIDE, "--logs-specs=own", "launch/pretrain.py"]) == [BESIDE, "--logs-specs=own", "launch/pretrain.py"]
    assert briefly(["deepspeed", *COMMAND[1:]]) == ["deepspeed", *COMMAND[1:]]


def test_another_torchrun_or_a_plug_in_that_is_gone_is_left_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", described(tmp_path / "here", "launch.command.torchrun"))
    other = tmp_path / "torchrun"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    assert briefly([str(other), *COMMAND[1:]])[1] == "--nnodes"
    monkeypatch.setenv("PYTHONPATH", described(tmp_path / "gone", "of_a_checkout_that_is_gone.torchrun"))
    from importlib import metadata

    real = metadata.distributions
    monkeypatch.setattr(metadata, "distributions", lambda path: real(path=[p for p in path if p == str(tmp_path / "gone")]))
    assert briefly(COMMAND) == COMMAND
