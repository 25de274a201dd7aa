"""--check: the export computes what the engine recorded, or it is not published."""

from pathlib import Path

import pytest
import torch

from launch.export_hf import main
from tests.made import checkpoints, tiny
from train.export import logit_check
from train.export.logit_check import compared


@pytest.fixture(autouse=True)
def threads():
    count = torch.get_num_threads()
    yield
    torch.set_num_threads(count)


def recorded(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """What an engine that computes in this dtype would have recorded on one document."""
    tokens = torch.randint(3, tiny.VOCAB, (24,), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = tiny.tiny_model(seed).to(dtype)(input_ids=tokens[None], use_cache=False).logits[0].float()
    return {"tokens": tokens, "logits": logits.contiguous()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, Path]:
    """Checkpoints of two real runs on two ranks, with what their engines recorded."""
    return checkpoints.real_checkpoints(tmp_path_factory.mktemp)


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "wanted"), [("fp32", "fp32"), ("fp32", "bf16"), ("bf16", "bf16")])
def test_the_export_of_a_real_run_computes_what_its_engine_recorded(trained, tmp_path, capsys, engine, wanted):
    code, text = checked(capsys, trained[engine], tmp_path / "out", "--dtype", wanted)
    assert code == 0 and f"{engine} engine, {wanted} export" in text, text


def checked(capsys, step: Path, out: Path, *more: str) -> tuple[int, str]:
    capsys.readouterr()
    code = main([str(step), str(out), "--check", *more])
    said = capsys.readouterr()
    return code, said.out + said.err


@pytest.mark.parametrize("engine", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wanted", ["fp32", "bf16"])
def test_an_export_that_computes_the_same_passes_and_says_the_figures(tmp_path, capsys, engine, wanted):
    step = checkpoints.checkpoint(tmp_path, 2, seed=1, dtype=engine, probe=recorded(1, engine))
    code, text = checked(capsys, step, tmp_path / "out", "--dtype", wanted)
    assert code == 0 and (tmp_path / "out").exists(), text
    assert "max |Δ logit|" in text and "top-1 agrees on" in text and "KL" in text and "held whole" in text


def test_one_wrong_tensor_is_found_and_the_export_is_not_published(tmp_path, capsys):
    """Two heads exchanged: shapes, names and hashes are right."""
    for engine in (torch.float32, torch.bfloat16):
        step = checkpoints.checkpoint(tmp_path / str(engine), 2, seed=1, dtype=engine, probe=recorded(1, engine))
        tensors = checkpoints.weights_of(step)
        for file in step.glob("model-*"):
            file.unlink()
        query = tensors["model.layers.1.self_attn.q_proj.weight"]
        tensors["model.layers.1.self_attn.q_proj.weight"] = torch.cat([query[12:24], query[:12], query[24:]])
        checkpoints.save_in_files(step, tensors, 2)
        checkpoints.write_manifest(step, 2)
        code, text = checked(capsys, step, tmp_path / "out")
        assert code == 1 and "does not compute what the engine did" in text and not (tmp_path / "out").exists()
        assert not (tmp_path / ".out.export").exists()


def test_a_checkpoint_without_a_record_a_merge_and_a_foreign_folder_say_there_is_nothing_to_compare(tmp_path, capsys):
    bare = checkpoints.checkpoint(tmp_path / "a", 2, seed=1)
    full = checkpoints.checkpoint(tmp_path / "b", 2, seed=1, probe=recorded(1))
    foreign = checkpoints.model_folder(tmp_path / "c", 1)
    for words in ([bare], [full, "--merge", f"{foreign}:0.5"], [foreign]):
        code, text = checked(capsys, words[0], tmp_path / "out", *words[1:])
        assert code == 1 and "nothing to compare" in text and not (tmp_path / "out").exists()


def test_a_record_that_was_changed_is_not_believed(tmp_path, capsys):
    from tests.train.checkpoint.test_folder import flip

    step = checkpoints.checkpoint(tmp_path, 2, seed=1, probe=recorded(1))
    flip(step / "trainer" / "probe.safetensors")
    code, text = checked(capsys, step, tmp_path / "out")
    assert code == 1 and "probe.safetensors: its content has changed" in text


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_too_large_for_memory_is_run_module_by_module_with_the_same_logits(tmp_path, tied):
    folder = checkpoints.model_folder(tmp_path / "model", 4, files=2, tie_word_embeddings=tied)
    tokens = recorded(1)["tokens"]
    whole, how = logit_check.run(folder, tokens)
    parted, how_parted = logit_check.run(folder, tokens, room=0)
    assert (how, how_parted) == ("held whole", "weights read as each module ran")
    assert torch.equal(whole, parted)
    with torch.inference_mode():
        reference = tiny.tiny_model(4, tie_word_embeddings=tied)(input_ids=tokens[None], use_cache=False).logits[0]
    assert compared(whole, reference)["relative"] <= 1e-6


def test_the_figures_are_those_of_their_definitions():
    reference = torch.tensor([[2.0, 0.0], [0.0, -4.0]])
    figures = compared(torch.tensor([[0.0, 1.0], [0.0, -4.0]]), reference)
    assert figures["max"] == 2 and figures["relative"] == 0.5 and figures["agree"] == 0.5
    p, q = reference[0].double().softmax(0), torch.tensor([0.0, 1.0]).double().softmax(0)
    assert abs(figures["kl"] - float((p * (p / q).log()).sum()) / 2) < 1e-12
