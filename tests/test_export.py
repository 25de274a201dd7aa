"""launch/export_hf.py on our checkpoints: complete, bit-true, invisible until whole."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests import tiny
from tests.ranks import run_ranks
from tests.test_checkpoint import flip
from tests.test_run import all_slices, checkpoint_of, one_run

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tiny.ground(tmp_path_factory.mktemp("export"))
    tiny.write_recipe(folder, steps=2, model={"path": str(folder / "model"), "dtype": "bf16"}, schedule={"warmup_steps": 0})
    run_ranks(one_run, 2, folder / "recipe.yaml", [])
    return checkpoint_of(folder, 2, "tiny")


def export(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "launch/export_hf.py", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)


def test_an_export_is_a_whole_folder_with_the_checkpoints_values(saved, tmp_path):
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    done = export(saved, tmp_path / "bf16")
    assert done.returncode == 0 and "tensors" in done.stdout, done.stderr
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "bf16", output_loading_info=True)
    assert model.dtype == torch.bfloat16 and not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    kept = load_file(saved / "model-00001-of-00001.safetensors")
    assert all(torch.equal(p, kept[n]) for n, p in model.state_dict().items())
    assert AutoTokenizer.from_pretrained(tmp_path / "bf16")("a")["input_ids"]
    card = (tmp_path / "bf16" / "README.md").read_text()
    assert "2 steps" in card and "lr 0.001" in card and "held-out perplexity" in card


def test_an_fp32_export_of_a_bf16_run_is_the_masters(saved, tmp_path):
    from transformers import AutoModelForCausalLM

    assert export(saved, tmp_path / "fp32", "--dtype", "fp32").returncode == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "fp32")
    masters = all_slices(saved)
    state = model.state_dict()
    assert model.dtype == torch.float32 and len(state) == 21
    assert all(torch.equal(p.reshape(-1), masters[f"master/{n}"]) for n, p in state.items())
    assert any(not torch.equal(p, p.bfloat16().float()) for p in state.values()), "masters hold more than bf16 does"


def test_a_damaged_checkpoint_is_not_exported_and_nothing_is_left(saved, tmp_path):
    bad = tmp_path / "step_000002"
    shutil.copytree(saved, bad)
    flip(bad / "model-00001-of-00001.safetensors")
    done = export(bad, tmp_path / "out")
    assert done.returncode == 1 and "its content has changed" in done.stderr and "Traceback" not in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["step_000002"]


def test_a_value_that_is_not_finite_is_not_published(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tiny.save_tiny(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][5] = float("inf")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    done = export(folder, tmp_path / "out")
    assert done.returncode == 1 and "model.norm.weight: holds values that are not finite" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_an_existing_folder_and_a_missing_one_are_refused_in_one_line(saved, tmp_path):
    (tmp_path / "there").mkdir()
    for arguments, said in (((saved, tmp_path / "there"), "exists already"), ((tmp_path / "none", tmp_path / "x"), "no such folder")):
        done = export(*arguments)
        assert done.returncode == 1 and said in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_a_config_from_elsewhere_completes_a_folder_that_has_none(saved, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(saved / "model-00001-of-00001.safetensors", bare / "model.safetensors")
    assert "give the model's with --config" in export(bare, tmp_path / "out").stderr
    assert export(bare, tmp_path / "out", "--config", saved).returncode == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_weights_in_pickle_are_refused_with_the_remedy(tmp_path):
    folder = tiny.save_tiny(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save({"x": torch.ones(2)}, folder / "pytorch_model.bin")
    done = export(folder, tmp_path / "out")
    assert done.returncode == 1 and "pytorch_model.bin, which can run foreign code" in done.stderr
