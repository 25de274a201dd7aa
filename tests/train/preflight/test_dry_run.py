"""A dry run tells what is here and would end the run, and whether it fits GPUs of a given memory."""

import pytest

from launch.pretrain import main
from tests.made import tiny
from tests.made.where import ROOT


@pytest.fixture
def ground(tmp_path):
    return tiny.ground(tmp_path)


def said(capsys, *words: object, code: int) -> str:
    assert main([str(w) for w in (*words, "--dry-run")]) == code
    got = capsys.readouterr()
    assert ("error: " in got.err) == (code == 1) and "Traceback" not in got.err
    return got.out + got.err


def test_a_run_that_can_start_is_said_to(ground, capsys):
    assert "all inputs are here" in said(capsys, ground / "recipe.yaml", code=0)


def test_weights_that_cannot_be_read_are_a_fault_with_their_remedy(ground, capsys):
    for file in (ground / "model").glob("*.safetensors"):
        file.rename(file.with_name("pytorch_model.bin"))
    text = said(capsys, ground / "recipe.yaml", code=1)
    assert "only pytorch_model.bin" in text and "convert it to safetensors first" in text and "all inputs are here" not in text


def test_attention_that_is_not_installed_is_a_fault_with_its_remedy(ground, capsys):
    text = said(capsys, ground / "recipe.yaml", "model.attention=flash", code=1)
    assert "flash-attn is not installed here; pip install" in text


def test_a_runs_folder_that_cannot_be_written_is_a_fault(ground, capsys):
    for folder in ("/proc/nothing/here", ground / "recipe.yaml" / "runs"):
        text = said(capsys, ground / "recipe.yaml", f"runs={folder}", code=1)
        assert "cannot be written (" in text and "give another folder by runs=" in text


@pytest.mark.slow
def test_a_run_into_a_folder_that_cannot_be_written_ends_in_one_line(ground, capsys):
    assert main([str(ground / "recipe.yaml"), "runs=/proc/nothing/here"]) == 1
    err = capsys.readouterr().err.splitlines()
    assert len([line for line in err if "cannot be written" in line]) == 1 and not any("Traceback" in line for line in err)


@pytest.mark.parametrize("memory", ["80", "H100", "nvidia-h100-80gb-hbm3", "A100"])
def test_a_verdict_on_gpus_of_a_given_memory(memory, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = ("launch/recipes/cpt_7b.yaml", "--gpu-memory", memory)
    text = said(capsys, *words, "--gpus", "1", code=1)
    assert "do not fit" in text and "a rank needs" in text and "what would fit" in text
    assert "do not fit" not in said(capsys, *words, "--gpus", "8", code=0)


def test_a_gpu_nobody_knows_is_refused_with_those_that_are(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["launch/recipes/cpt_7b.yaml", "--dry-run", "--gpu-memory", "voodoo"])
    assert ended.value.code == 2 and "give GiB, or one of H200" in capsys.readouterr().err
