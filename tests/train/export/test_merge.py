"""Merging and averaging: bit-equal to plain torch on whole state dicts, whatever the models are stored as."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from launch.export_hf import main
from tests.made import checkpoints
from tests.made.checkpoints import masters_of, weights_of
from train.export import merge
from train.model_files import stream as tensor_stream


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Parts that end inside tensors, differently for each source."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(tensor_stream, "CHUNK_BYTES", 1 << 10)
    monkeypatch.setattr(merge, "ELEMENTS", 100)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def capsys(capsys):
    """Without what making the models wrote."""

    class Cleared:
        def readouterr(self):
            text = capsys.readouterr()
            at = text.err.find("error: ")
            return text._replace(err=text.err[at:] if at >= 0 else text.err)

    return Cleared()


def export(*arguments: object) -> int:
    return main([str(a) for a in arguments])


def same(made: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], dtype: torch.dtype) -> bool:
    return made.keys() == expected.keys() and all(torch.equal(made[n], t.to(dtype)) and made[n].dtype == dtype for n, t in expected.items())


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_merge_is_torchs_weighted_sum_in_fp32_cast_once(tmp_path, dtype):
    ours = checkpoints.checkpoint(tmp_path, 2, seed=1, dtype=torch.bfloat16)
    theirs = checkpoints.model_folder(tmp_path / "chat", 2, torch.float16, files=3)
    assert export(ours, tmp_path / "out", "--merge", f"{theirs}:0.25", "--dtype", dtype) == 0
    a, b = masters_of(1), {n: t.half().float() for n, t in masters_of(2).items()}
    expected = {n: a[n] * 0.75 + b[n] * 0.25 for n in a}
    assert same(weights_of(tmp_path / "out"), expected, {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "- 0.75 of step_000002" in card and "- 0.25 of chat" in card


def test_three_models_are_added_in_the_order_given(tmp_path):
    folders = [checkpoints.model_folder(tmp_path / f"m{i}", i) for i in range(3)]
    assert export(folders[0], tmp_path / "out", "--merge", f"{folders[1]}:0.2", "--merge", f"{folders[2]}:0.3", "--dtype", "fp32") == 0
    a, b, c = (masters_of(i) for i in range(3))
    assert same(weights_of(tmp_path / "out"), {n: a[n] * (1.0 - (0.2 + 0.3)) + b[n] * 0.2 + c[n] * 0.3 for n in a}, torch.float32)


def test_an_average_is_the_mean_of_the_fp32_masters(tmp_path):
    steps = [checkpoints.checkpoint(tmp_path / "checkpoints", step, seed=step, ranks=step) for step in (1, 2, 3)]
    expected = {n: (masters_of(1)[n] + masters_of(2)[n] + masters_of(3)[n]) / 3 for n in masters_of(1)}
    assert export(tmp_path / "checkpoints", tmp_path / "out", "--average", 1, 2, 3, "--dtype", "fp32") == 0
    assert same(weights_of(tmp_path / "out"), expected, torch.float32)
    assert export(steps[0], tmp_path / "out16", "--average", 3, 1, 2) == 0, "one step names the run; the order does not matter"
    assert same(weights_of(tmp_path / "out16"), expected, torch.bfloat16)


def test_an_average_can_be_merged(tmp_path):
    for step in (1, 2):
        checkpoints.checkpoint(tmp_path / "checkpoints", step, seed=step)
    other = checkpoints.model_folder(tmp_path / "other", 9)
    assert export(tmp_path / "checkpoints", tmp_path / "out", "--average", 1, 2, "--merge", f"{other}:0.5", "--dtype", "fp32") == 0
    a, b, c = masters_of(1), masters_of(2), masters_of(9)
    assert same(weights_of(tmp_path / "out"), {n: ((a[n] + b[n]) / 2) * 0.5 + c[n] * 0.5 for n in a}, torch.float32)


def test_a_model_of_another_shape_is_refused_with_the_list(tmp_path, capsys):
    one = checkpoints.model_folder(tmp_path / "one", 0)
    two = checkpoints.model_folder(tmp_path / "two", 0, num_hidden_layers=3, intermediate_size=95)
    assert export(one, tmp_path / "out", "--merge", f"{two}:0.5") == 1
    text = capsys.readouterr().err
    assert (
        f"{two}: " in text
        and "shape [95, 48], the config wants [96, 48]" in text
        and "model.layers.2.mlp.up_proj.weight: unexpected" in text
    )
    assert not (tmp_path / "out").exists() and not (tmp_path / ".out.export").exists()


def test_damage_to_any_model_of_a_merge_is_found(tmp_path, capsys):
    from tests.train.checkpoint.test_folder import flip

    one, two = (checkpoints.checkpoint(tmp_path / str(i), 2, seed=i) for i in (1, 2))
    flip(two / "trainer" / "rank_00001_of_00002.safetensors")
    assert export(one, tmp_path / "out", "--merge", f"{two}:0.5") == 1
    assert "trainer/rank_00001_of_00002.safetensors: content has changed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and not (tmp_path / ".out.export").exists()


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--merge", "{m}:0.7", "--merge", "{m}:0.6"], "together they are at most 1"),
        (["--merge", "{m}:0"], "each lies above 0"),
        (["--merge", "{m}:nan"], "each lies above 0"),
        (["--merge", "{m}/none:0.5"], "no such folder"),
        (["--average", "1", "7"], "has no step 7; there are 1"),
        (["--average", "1"], "the mean of one step is that step"),
        (["--average", "1", "1"], "the mean of one step is that step"),
    ],
)
def test_what_cannot_be_combined_is_refused_in_one_message(tmp_path, capsys, words, what):
    step = checkpoints.checkpoint(tmp_path / "run", 1, seed=1)
    assert export(step, tmp_path / "out", *[w.format(m=step) for w in words]) == 1
    text = capsys.readouterr().err
    assert what in text and len(text.strip().splitlines()) == 1 and not (tmp_path / ".out.export").exists()


def test_a_merge_without_a_weight_is_a_usage_error(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        export(tmp_path, tmp_path / "out", "--merge", str(Path("models/chat")))
    assert stopped.value.code == 2 and "give MODEL:WEIGHT" in capsys.readouterr().err


def test_a_sum_that_overflows_is_refused_by_its_tensors_name_alone(tmp_path, capsys, recwarn):
    folders = [checkpoints.model_folder(tmp_path / name, seed) for seed, name in enumerate("ab")]
    for folder in folders:
        [file] = folder.glob("*.safetensors")
        tensors = weights_of(folder)
        tensors["model.norm.weight"][3] = 3.4e38
        save_file(tensors, file, metadata={"format": "pt"})
    steps = tmp_path / "checkpoints"
    steps.mkdir()
    for i, folder in enumerate(folders):
        folder.rename(steps / f"step_{i + 1:06d}")
    assert export(steps, tmp_path / "out", "--average", 1, 2) == 1
    assert "model.norm.weight: holds values that are not finite" in capsys.readouterr().err
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)] and not (tmp_path / "out").exists()
