"""All that a GPU is wanted for, tried without one: what is asked is a recipe, what lacks is named, and nothing imports what is not there."""

import sys
import time

import pytest
import torch

from launch.benchmark import main
from tests.made import processes
from train.benchmark.gpu import calls
from train.benchmark.gpu.tasks import Task, tasks
from train.benchmark.step.job import recipe_of


@pytest.mark.parametrize("small", [False, True])
def test_every_step_that_is_asked_for_is_a_recipe_and_each_call_fits_its_time(small):
    listed = tasks(small)
    assert {t.call for t in listed} == {1, 2, 3} and len({t.name for t in listed}) == len(listed)
    steps = [t for t in listed if t.job]
    assert len(steps) > 10
    for task in steps:
        recipe = recipe_of(task.job, 1, not small)
        assert recipe.rows_per_step == recipe.micro_batch and (small or recipe.data.seq_len == 4096 and recipe.model.dtype == "bf16")
    assert all(t.seconds <= 570 for t in listed)


def test_without_a_card_it_says_so_and_how_to_try_it(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert main(["gpu"]) == 1
    assert "no CUDA device is here: the whole is tried in small by --device cpu" in capsys.readouterr().err


def test_an_unknown_part_is_named_with_the_known_ones(capsys, tmp_path, monkeypatch):
    for name in ("CUDA_VISIBLE_DEVICES", "DS_ACCELERATOR", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.setenv(name, "")  # put back afterwards
    assert main(["gpu", "--device", "cpu", "--only", "no such part", "--out", str(tmp_path)]) == 1
    assert "1b-mb8-compile" in capsys.readouterr().err


def test_what_is_not_there_is_skipped_by_name_and_what_there_is_no_time_for_left_out(tmp_path):
    lacking = calls._done(Task("x", 1, 60, words=("-c", "pass"), needs=("pytest", "no_such_package")), 600, tmp_path)
    assert lacking == ("skipped", "no no_such_package", None)
    assert calls._done(Task("x", 1, 60, words=("-c", "pass")), 5, tmp_path)[0] == "left out"


@pytest.mark.slow
def test_a_part_that_prints_its_result_is_measured_and_one_that_hangs_is_ended(tmp_path):
    said = calls._done(Task("a", 1, 60, words=("-c", 'print("RESULT", \'{"tokens_per_second_per_gpu": 5}\')')), 600, tmp_path)
    assert said[0] == "measured" and said[2] == {"tokens_per_second_per_gpu": 5} and (tmp_path / "a.json").is_file()
    begun = time.monotonic()
    assert calls._done(Task("b", 1, 1, words=("-c", "import time; time.sleep(300)")), 600, tmp_path)[0] == "hung"
    assert time.monotonic() - begun < 60


def test_the_best_of_ours_stands_beside_the_best_of_the_peer():
    rates = {"1b-mb8": 10.0, "1b-mb16-full": 12.0, "7b-layers-mb4": 99.0, "1b-peer-mb8": 6.0, "1b-peer-mb16": 8.0, "7b-peer": 5.0}
    rows = [{"part": part, "tokens/s": rate} for part, rate in rates.items()] + [{"part": "1b-mb16", "outcome": "out of device memory"}]
    assert calls._beside(rows, tasks(small=False)) == {"best 1b / best peer": 1.5}


@pytest.mark.slow
def test_nothing_on_the_way_imports_pyarrow_or_datasets():
    modules = (
        "train.benchmark.gpu.calls",
        "train.benchmark.gpu.peer",
        "train.benchmark.step.measure",
        "train.engine.zero3",
        "launch.benchmark",
    )
    code = "import importlib, sys\nfor name in ('pyarrow', 'datasets', 'pandas'): sys.modules[name] = None\n"
    code += f"for name in {modules}: importlib.import_module(name)\nfrom transformers import LlamaForCausalLM, Trainer\n"
    processes.run([sys.executable, "-c", code], check=True)
