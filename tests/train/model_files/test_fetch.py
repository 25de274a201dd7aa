"""`model.path`: folders, GGUF files, Hub names, and what is said when there is nothing."""

import json

import numpy as np
import pytest
import torch

from tests.made import tiny
from tests.train.run.test_metrics_log import ALONE
from train.engine.weights import checksum, slice_range
from train.model_files.dtypes import known
from train.model_files.fetch import local_folder, resolve
from train.model_files.folder import ModelError, WeightsError, read_folder
from train.model_files.header import SafetensorsError, read_header
from train.model_files.reader import read_range
from train.model_files.writer import Writer


@pytest.mark.parametrize(
    ("path", "said"), [("no/such/folder", "no such folder"), ("none.gguf", "no such file"), ("nobody/no-model", "the Hub does not give it")]
)
def test_a_model_that_is_not_there_is_said_in_one_line(path, said):
    with pytest.raises(ModelError, match=said) as error:
        resolve(path, ALONE)
    assert path in str(error.value) and "\n" not in str(error.value)


def write_gguf(file, model, beside=lambda writer: None) -> None:
    """A tiny Llama as llama.cpp's converter writes it. beside: puts in what else there is to say."""
    import gguf

    c = model.config
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(2)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_freq_base(123456.0)
    writer.add_vocab_size(tiny.VOCAB)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(
        [b"<unk>", b"<s>", b"</s>"] + [f"<0x{i:02X}>".encode() for i in range(256)] + [f"t{i}".encode() for i in range(tiny.VOCAB - 259)]
    )
    writer.add_token_scores([0.0] * tiny.VOCAB)
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * (tiny.VOCAB - 259))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    parts = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    for i in (0, 1):
        names |= {f"model.layers.{i}.{ours}": f"blk.{i}.{theirs}" for ours, theirs in parts.items()}
    for name, p in model.state_dict().items():
        value = p.numpy()
        if "q_proj" in name or "k_proj" in name:  # llama.cpp interleaves the two halves of each rotary head
            heads = 4 if "q_proj" in name else 2
            value = value.reshape(heads, 2, -1, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
        writer.add_tensor(names[name.removesuffix(".weight")] + ".weight", np.ascontiguousarray(value))
    beside(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_becomes_a_folder_with_its_values(tmp_path):
    """A tiny Llama written with the gguf package, unpacked, against the values that were written."""
    from safetensors.torch import load_file

    model = tiny.tiny_model()
    file = tmp_path / "tiny.gguf"
    write_gguf(file, model)
    folder = resolve(str(file), ALONE)
    assert folder == local_folder(str(file)) == tmp_path / "tiny-hf"
    got = load_file(folder / "model.safetensors")
    assert got.keys() == model.state_dict().keys()
    assert all(torch.equal(got[n], p) for n, p in model.state_dict().items())
    config = json.loads((folder / "config.json").read_text())
    assert config["num_key_value_heads"] == 2
    assert (config["rope_theta"], config["rope_scaling"], config["torch_dtype"]) == (123456.0, None, "float32")  # for older readers
    assert json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] in ("PreTrainedTokenizerFast", "LlamaTokenizer")
    assert resolve(str(file), ALONE) == folder  # and a second time it is only found


LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def divisors(factor: float, low: float, high: float, original: int, dims: int = 12, base: float = 123456.0) -> np.ndarray:
    """Llama 3's, frequency by frequency, as llama.cpp's converter works them out."""
    found = []
    for i in range(0, dims, 2):
        wavelength = 2 * np.pi * base ** (i / dims)
        if wavelength < original / high:
            found.append(1.0)
        elif wavelength > original / low:
            found.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(found, np.float32)


def says(**values):
    """Puts llama.rope.scaling.KEY into a file."""

    def beside(writer) -> None:
        for key, value in values.items():
            add = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32}[type(value)]
            add(f"llama.rope.scaling.{key}", value)

    return beside


def holds(name: str, tensor: np.ndarray):
    return lambda writer: writer.add_tensor(name, tensor)


STRETCHED = {
    "Llama 3.1": (holds("rope_freqs.weight", divisors(32.0, 1.0, 4.0, 8192)), LLAMA3),
    "another factor": (holds("rope_freqs.weight", divisors(8.0, 1.0, 4.0, 8192)), LLAMA3 | {"factor": 8.0}),
    "ones": (holds("rope_freqs.weight", np.ones(6, np.float32)), {"rope_type": "default"}),
    "linear": (says(type="linear", factor=4.0), {"rope_type": "linear", "factor": 4.0}),
    "none": (says(type="none"), {"rope_type": "default"}),
    "linear by one": (says(type="linear", factor=1.0), {"rope_type": "default"}),
    "linear, as it was said once": (lambda writer: writer.add_float32("llama.rope.scale_linear", 2.0), {"rope_type": "linear", "factor": 2.0}),
    "yarn": (
        says(type="yarn", factor=4.0, original_context_length=64, yarn_beta_fast=16.0),
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 16.0},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", STRETCHED)
def test_a_gguf_file_keeps_how_it_stretches_rope(tmp_path, case):
    from transformers import AutoConfig

    beside, wanted = STRETCHED[case]
    write_gguf(tmp_path / "tiny.gguf", tiny.tiny_model(), beside)
    folder = resolve(str(tmp_path / "tiny.gguf"), ALONE)
    assert AutoConfig.from_pretrained(folder).rope_parameters == wanted | {"rope_theta": 123456.0}


REFUSED = {
    "other frequencies": (holds("rope_freqs.weight", divisors(32.0, 1.0, 2.0, 100)), "its rope_freqs are not those of a Llama 3"),
    "longrope": (says(type="longrope", factor=4.0), "rope.scaling.type=longrope"),
    "long and short factors": (holds("rope_factors_long.weight", np.ones(6, np.float32)), "rope_factors_long.weight"),
    "an attention factor": (says(type="yarn", factor=4.0, original_context_length=64, attn_factor=1.5), "attn_factor=1.5"),
    "two ways at once": (
        lambda writer: (says(type="linear", factor=4.0)(writer), holds("rope_freqs.weight", divisors(32.0, 1.0, 4.0, 8192))(writer)),
        "rope_freqs and a factor",
    ),
    "yarn of no length": (says(type="yarn", factor=4.0), "rope.scaling.type=yarn"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_gguf_file_whose_rope_cannot_be_read_is_refused(tmp_path, case):
    beside, said = REFUSED[case]
    write_gguf(tmp_path / "tiny.gguf", tiny.tiny_model(), beside)
    with pytest.raises(ModelError, match="give the Hugging Face folder it was made from") as error:
        resolve(str(tmp_path / "tiny.gguf"), ALONE)
    assert said in str(error.value) and not (tmp_path / "tiny-hf").exists()


def test_slices_cover_every_element_once():
    for numel in (0, 1, 7, 64, 1000):
        for size in (1, 2, 3, 8):
            ranges = [slice_range(numel, r, size) for r in range(size)]
            assert [i for a, b in ranges for i in range(a, b)] == list(range(numel))


def test_checksums_of_slices_add_up_and_notice_any_move():
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(0)).bfloat16()
    whole = checksum(x, 0)
    for size in (2, 3, 7):
        assert sum(checksum(x[a:b], a) for a, b in (slice_range(len(x), r, size) for r in range(size))) % (1 << 64) == whole
    rows = x.view(100, 2000)
    swapped = rows[torch.tensor([1, 0, *range(2, 100)])].reshape(-1)
    one = x.clone()
    one[123_456] += 0.01
    assert len({whole, checksum(swapped, 0), checksum(one, 0), checksum(x.flip(0), 0), checksum(x, 1)}) == 5


def test_our_files_are_read_by_safetensors_and_theirs_by_us(tmp_path):
    from safetensors.torch import load_file, save_file

    tensors = {"a": torch.randn(3, 5), "b": torch.randn(7).bfloat16(), "empty": torch.zeros(0, 4)}
    writer = Writer(tmp_path / "ours", {n: (known(t.dtype), tuple(t.shape)) for n, t in tensors.items()})
    for name, t in tensors.items():
        writer.stream(name, [t.reshape(-1)])
    nbytes, digest = writer.close()
    import hashlib

    data = (tmp_path / "ours").read_bytes()
    assert (len(data), hashlib.sha256(data).hexdigest()) == (nbytes, digest)
    assert all(torch.equal(load_file(tmp_path / "ours")[n], t) for n, t in tensors.items())
    save_file(tensors, tmp_path / "theirs")
    entries = read_header(tmp_path / "theirs")
    for name, t in tensors.items():
        parts = [p for _, p in read_range(entries[name], 0, t.numel(), chunk_elements=4)]
        assert torch.equal(torch.cat(parts) if parts else t.reshape(-1), t.reshape(-1))


@pytest.mark.parametrize("damage", ["cut", "header cut", "huge header", "not json", "hole", "longer", "wrong shape"])
def test_a_damaged_safetensors_file_is_refused(tmp_path, damage):
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    save_file({"a": torch.randn(4, 4), "b": torch.randn(4)}, path)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])

    def rebuilt(**changes) -> bytes:
        text = json.dumps({k: v | changes.get(k, {}) if k != "__metadata__" else v for k, v in header.items()}).encode()
        return len(text).to_bytes(8, "little") + text + data[8 + length :]

    path.write_bytes(
        {
            "cut": data[:-1], "header cut": data[:20], "huge header": (1 << 60).to_bytes(8, "little") + data[8:], "not json": data[:8] + b"x" * length + data[8 + length :],
            "hole": rebuilt(b={"data_offsets": [68, 84]}), "longer": data + b"\0", "wrong shape": rebuilt(a={"shape": [4, 5]}),
        }[damage]
    )  # fmt: skip
    with pytest.raises(SafetensorsError, match="model.safetensors"):
        read_folder(tmp_path)


def test_an_index_that_names_what_is_not_there_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "model-00001-of-00002.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    for weight_map, said in (
        ({"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}, "missing, the index names it"),
        ({"a": "model-00001-of-00002.safetensors", "b": "model-00001-of-00002.safetensors"}, "tensor b is missing"),
        ({"a": "../model-00001-of-00002.safetensors"}, "outside its folder"),
    ):
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(WeightsError, match=said):
            read_folder(tmp_path)
