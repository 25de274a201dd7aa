"""An adapter merged into its base against plain torch, bit by bit; adapters as peft writes them; bases that are not the adapter's."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.made import adapters, tiny
from train.export.exporter import export
from train.export.merge import ELEMENTS
from train.export.plan import Request
from train.export.source import ExportError
from train.model_files.adapter import AdapterError
from train.model_files.dtypes import OF_RECIPE


@pytest.fixture
def base(tmp_path):
    adapters.tiny_base(tmp_path / "base")
    return tmp_path / "base"


def merged(folder, base, out, dtype: str = "fp32") -> dict[str, torch.Tensor]:
    made = export(Request(checkpoint=folder, out=out, dtype=OF_RECIPE[dtype], merge_adapter=True, base=base))
    assert made.tensors == len(load_file(out / "model-00001-of-00001.safetensors"))
    return load_file(out / "model-00001-of-00001.safetensors")


def by_hand(base: dict, tensors: dict, scale, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    made = {}
    for name, weight in base.items():
        a, b = (tensors.get(f"{adapters.PREFIX}{name.removesuffix('.weight')}.lora_{part}.weight") for part in "AB")
        made[name] = (weight.float() if a is None else weight.float() + (b.float() @ a.float()) * scale(name)).to(dtype)
    return made


def weights(base) -> dict[str, torch.Tensor]:
    return load_file(base / "model.safetensors")


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("kept", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32 base", "bf16 base", "fp16 base"])
def test_a_merge_is_what_plain_torch_gives_bit_by_bit(base, tmp_path, kept, dtype):
    save_file({n: t.to(kept) for n, t in weights(base).items()}, base / "model.safetensors")
    tensors = adapters.write(tmp_path / "adapter", tiny.tiny_model(), rank=5, alpha=7)
    got = merged(tmp_path / "adapter", base, tmp_path / "out", dtype)
    wanted = by_hand(weights(base), tensors, lambda name: 7 / 5, {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype])
    assert len(got) == len(wanted) == 21
    assert all(torch.equal(got[n], t) and got[n].dtype == t.dtype for n, t in wanted.items())


def test_tensors_of_many_pieces_are_merged_bit_by_bit_too(tmp_path):
    wide = {"hidden_size": 768, "intermediate_size": 2304, "tie_word_embeddings": True}
    model = adapters.tiny_base(tmp_path / "base", **wide)
    tensors = adapters.write(tmp_path / "adapter", model)
    for dtype, kept in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        got = merged(tmp_path / "adapter", tmp_path / "base", tmp_path / dtype, dtype)
        wanted = by_hand(weights(tmp_path / "base"), tensors, lambda name: 1.5, kept)
        assert max(t.numel() for t in wanted.values()) > 6 * ELEMENTS
        assert all(torch.equal(got[n], t) for n, t in wanted.items())


def test_a_merge_computes_what_base_and_adapter_compute_side_by_side(base, tmp_path):
    adapters.write(tmp_path / "adapter", tiny.tiny_model())
    merged(tmp_path / "adapter", base, tmp_path / "out")
    from transformers import AutoModelForCausalLM

    ids = list(range(5, 45))
    beside = adapters.logits(adapters.read_plainly(tmp_path / "adapter", base), ids)
    within = adapters.logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval(), ids)
    plain = adapters.logits(tiny.tiny_model(), ids)
    assert (beside - within).abs().max() <= 1e-5 * beside.abs().max()
    assert (beside - plain).abs().max() > 1e-2


def test_ranks_and_alphas_of_single_layers_and_rslora_are_heeded(base, tmp_path):
    tensors = adapters.write(tmp_path / "adapter", tiny.tiny_model(), rank=4, alpha=6)
    for name in [n for n in tensors if "layers.1.mlp.up_proj" in n]:
        tensors[name] = torch.randn(8, 48) if "lora_A" in name else torch.randn(96, 8)
    save_file(tensors, tmp_path / "adapter" / "adapter_model.safetensors")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    config |= {
        "use_rslora": True,
        "rank_pattern": {r"layers\.1\.mlp\.up_proj": 8},
        "alpha_pattern": {"q_proj": 3.0, "^model.layers.0.mlp.down_proj": 1},
    }
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))

    def scale(name: str) -> float:
        alpha = 3.0 if "q_proj" in name else 1 if "layers.0.mlp.down_proj" in name else 6
        return alpha / (8 if "layers.1.mlp.up_proj" in name else 4) ** 0.5

    got, wanted = merged(tmp_path / "adapter", base, tmp_path / "out"), by_hand(weights(base), tensors, scale, torch.float32)
    assert all(torch.equal(got[n], t) for n, t in wanted.items())


def test_modules_saved_whole_and_an_adapter_at_the_embedding_are_merged(base, tmp_path):
    tensors = adapters.write(tmp_path / "adapter", tiny.tiny_model(), changes={"modules_to_save": ["lm_head"]})
    head, a, b = torch.randn(tiny.VOCAB, 48), torch.randn(4, tiny.VOCAB), torch.randn(48, 4)
    own = {"model.embed_tokens.lora_embedding_A": a, "model.embed_tokens.lora_embedding_B": b, "lm_head.weight": head}
    save_file(tensors | {f"{adapters.PREFIX}{n}": t for n, t in own.items()}, tmp_path / "adapter" / "adapter_model.safetensors")
    got, wanted = merged(tmp_path / "adapter", base, tmp_path / "out"), by_hand(weights(base), tensors, lambda name: 6 / 4, torch.float32)
    wanted |= {"lm_head.weight": head, "model.embed_tokens.weight": weights(base)["model.embed_tokens.weight"] + (b @ a).T * 1.5}
    assert all(torch.equal(got[n], t) for n, t in wanted.items())


def test_an_adapter_in_a_torch_file_is_read_without_unpickling(base, tmp_path):
    tensors = adapters.write(tmp_path / "adapter", tiny.tiny_model())
    torch.save(tensors, tmp_path / "adapter" / "adapter_model.bin")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    got, wanted = merged(tmp_path / "adapter", base, tmp_path / "out"), by_hand(weights(base), tensors, lambda name: 1.5, torch.float32)
    assert all(torch.equal(got[n], t) for n, t in wanted.items())


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"use_dora": True}, "use_dora=true, and its magnitudes are missing"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out=true"),
        ({"peft_type": "IA3"}, "peft_type=IA3: only LORA"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights=pissa"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices=[1, 2]: not computed here"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"r": 8}, "rank 4 in its tensors, 8 in adapter_config.json"),
    ],
)
def test_what_is_not_computed_here_is_refused_by_name(base, tmp_path, changes, told):
    adapters.write(tmp_path / "adapter", tiny.tiny_model(), changes=changes)
    with pytest.raises(AdapterError, match=told.replace("[", r"\[").replace("]", r"\]")):
        merged(tmp_path / "adapter", base, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tensors_that_are_empty_half_there_or_of_another_model_are_named(base, tmp_path):
    tensors = adapters.write(tmp_path / "adapter", tiny.tiny_model())
    at = f"{adapters.PREFIX}model.layers.0.self_attn."
    tensors[f"{at}q_proj.lora_A.weight"] = torch.zeros(0)
    tensors.pop(f"{at}k_proj.lora_B.weight")
    tensors[f"{at}v_proj.lora_B.weight"] = torch.zeros(99, 4)
    tensors[f"{adapters.PREFIX}model.layers.7.self_attn.q_proj.lora_A.weight"] = torch.zeros(4, 48)
    tensors[f"{at}o_proj.lora_magnitude_vector"] = torch.zeros(48)
    save_file(tensors, tmp_path / "adapter" / "adapter_model.safetensors")
    with pytest.raises(AdapterError) as told:
        merged(tmp_path / "adapter", base, tmp_path / "out")
    for words in (
        "q_proj.lora_A.weight: empty",
        "k_proj.weight: has only one",
        "v_proj.weight: A [4, 48] and B [99, 4]",
        "layers.7",
        "o_proj.lora_magnitude_vector: of DoRA, and use_dora is not set",
    ):
        assert words in str(told.value), words


def cut(folder) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def cut_in_its_header(folder) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:40])


def not_finite(folder) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors[f"{adapters.PREFIX}model.layers.1.mlp.up_proj.lora_B.weight"][3, 1] = float("nan")
    save_file(tensors, folder / "adapter_model.safetensors")


def empty(folder) -> None:
    """As ZeRO-3 left them whose ranks were not asked for their parts."""
    save_file({n: torch.zeros(0) for n in load_file(folder / "adapter_model.safetensors")}, folder / "adapter_model.safetensors")


def without_tensors(folder) -> None:
    save_file({}, folder / "adapter_model.safetensors")


def without_weights(folder) -> None:
    (folder / "adapter_model.safetensors").unlink()


def config_cut(folder) -> None:
    (folder / "adapter_config.json").write_text((folder / "adapter_config.json").read_text()[:30])


def config_without_alpha(folder) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "lora_alpha"}))


def its_own_base(folder) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(folder)}))


@pytest.mark.parametrize(
    "damage, told",
    [
        (cut, "file holds"),
        (cut_in_its_header, "the copy was cut short"),
        (not_finite, "layers.1.mlp.up_proj.lora_B.*not finite"),
        (empty, "gathered nothing .ZeRO-3."),
        (without_tensors, "holds no tensor of an adapter"),
        (without_weights, "no adapter_model.safetensors|no .*safetensors weights"),
        (config_cut, "adapter_config.json: not a JSON object"),
        (config_without_alpha, "rank and alpha cannot be read"),
        (its_own_base, "its base .* is itself an adapter; merge that one first"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_damaged_adapter_is_refused_in_one_message_to_merge_and_to_talk_to(base, tmp_path, damage, told):
    from train.evaluation.loaded import check_folder, load

    adapters.write(tmp_path / "adapter", tiny.tiny_model(), changes={"base_model_name_or_path": str(base)})
    damage(tmp_path / "adapter")
    request = Request(checkpoint=tmp_path / "adapter", out=tmp_path / "out", dtype=OF_RECIPE["fp32"], merge_adapter=True)

    def to_talk_to() -> None:
        check_folder(tmp_path / "adapter")
        load(tmp_path / "adapter", "fp32", torch.device("cpu"))

    for door in (lambda: export(request), to_talk_to):
        with pytest.raises(ValueError, match=f"(?s){told}") as error:
            door()
        assert "adapter" in str(error.value) and not (tmp_path / "out").exists() and not (tmp_path / ".out.export").exists()


def test_a_merge_onto_another_base_is_refused_even_when_part_of_it_was_written_before(base, tmp_path):
    from train.model_files.bit_sums import checksum, fingerprint

    adapters.write(tmp_path / "adapter", tiny.tiny_model())
    sums = [(n, tuple(t.shape), "float32", checksum(t.reshape(-1).numpy(), 0)) for n, t in weights(base).items()]
    (tmp_path / "adapter" / "base_model.json").write_text(
        json.dumps({"path": str(base), "folder": str(base), "fingerprint": fingerprint(sums)})
    )
    request = Request(checkpoint=tmp_path / "adapter", out=tmp_path / "out", dtype=OF_RECIPE["fp32"], merge_adapter=True)
    export(request)  # its own base, found where the adapter says
    shutil.rmtree(tmp_path / "out")
    other = weights(base)
    other["model.norm.weight"][7] += 1e-3
    save_file(other, base / "model.safetensors")
    with pytest.raises(ExportError, match="the adapter was trained on"):
        export(request)
    assert not (tmp_path / "out").exists() and not (tmp_path / ".out.export").exists()


def test_an_adapters_own_folder_goes_out_as_it_is_and_no_model_is_taken_for_one(base, tmp_path):
    tensors = adapters.write(tmp_path / "adapter", tiny.tiny_model())
    export(Request(checkpoint=tmp_path / "adapter", out=tmp_path / "out", dtype=OF_RECIPE["fp32"], base=base))
    again = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert again.keys() == tensors.keys() and all(torch.equal(again[n], t) for n, t in tensors.items())
    assert (
        json.loads((tmp_path / "out" / "adapter_config.json").read_text())["r"] == 4
        and "library_name: peft" in (tmp_path / "out" / "README.md").read_text()
    )
    with pytest.raises(ExportError, match="adapter: an adapter, whose tensors are no model's; merge each into its base first"):
        export(Request(checkpoint=base, out=tmp_path / "more", dtype=OF_RECIPE["fp32"], merge=((tmp_path / "adapter", 0.5),)))
    with pytest.raises(ExportError, match="--merge-adapter: .* is no adapter"):
        export(Request(checkpoint=base, out=tmp_path / "more", dtype=OF_RECIPE["fp32"], merge_adapter=True))


def test_peft_computes_the_same_of_a_folder_of_its_own(base, tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed: its reading of an adapter is not compared with ours")
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    settings = peft.LoraConfig(
        r=4, lora_alpha=5, use_rslora=True, task_type="CAUSAL_LM", target_modules=["q_proj", "down_proj", "embed_tokens"], modules_to_save=["lm_head"],
        rank_pattern={"q_proj": 6}, alpha_pattern={"layers.1.mlp.down_proj": 9},
    )  # fmt: skip
    model = peft.get_peft_model(plain, settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.normal_(0, 0.1)
    model.save_pretrained(tmp_path / "adapter")
    merged(tmp_path / "adapter", base, tmp_path / "out")
    ids = list(range(5, 45))
    theirs = adapters.logits(model.eval(), ids)
    ours = adapters.logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval(), ids)
    assert (theirs - ours).abs().max() <= 1e-5 * theirs.abs().max()
