"""A dry run tells what is here and would end the run, and whether it fits GPUs of a given memory."""

import re

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
    assert (
        "only pytorch_model.bin" in text
        and "launch/export_hf.py" in text
        and "OUT --dtype fp32" in text
        and "all inputs are here" not in text
    )


def test_attention_that_is_not_installed_is_a_fault_with_its_remedy(ground, capsys):
    text = said(capsys, ground / "recipe.yaml", "model.attention=flash", code=1)
    assert "flash-attn is not installed here; pip install" in text


def test_a_runs_folder_that_cannot_be_written_is_a_fault(ground, capsys):
    for folder in ("/proc/nothing/here", ground / "recipe.yaml" / "runs"):
        text = said(capsys, ground / "recipe.yaml", f"runs={folder}", code=1)
        assert "cannot be written (" in text and "give another folder by runs=" in text


@pytest.mark.slow
def test_a_run_into_a_folder_that_cannot_be_written_ends_in_one_line(ground, capfd):
    assert main([str(ground / "recipe.yaml"), "runs=/proc/nothing/here"]) == 1
    err = capfd.readouterr().err.splitlines()
    assert len([line for line in err if "cannot be written" in line]) == 1 and not any("Traceback" in line for line in err)


@pytest.mark.parametrize("memory", ["80", "H100", "nvidia-h100-80gb-hbm3", "A100"])
def test_a_verdict_on_gpus_of_a_given_memory(memory, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = ("launch/recipes/cpt_7b.yaml", "--gpu-memory", memory)
    text = said(capsys, *words, "--gpus", "1", code=1)
    assert "do not fit" in text and "a rank needs" in text and "what would fit" in text
    assert "do not fit" not in said(capsys, *words, "--gpus", "8", code=0)  # this machine's disk is not judged: it is for others


def test_a_disk_too_small_for_the_checkpoints_is_a_fault_unless_the_run_starts_elsewhere(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = ("launch/recipes/cpt_70b.yaml", "checkpoint.keep_last=400", "checkpoint.every_steps=10")  # 400 TB
    text = said(capsys, *words, "--gpus", "64", code=1)
    assert re.search(r"runs=runs: \d+ checkpoints at once take [\d,]+\.\d\d GB, the disk of .* has .* GB free; free .* GB", text)
    assert "say --elsewhere" in text
    assert "the disk of" not in said(capsys, *words, "--gpus", "64", "--elsewhere", code=0)


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda model: (model / "config.json").unlink(), "model: no config.json in it; give a folder"),
        (lambda model: (model / "tokenizer.json").unlink(), "model: needs tokenizer.model or tokenizer.json"),
        (lambda model: (model / "model.safetensors").write_bytes(b"\0" * 9), "model.safetensors"),
    ],
)
def test_a_model_folder_that_is_no_whole_one_is_a_fault(change, told, ground, capsys):
    change(ground / "model")
    assert told in said(capsys, ground / "recipe.yaml", code=1)


def test_places_that_cannot_be_gone_on_from_or_saved_to_are_faults(ground, capsys):
    assert "--resume /nowhere: no such folder" in said(capsys, ground / "recipe.yaml", "--resume", "/nowhere", code=1)
    assert "no manifest.json in it" in said(capsys, ground / "recipe.yaml", "--resume", ground / "model", code=1)
    assert "checkpoint.to=nope://bucket" in said(capsys, ground / "recipe.yaml", "checkpoint.to=nope://bucket/x", code=1)
    assert f"model.path={ground / 'recipe.yaml'}: a file" in said(
        capsys, ground / "recipe.yaml", f"model.path={ground / 'recipe.yaml'}", code=1
    )


def test_what_the_missing_source_must_give_is_told(ground, capsys):
    words = (ground / "recipe.yaml", "data.sources.a.max_repeats=1", f"data.sources.b.path={ground}/nope", "steps=1000")
    text = said(capsys, *words, code=0)
    assert re.search(r"nope: make it .*; the others give at most 1,\d{3} of the run's 256,000 tokens, so it must give the rest", text)
    text = said(capsys, *words, "data.sources.b.max_repeats=2", code=0)
    assert re.search(r"it must give at least 127,\d{3} tokens in a pass of it, 2 of which are allowed", text)
    assert "it must give" not in said(capsys, *words[:-1], code=0)


def test_rows_beyond_the_models_positions_are_warned_of(ground, capsys):
    text = said(capsys, ground / "recipe.yaml", "data.seq_len=512", "tokens_per_step=512", code=0)
    assert "warning: data.seq_len=512: longer than the 256 positions of the model's config" in text
    assert "positions of the model" not in said(capsys, ground / "recipe.yaml", code=0)


@pytest.mark.parametrize("words", [["--gpus", "0"], ["--gpus", "-3"], ["--gpus", "many"], ["--elsewhere"]])
def test_a_wrong_command_line_ends_with_2(words, ground, capsys):
    with pytest.raises(SystemExit) as ended:
        main([str(ground / "recipe.yaml"), *words, *(["--dry-run"] if words != ["--elsewhere"] else [])])
    assert ended.value.code == 2 and words[0] in capsys.readouterr().err


def test_no_words_at_all_ask_for_the_recipe_alone(capsys):
    with pytest.raises(SystemExit):
        main([])
    assert capsys.readouterr().err.rstrip().endswith("required: recipe")


def test_a_gpu_nobody_knows_is_refused_with_those_that_are(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["launch/recipes/cpt_7b.yaml", "--dry-run", "--gpu-memory", "voodoo"])
    assert ended.value.code == 2 and "give GiB, or one of H200" in capsys.readouterr().err
