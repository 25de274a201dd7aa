"""launch/export_hf.py: complete, bit-true, verified while it is read, invisible until whole."""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

from launch.export_hf import main
from tests.made import checkpoints, processes, tiny
from tests.made.checkpoints import weights_of
from tests.train.checkpoint.test_folder import flip
from tests.train.run.test_loop import all_slices
from train.model_files.shapes import described


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return checkpoints.real_checkpoints(tmp_path_factory.mktemp)["bf16"]


@pytest.fixture
def said(capsys):
    """Run the door; returns (exit code, what it wrote)."""

    def run(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        code = main([str(a) for a in arguments])
        out = capsys.readouterr()
        assert "Traceback" not in out.err
        return code, out.out + out.err

    return run


def names_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# -- what comes out -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_export_is_a_whole_folder_with_the_checkpoints_values(saved, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    done = processes.run([sys.executable, "launch/export_hf.py", str(saved), str(tmp_path / "bf16")])
    assert done.returncode == 0 and "21 tensors" in done.stdout.splitlines()[-1], done.stderr
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "bf16", output_loading_info=True)
    assert model.dtype == torch.bfloat16 and not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    kept = weights_of(saved)
    assert all(torch.equal(p, kept[n]) for n, p in model.state_dict().items())
    assert AutoTokenizer.from_pretrained(tmp_path / "bf16")("a")["input_ids"]
    card = (tmp_path / "bf16" / "README.md").read_text()
    assert "2 steps" in card and "lr 0.001" in card and "held-out perplexity" in card


@pytest.mark.slow
def test_an_fp32_export_of_a_bf16_run_is_the_masters(saved, tmp_path, said):
    from transformers import AutoModelForCausalLM

    assert said(saved, tmp_path / "fp32", "--dtype", "fp32")[0] == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "fp32")
    masters = all_slices(saved)
    state = model.state_dict()
    assert model.dtype == torch.float32 and len(state) == 21
    assert all(torch.equal(p.reshape(-1), masters[f"master/{n}"]) for n, p in state.items())
    assert any(not torch.equal(p, p.bfloat16().float()) for p in state.values()), "masters hold more than bf16 does"


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32, torch.float16])
@pytest.mark.parametrize("wanted", ["bf16", "fp32"])
def test_every_dtype_becomes_what_torch_casts_it_to(tmp_path, said, stored, wanted):
    folder = checkpoints.model_folder(tmp_path / "model", 3, stored, files=3)
    assert said(folder, tmp_path / "out", "--dtype", wanted)[0] == 0
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[wanted]
    expected = {n: t.to(stored).to(dtype) for n, t in checkpoints.masters_of(3).items()}
    made = weights_of(tmp_path / "out")
    assert made.keys() == expected.keys() and all(torch.equal(made[n], t) and made[n].dtype == dtype for n, t in expected.items())
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == str(dtype).removeprefix("torch.")


def test_files_that_have_the_wanted_dtype_are_copied_as_they_are(tmp_path, said):
    step = checkpoints.checkpoint(tmp_path, 4, seed=1, files=3)
    assert said(step, tmp_path / "out")[0] == 0
    names = [n for n in names_in(step) if n.startswith("model-")]
    assert len(names) == 3 and all((step / n).read_bytes() == (tmp_path / "out" / n).read_bytes() for n in names)


def test_templates_by_other_names_travel_along(tmp_path, said):
    folder = tiny.save_tiny(tmp_path / "model")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").write_text("{{ documents }}")
    assert said(folder, tmp_path / "out")[0] == 0
    assert (tmp_path / "out" / "additional_chat_templates" / "rag.jinja").read_text() == "{{ documents }}"
    assert "additional_chat_templates/rag.jinja" in json.loads((tmp_path / "out" / "export.json").read_text())["files"]


def test_the_record_has_the_hash_of_every_file(tmp_path, said):
    step = checkpoints.checkpoint(tmp_path, 4, seed=1)
    assert said(step, tmp_path / "out", "--dtype", "fp32")[0] == 0
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert sorted([*record["files"], "export.json"]) == names_in(tmp_path / "out")
    for name, row in record["files"].items():
        data = (tmp_path / "out" / name).read_bytes()
        assert (row["bytes"], row["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert record["request"]["dtype"] == "float32" and record["request"]["sources"][0]["path"] == str(step)


def test_buffers_of_old_llama_files_stay_behind(tmp_path, said):
    folder = checkpoints.model_folder(tmp_path / "model", 0, torch.bfloat16)
    tensors = weights_of(folder) | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6)}
    checkpoints.save_in_files(folder, tensors, 1)
    assert said(folder, tmp_path / "out")[0] == 0
    assert weights_of(tmp_path / "out").keys() == checkpoints.masters_of(0).keys()


def test_a_config_from_elsewhere_completes_a_folder_that_has_none(tmp_path, said):
    model = checkpoints.model_folder(tmp_path / "model", 0, torch.bfloat16)
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(model / "model-00001-of-00001.safetensors", bare / "model.safetensors")
    assert "give the model's with --config" in said(bare, tmp_path / "out")[1]
    assert said(bare, tmp_path / "out", "--config", model)[0] == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


# -- tied weights ---------------------------------------------------------------------------------------------------


def tied_folder(folder: Path, change: float = 0.0, only_alias: bool = False) -> Path:
    checkpoints.model_folder(folder, 2, tie_word_embeddings=True)
    tensors = weights_of(folder)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + change
    if only_alias:
        del tensors["model.embed_tokens.weight"]
    checkpoints.save_in_files(folder, tensors, 1)
    return folder


@pytest.mark.parametrize("only_alias", [False, True])
def test_a_tied_head_is_written_once_under_the_name_transformers_wants(tmp_path, said, only_alias):
    from transformers import AutoModelForCausalLM

    assert said(tied_folder(tmp_path / "model", only_alias=only_alias), tmp_path / "out", "--dtype", "fp32")[0] == 0
    made = weights_of(tmp_path / "out")
    assert "lm_head.weight" not in made and torch.equal(
        made["model.embed_tokens.weight"], checkpoints.masters_of(2)["model.embed_tokens.weight"]
    )
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


def test_two_different_tensors_that_the_config_ties_are_refused(tmp_path, said):
    code, text = said(tied_folder(tmp_path / "model", change=1e-6), tmp_path / "out")
    assert code == 1 and "ties lm_head.weight to model.embed_tokens.weight" in text and names_in(tmp_path) == ["model"]


# -- what the config describes --------------------------------------------------------------------------------------

CONFIGS = [
    ("llama", {}),
    ("llama", {"tie_word_embeddings": True}),
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("llama", {"head_dim": 8, "num_key_value_heads": 4}),
    ("llama", {"num_key_value_heads": 1, "num_hidden_layers": 3}),
    ("mistral", {}),
    ("mistral", {"head_dim": 20, "tie_word_embeddings": True}),
    ("qwen2", {}),
    ("qwen3", {"tie_word_embeddings": True}),
    ("gemma", {}),
]


@pytest.mark.parametrize(("kind", "changes"), CONFIGS)
def test_the_tensors_a_config_describes_are_those_transformers_makes(tmp_path, kind, changes):
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {k: v for k, v in tiny.tiny_config().to_dict().items() if k.startswith(("vocab", "hidden_s", "inter", "num_", "max_p"))}
    config = AutoConfig.for_model(kind, **(sizes | changes))
    model = AutoModelForCausalLM.from_config(config)
    config.architectures = [type(model).__name__]
    config.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    wanted = described(tmp_path / "config.json")
    assert wanted.shapes == {n: tuple(t.shape) for n, t in weights_of(tmp_path).items()}
    every = {n for n, _ in model.named_parameters(remove_duplicate=False)}
    assert every == set(wanted.shapes) | set(wanted.tied)


def test_all_tensors_that_do_not_fit_the_config_are_named_at_once(tmp_path, said):
    folder = checkpoints.model_folder(tmp_path / "model", 0)
    tensors = weights_of(folder)
    del tensors["model.norm.weight"]
    tensors["model.layers.1.mlp.up_proj.weight"] = torch.ones(95, 48)
    tensors["model.layers.2.mlp.up_proj.weight"] = torch.ones(96, 48)
    checkpoints.save_in_files(folder, tensors, 1)
    code, text = said(folder, tmp_path / "out")
    assert code == 1 and "3 tensors do not fit config.json" in text and names_in(tmp_path) == ["model"]
    assert "model.norm.weight: missing" in text and "shape [95, 48], the config wants [96, 48]" in text
    assert "model.layers.2.mlp.up_proj.weight: unexpected" in text


def test_a_model_with_code_of_its_own_is_refused(tmp_path, said):
    folder = checkpoints.model_folder(tmp_path / "model", 0)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModelForCausalLM": "m.M"}}))
    code, text = said(folder, tmp_path / "out")
    assert code == 1 and "auto_map names code of its own, which is not run here" in text


# -- config, tokenizer, generation config ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "said_of"),
    [
        ({"temperature": 0.9}, "temperature=0.9 without do_sample; set do_sample to true, or take it out"),
        ({"temperature": 0.6, "top_p": 0.9, "do_sample": False}, "temperature=0.6, top_p=0.9 without do_sample"),
        ({"top_k": 10}, "top_k=10"),
        ({"num_beams": 1, "length_penalty": 0.5}, "length_penalty=0.5 without beams"),
        ({"early_stopping": True}, "early_stopping=True without beams"),
        ({"num_return_sequences": 3}, "num_return_sequences=3"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"pad_token_id": -1}, "pad_token_id=-1"),
        ({"output_scores": True}, "output_scores without return_dict_in_generate"),
        ({"min_p": 0.1, "typical_p": 0.5}, "min_p=0.1, typical_p=0.5"),
        ({"do_sample": True, "temperature": 0.9, "top_p": 0.5}, ""),
        ({"temperature": 1.0, "top_k": 50}, ""),
        ({"num_beams": 4, "length_penalty": 0.5, "early_stopping": True, "num_return_sequences": 2}, ""),
        ({"bos_token_id": 1, "eos_token_id": [2, 3], "max_length": 4096}, ""),
    ],
)
def test_a_generation_config_is_refused_when_transformers_would_refuse_to_save_it(tmp_path, said, values, said_of):
    from transformers import GenerationConfig

    folder = checkpoints.model_folder(tmp_path / "model", 0)
    (folder / "generation_config.json").write_text(json.dumps(values))
    code, text = said(folder, tmp_path / "out")
    if said_of:
        with pytest.raises(ValueError, match="(?i)invalid|must be|do not support"):
            GenerationConfig(**values).save_pretrained(tmp_path / "theirs")
        assert code == 1 and said_of in text and not (tmp_path / "out").exists()
    else:
        GenerationConfig(**values).save_pretrained(tmp_path / "theirs")
        assert code == 0, text


def test_a_tokenizer_with_more_tokens_than_the_embedding_has_rows_is_refused(tmp_path, said):
    folder = checkpoints.model_folder(tmp_path / "model", 0)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"].append(content["added_tokens"][0] | {"id": 320, "content": "<pad>"})
    (folder / "tokenizer.json").write_text(json.dumps(content))
    code, text = said(folder, tmp_path / "out")
    assert code == 1 and "tokenizer.json: has token id 320, the embedding has 320 rows" in text and names_in(tmp_path) == ["model"]


def test_a_sentencepiece_tokenizer_larger_than_the_embedding_is_refused(tmp_path, said):
    import sentencepiece

    folder = checkpoints.model_folder(tmp_path / "model", 0, vocab_size=300)
    (folder / "tokenizer.json").unlink()
    text = tmp_path / "text.txt"
    text.write_text("galaxies and stars\n" * 50)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "tokenizer"), vocab_size=301, byte_fallback=True, hard_vocab_limit=False, minloglevel=2
    )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).get_piece_size()
    (folder / "added_tokens.json").write_text(json.dumps({"<pad>": 300}))
    code, said_text = said(folder, tmp_path / "out")
    assert pieces <= 301 and code == 1 and "tokenizer.model: has token id 300, the embedding has 300 rows" in said_text


def test_a_vocabulary_size_that_is_not_the_embeddings_is_refused(tmp_path, said):
    folder = checkpoints.model_folder(tmp_path / "model", 0)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 321}))
    code, text = said(folder, tmp_path / "out")
    assert code == 1 and "model.embed_tokens.weight: shape [320, 48], the config wants [321, 48]" in text


def test_rows_of_the_embedding_that_no_token_uses_are_mentioned(tmp_path, said):
    folder = checkpoints.model_folder(tmp_path / "model", 0, vocab_size=384)
    code, text = said(folder, tmp_path / "out")
    assert code == 0 and "tokenizer.json: 320 tokens, 384 rows in the embedding" in text


# -- damage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "wanted", "file"),
    [
        (torch.bfloat16, "bf16", "model-00002-of-00002.safetensors"),  # copied
        (torch.float32, "bf16", "model-00001-of-00002.safetensors"),  # cast
        (torch.bfloat16, "fp32", "trainer/rank_00001_of_00002.safetensors"),  # masters
        (torch.bfloat16, "bf16", "tokenizer.json"),
        (torch.bfloat16, "fp32", "trainer/index.json"),
    ],
)
@pytest.mark.parametrize("damage", ["one bit", "zeros", "cut short", "deleted"])
def test_damage_to_a_file_that_is_used_is_found_and_nothing_is_left(tmp_path, said, stored, wanted, file, damage):
    from tests.train.checkpoint.test_folder import DAMAGES

    step = checkpoints.checkpoint(tmp_path / "run", 2, seed=1, dtype=stored)
    DAMAGES[damage](step / file)
    code, text = said(step, tmp_path / "out", "--dtype", wanted)
    assert code == 1 and Path(file).name in text and names_in(tmp_path) == ["run"]


def test_damage_to_moments_is_no_concern_of_an_export_of_the_weights(tmp_path, said):
    step = checkpoints.checkpoint(tmp_path / "run", 2, seed=1)
    flip(step / "trainer" / "rank_00000_of_00002.safetensors")
    assert said(step, tmp_path / "out")[0] == 0


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_a_value_that_is_not_finite_is_not_published(tmp_path, said, value, stored):
    folder = checkpoints.model_folder(tmp_path / "model", 0, stored)
    tensors = weights_of(folder)
    tensors["model.norm.weight"][5] = value
    checkpoints.save_in_files(folder, tensors, 1)
    code, text = said(folder, tmp_path / "out")
    assert code == 1 and "model.norm.weight: holds values that are not finite" in text and names_in(tmp_path) == ["model"]


def test_large_values_whose_sum_overflows_are_finite(tmp_path, said):
    folder = checkpoints.model_folder(tmp_path / "model", 0)
    tensors = weights_of(folder)
    tensors["model.norm.weight"][:] = 3e38
    checkpoints.save_in_files(folder, tensors, 1)
    assert said(folder, tmp_path / "out", "--dtype", "fp32")[0] == 0


def test_a_value_that_bf16_cannot_hold_is_not_published(tmp_path, said):
    folder = checkpoints.model_folder(tmp_path / "model", 0)
    tensors = weights_of(folder)
    tensors["model.norm.weight"][0] = torch.finfo(torch.float32).max
    checkpoints.save_in_files(folder, tensors, 1)
    code, text = said(folder, tmp_path / "out")
    assert code == 1 and "not finite" in text


def test_quantized_weights_are_refused(tmp_path, said):
    folder = checkpoints.model_folder(tmp_path / "model", 0)
    tensors = weights_of(folder)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.int8)
    checkpoints.save_in_files(folder, tensors, 1)
    assert "quantized weights cannot be exported" in said(folder, tmp_path / "out")[1]


def test_an_existing_folder_and_a_missing_one_are_refused_in_one_line(tmp_path, said):
    model = checkpoints.model_folder(tmp_path / "model", 0)
    (tmp_path / "there").mkdir()
    for arguments, what in (((model, tmp_path / "there"), "exists already"), ((tmp_path / "none", tmp_path / "x"), "no such folder")):
        code, text = said(*arguments)
        assert code == 1 and what in text and len(text.strip().splitlines()) == 1


@pytest.mark.parametrize("files", [1, 3])
def test_a_folder_of_torch_files_becomes_the_tensors_that_were_saved(tmp_path, said, files):
    folder = tiny.save_tiny(tmp_path / "model")
    saved = weights_of(folder)
    (folder / "model.safetensors").unlink()
    names = [f"pytorch_model-{k + 1:05d}-of-{files:05d}.bin" if files > 1 else "pytorch_model.bin" for k in range(files)]
    for k, name in enumerate(names):
        torch.save({tensor: value for number, (tensor, value) in enumerate(saved.items()) if number % files == k}, folder / name)
    torch.save({"lr": 1.0}, folder / "training_args.bin")  # beside many of them, and none of the weights
    code, _ = said(folder, tmp_path / "out", "--dtype", "fp32")
    assert code == 0
    made = weights_of(tmp_path / "out")
    assert made.keys() == saved.keys() and all(torch.equal(made[name], saved[name]) for name in saved)


class _Runs:
    def __reduce__(self):
        return os.system, ("touch /tmp/ran",)


def test_a_torch_file_that_holds_anything_but_tensors_is_refused(tmp_path, said):
    folder = tiny.save_tiny(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    for content, told in (
        ({"x": _Runs()}, "pytorch_model.bin"),
        ({"state_dict": {"x": torch.ones(2)}}, "save the model's state_dict() alone"),
    ):
        torch.save(content, folder / "pytorch_model.bin")
        code, text = said(folder, tmp_path / "out")
        assert code == 1 and told in text and not (tmp_path / "out").exists() and not Path("/tmp/ran").exists()
    torch.save({"x": torch.ones(2)}, folder / "pytorch_model.bin")
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"x": "pytorch_model-00001-of-00002.bin"}}')
    code, text = said(folder, tmp_path / "out")
    assert code == 1 and "pytorch_model-00001-of-00002.bin: missing, the index names it" in text


# -- DeepSpeed's folders --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def deepspeed_folder(tmp_path_factory) -> Path:
    from train.benchmark import made_models

    return made_models.deepspeed_checkpoint(tmp_path_factory.mktemp("deepspeed") / "checkpoint-1", made_models.shape_of(2e5, 512))


@pytest.mark.parametrize(("wanted", "how"), [("bf16", []), ("fp32", []), ("fp32", ["--tag", "global_step1"])])
def test_a_deepspeed_folder_becomes_what_deepspeeds_own_tool_makes_of_it(deepspeed_folder, tmp_path, said, wanted, how):
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    assert said(deepspeed_folder, tmp_path / "out", "--dtype", wanted, *how)[0] == 0
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[wanted]
    theirs = {n: t.to(dtype) for n, t in get_fp32_state_dict_from_zero_checkpoint(str(deepspeed_folder)).items()}
    made = weights_of(tmp_path / "out")
    assert made.keys() == theirs.keys() and all(torch.equal(made[n], t) for n, t in theirs.items())


def test_a_tags_own_folder_takes_the_config_beside_it(deepspeed_folder, tmp_path, said):
    assert said(deepspeed_folder / "global_step1", tmp_path / "out")[0] == 0
    assert (tmp_path / "out" / "config.json").is_file()


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda tag: (tag / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink(), "optimizer states of 1 are here"),
        (lambda tag: (tag / "zero_pp_rank_0_mp_rank_00_model_states.pt").write_bytes(b"PK"), "zero_pp_rank_0_mp_rank_00_model_states.pt"),
        (lambda tag: (tag.parent / "latest").write_text("../../etc"), "names '../../etc'"),
        (lambda tag: cut(tag / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"), "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"),
    ],
)
def test_a_damaged_deepspeed_folder_ends_in_one_message(deepspeed_folder, tmp_path, said, damage, what):
    folder = checkpoints.copy_of(deepspeed_folder, tmp_path / "in" / "checkpoint-1")
    damage(folder / "global_step1")
    code, text = said(folder, tmp_path / "out")
    assert code == 1 and what in text and names_in(tmp_path) == ["in"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def test_our_checkpoint_a_hugging_face_and_a_deepspeed_folder_can_be_merged(deepspeed_folder, tmp_path, said):
    import shutil

    folder = tmp_path / "model"
    assert said(deepspeed_folder, folder, "--dtype", "fp32")[0] == 0
    shutil.copytree(folder, tmp_path / "again")
    assert (
        said(folder, tmp_path / "out", "--merge", f"{deepspeed_folder}:0.25", "--merge", f"{tmp_path / 'again'}:0.25", "--dtype", "fp32")[0]
        == 0
    )
    one, made = weights_of(folder), weights_of(tmp_path / "out")
    assert all(torch.equal(made[n], t * 0.5 + t * 0.25 + t * 0.25) for n, t in one.items())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["copied", "masters", "merged", "deepspeed"])
def test_no_export_needs_torch(tmp_path, deepspeed_folder, kind):
    """Its import takes longer than most exports, and a machine that only publishes needs none."""
    step = checkpoints.checkpoint(tmp_path / "run", 2, seed=1, dtype=torch.bfloat16)
    other = checkpoints.model_folder(tmp_path / "chat", 2, torch.float16)
    more = {"copied": [], "masters": ["--dtype", "fp32"], "merged": ["--merge", f"{other}:0.25"], "deepspeed": []}[kind]
    source = deepspeed_folder if kind == "deepspeed" else step
    code = "import sys; sys.modules['torch'] = None; from launch.export_hf import main; sys.exit(main(sys.argv[1:]))"
    done = processes.run([sys.executable, "-c", code, source, tmp_path / "out", *more])
    assert done.returncode == 0, done.stderr
    assert main([str(source), str(tmp_path / "again"), *more]) == 0
    assert checkpoints.files_of(tmp_path / "out") == checkpoints.files_of(tmp_path / "again")
