"""launch/meta_to_hf.py: Meta's LLaMA-2 folders become Hugging Face ones that compute what Meta's own formulas do."""

import json
import math
import os
import random
import sys
from pathlib import Path

import pytest
import torch

from launch import meta_to_hf
from tests.made import processes

DIM, LAYERS, HEADS, VOCAB, THETA, EPS = 64, 2, 8, 300, 5000.0, 1e-5


def hidden_size(multiple_of: int, factor: float) -> int:
    wide = int(factor * int(2 * 4 * DIM / 3))
    return multiple_of * math.ceil(wide / multiple_of)


def meta_weights(kv_heads: int, hidden: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """A whole model under Meta's names."""
    g = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=g) * 0.15

    kv = DIM // HEADS * kv_heads
    weights = {"tok_embeddings.weight": matrix(VOCAB, DIM), "norm.weight": 1 + 0.1 * torch.randn(DIM, generator=g)}
    for i in range(LAYERS):
        at = f"layers.{i}."
        weights |= {f"{at}attention.w{n}.weight": matrix(rows, DIM) for n, rows in (("q", DIM), ("k", kv), ("v", kv), ("o", DIM))}
        weights |= {
            f"{at}feed_forward.w{n}.weight": matrix(*size) for n, size in ((1, (hidden, DIM)), (2, (DIM, hidden)), (3, (hidden, DIM)))
        }
        weights |= {f"{at}{n}_norm.weight": 1 + 0.1 * torch.randn(DIM, generator=g) for n in ("attention", "ffn")}
    return weights | {"output.weight": matrix(VOCAB, DIM), "rope.freqs": torch.arange(0.0, DIM // HEADS // 2)}


def write_meta(folder: Path, weights: dict[str, torch.Tensor], files: int, by_rows: bool = False, **params) -> Path:
    """Cut as Meta's model-parallel layers are: w_o, w2 and the embedding by columns, norms whole, the rest by rows."""
    folder.mkdir(parents=True)
    columns = ("wo.weight", "w2.weight") + (() if by_rows else ("tok_embeddings.weight",))
    for n in range(files):
        part = {
            name: w.clone() if w.ndim == 1 else w.chunk(files, dim=1 if name.endswith(columns) else 0)[n].clone()
            for name, w in weights.items()
        }
        torch.save(part, folder / f"consolidated.{n:02d}.pth")
    values = {"dim": DIM, "n_layers": LAYERS, "n_heads": HEADS, "multiple_of": 32, "norm_eps": EPS, "vocab_size": -1, "rope_theta": THETA}
    (folder / "params.json").write_text(json.dumps(values | params))
    return folder


def meta_logits(w: dict[str, torch.Tensor], kv_heads: int, tokens: torch.Tensor) -> torch.Tensor:
    """Meta's forward in plain torch: complex rotation of neighbouring pairs, repeated kv heads, RMSNorm, SwiGLU. tokens: (length,)."""
    head, length = DIM // HEADS, len(tokens)
    angles = torch.outer(torch.arange(length).float(), THETA ** (-torch.arange(0, head, 2).float() / head))
    turn = torch.polar(torch.ones_like(angles), angles)[:, None]  # (length, 1, head / 2)

    def rotate(x: torch.Tensor) -> torch.Tensor:
        return torch.view_as_real(torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * turn).flatten(-2)

    def normed(x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * gain

    h = w["tok_embeddings.weight"][tokens]
    allowed = torch.ones(length, length, dtype=torch.bool).tril()
    for i in range(LAYERS):
        at, x = f"layers.{i}.", normed(h, w[f"layers.{i}.attention_norm.weight"])
        q, k, v = (
            (x @ w[f"{at}attention.w{n}.weight"].T).view(length, count, head)
            for n, count in (("q", HEADS), ("k", kv_heads), ("v", kv_heads))
        )
        q, k = rotate(q), rotate(k)
        k, v = (t.repeat_interleave(HEADS // kv_heads, dim=1) for t in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(head)
        mixed = torch.einsum("hqk,khd->qhd", scores.masked_fill(~allowed, -math.inf).softmax(-1), v)
        h = h + mixed.reshape(length, DIM) @ w[f"{at}attention.wo.weight"].T
        x = normed(h, w[f"{at}ffn_norm.weight"])
        gate = torch.nn.functional.silu(x @ w[f"{at}feed_forward.w1.weight"].T) * (x @ w[f"{at}feed_forward.w3.weight"].T)
        h = h + gate @ w[f"{at}feed_forward.w2.weight"].T
    return normed(h, w["norm.weight"]) @ w["output.weight"].T


@pytest.fixture(scope="module")
def pieces(tmp_path_factory) -> Path:
    """A real SentencePiece model of VOCAB pieces, as LLaMA-2's is: bytes, <unk> <s> </s>."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("pieces")
    (folder / "text.txt").write_text(
        "\n".join(f"the galaxy {i} has a redshift of {i / 7:.3f} and stars of mass {i * i}" for i in range(400))
    )
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / "tokenizer"), vocab_size=VOCAB, model_type="bpe", byte_fallback=True,
        hard_vocab_limit=False, minloglevel=2,
        normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
    )  # fmt: skip
    from sentencepiece import sentencepiece_model_pb2

    # as in LLaMA-2's: two blanks have a low id and the worst score, so that `a  b` is a, blank, blank-and-b
    model = sentencepiece_model_pb2.ModelProto.FromString((folder / "tokenizer.model").read_bytes())
    assert "▁▁" not in {p.piece for p in model.pieces}
    model.pieces[259].piece, model.pieces[259].score = "▁▁", -1e9
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    return folder / "tokenizer.model"


@pytest.fixture(scope="module")
def small(tmp_path_factory, pieces) -> Path:
    """A Meta folder of two files, with its tokenizer above it."""
    above = tmp_path_factory.mktemp("llama")
    (above / "tokenizer.model").write_bytes(pieces.read_bytes())
    return write_meta(above / "small", meta_weights(HEADS, hidden_size(32, 1)), 2)


def copy_of(folder: Path, to: Path) -> Path:
    """Its own folder with links to nothing: the files and the tokenizer."""
    to.mkdir(parents=True)
    for path in [*folder.iterdir(), folder.parent / "tokenizer.model"]:
        (to / path.name).write_bytes(path.read_bytes())
    return to


def refusal(capsys, folder: Path, out: Path, *more: str) -> str:
    """The one line a failing conversion says; nothing is left behind."""
    before = sorted(p.name for p in out.parent.iterdir())
    assert meta_to_hf.main([str(folder), str(out), *more]) == 1
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1 and said.startswith("error: ") and sorted(p.name for p in out.parent.iterdir()) == before
    return said


@pytest.mark.parametrize(("files", "kv_heads", "by_rows"), [(1, 8, False), (2, 8, False), (2, 2, False), (4, 4, False), (2, 4, True)])
def test_the_converted_model_computes_what_metas_formulas_do(tmp_path, pieces, files, kv_heads, by_rows):
    from transformers import AutoModelForCausalLM

    factor = 1.3 if kv_heads < HEADS else 1
    weights = meta_weights(kv_heads, hidden_size(32, factor), seed=files)
    more = {"n_kv_heads": kv_heads, "ffn_dim_multiplier": factor} if kv_heads < HEADS else {}
    folder = write_meta(tmp_path / "meta", weights, files, by_rows, **more)
    assert meta_to_hf.main([str(folder), str(tmp_path / "hf"), "--tokenizer", str(pieces)]) == 0
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")) and model.dtype == torch.float32
    tokens = torch.randint(0, VOCAB, (40,), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        got = model(input_ids=tokens[None], use_cache=False).logits[0]
    wanted = meta_logits(weights, kv_heads, tokens)
    assert wanted.std() > 0.5 and (got - wanted).abs().max() <= 1e-5 * max(1, wanted.abs().max())


def test_the_folder_has_config_and_a_tokenizer_that_gives_sentencepieces_ids(small, tmp_path, capsys):
    import sentencepiece
    from transformers import AutoConfig, AutoTokenizer

    assert meta_to_hf.main([str(small), str(tmp_path / "hf"), "--dtype", "bf16"]) == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith(f"{tmp_path / 'hf'}: 21 tensors")
    config = AutoConfig.from_pretrained(tmp_path / "hf")
    assert (config.max_position_embeddings, config.vocab_size, config.num_key_value_heads, config.rms_norm_eps) == (4096, VOCAB, HEADS, EPS)
    assert config.rope_parameters["rope_theta"] == THETA and str(config.dtype) == "torch.bfloat16" and not config.tie_word_embeddings
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    own = sentencepiece.SentencePieceProcessor(model_file=str(small.parent / "tokenizer.model"))
    pick = random.Random(3)
    words = ["the ", " ", "galaxy", "\n", "é", "  ", "     ", "redshift ", "0", "17", "\\", "🌌", "aaaa", "...", "α"]
    for text in ["", " ", "  two  spaces ", *("".join(pick.choices(words, k=pick.randint(1, 30))) for _ in range(500))]:
        ids = [1, *own.encode(text)]
        assert tokenizer(text)["input_ids"] == ids, text
        assert tokenizer.decode(ids, skip_special_tokens=True) == own.decode(ids[1:])


def test_weights_keep_their_dtype_unless_another_is_asked_for(pieces, tmp_path):
    from safetensors.torch import load_file

    weights = {n: w.bfloat16() for n, w in meta_weights(HEADS, hidden_size(32, 1)).items()}
    folder = write_meta(tmp_path / "meta", weights, 2)
    for name, dtype in (("keep", torch.bfloat16), ("fp32", torch.float32)):
        assert meta_to_hf.main([str(folder), str(tmp_path / name), "--dtype", name, "--tokenizer", str(pieces)]) == 0
        got = load_file(tmp_path / name / "model-00001-of-00001.safetensors")
        assert got["model.layers.1.mlp.down_proj.weight"].dtype == dtype
        assert torch.equal(got["model.layers.1.mlp.down_proj.weight"].bfloat16(), weights["layers.1.feed_forward.w2.weight"])


def test_a_missing_file_is_named(small, tmp_path, capsys):
    folder = copy_of(small, tmp_path / "one")
    (folder / "consolidated.01.pth").unlink()
    assert "consolidated.01.pth: missing" in refusal(capsys, folder, tmp_path / "out")
    (folder / "consolidated.00.pth").rename(folder / "consolidated.01.pth")
    assert "consolidated.00.pth: missing" in refusal(capsys, folder, tmp_path / "out")


@pytest.mark.parametrize("name", ["consolidated.00.pth", "consolidated.01.pth", "params.json", "tokenizer.model"])
def test_each_file_cut_short_or_gone_is_refused_by_name(small, tmp_path, capsys, name):
    folder = copy_of(small, tmp_path / "cut")
    whole = (folder / name).read_bytes()
    for length in (len(whole) - 1, len(whole) // 2, 0):
        (folder / name).write_bytes(whole[:length])
        if name == "tokenizer.model" and length == len(whole) - 1:
            continue  # a protobuf may end in a field that is not needed
        assert str(folder / name) in refusal(capsys, folder, tmp_path / "out")
    (folder / name).unlink()
    assert name in refusal(capsys, folder, tmp_path / "out")


def test_contradictions_between_files_and_params_are_refused(small, pieces, tmp_path, capsys):
    weights = meta_weights(HEADS, hidden_size(32, 1))
    cases = {
        "n_layers": ({"n_layers": 3}, "layers.2.attention.wq.weight is missing"),
        "fewer": ({"n_layers": 1}, "layers.1.attention.wk.weight is nothing"),
        "hidden": ({"ffn_dim_multiplier": 1.5}, "layers.0.feed_forward.w1.weight is"),
        "vocab": ({"vocab_size": 32000}, "vocab_size=32000, the embedding has 300 rows"),
        "heads": ({"n_heads": 7}, "do not divide"),
        "scaled": ({"use_scaled_rope": True}, "use_scaled_rope is nothing LLaMA-2 has"),
        "text": ({"dim": "wide"}, "dim='wide'"),
    }
    for name, (change, said) in cases.items():
        folder = write_meta(tmp_path / name, weights, 2, **change)
        assert said in refusal(capsys, folder, tmp_path / "out", "--tokenizer", str(pieces)), name
    mixed = copy_of(small, tmp_path / "mixed")
    other = write_meta(tmp_path / "other", meta_weights(HEADS, hidden_size(32, 1), seed=9), 2)
    (mixed / "consolidated.01.pth").write_bytes((other / "consolidated.01.pth").read_bytes())
    assert "files of two models are mixed" in refusal(capsys, mixed, tmp_path / "out")


def test_a_tokenizer_that_normalises_text_is_refused(small, tmp_path, capsys):
    import sentencepiece

    (tmp_path / "text.txt").write_text("\n".join(f"the galaxy {i} has stars of mass {i * i}" for i in range(400)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text.txt"), model_prefix=str(tmp_path / "other"), vocab_size=VOCAB, model_type="bpe", byte_fallback=True,
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    said = refusal(capsys, small, tmp_path / "out", "--tokenizer", str(tmp_path / "other.model"))
    assert "as no LLaMA-2 tokenizer does" in said


def test_a_tokenizer_of_another_model_is_refused(small, tmp_path, capsys):
    weights = {
        n: torch.cat([w, w[:2]]) if n in ("tok_embeddings.weight", "output.weight") else w for n, w in meta_weights(HEADS, 192).items()
    }
    folder = write_meta(tmp_path / "more", weights, 1)
    assert "300 pieces" in refusal(capsys, folder, tmp_path / "out", "--tokenizer", str(small.parent / "tokenizer.model"))


def test_values_that_do_not_fit_the_dtype_are_not_published(pieces, tmp_path, capsys):
    for i, (value, name, dtype) in enumerate(
        [
            (1e5, "fp16", "float16"),
            (math.nan, "bf16", "bfloat16"),
            (-math.inf, "keep", "float32"),
            (math.nan, "keep", "float32"),
        ]
    ):
        weights = meta_weights(HEADS, hidden_size(32, 1))
        weights["norm.weight"][3] = value
        folder = write_meta(tmp_path / f"meta{i}", weights, 1)
        said = refusal(capsys, folder, tmp_path / "out", "--tokenizer", str(pieces), "--dtype", name)
        assert f"model.norm.weight: holds values that are not finite in {dtype}" in said


def test_a_file_that_would_run_code_runs_none(small, tmp_path, capsys):
    folder = copy_of(small, tmp_path / "evil")

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"x": Evil()}, folder / "consolidated.01.pth")
    assert "names posix.system" in refusal(capsys, folder, tmp_path / "out") and not (tmp_path / "ran").exists()


def test_a_recipe_pointed_at_metas_folder_is_told_the_command(small):
    from train.model_files.folder import WeightsError, read_folder

    with pytest.raises(WeightsError, match=r"only consolidated\.00\.pth.*python launch/meta_to_hf\.py .*small OUT"):
        read_folder(small)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_model(tmp_path):
    """270 MB of weights pass through in a few pieces."""
    code = """
import resource, sys
from pathlib import Path
from train.foreign.meta.tensors import read_params, tensors_of
folder = Path(sys.argv[1])
tensors, _ = tensors_of(folder, read_params(folder))
begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
total = sum(len(p) for t in tensors.values() for p in t.parts())
print(total * 4, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begun) * 1024)
"""
    params = {"dim": 512, "n_heads": 8, "n_layers": 24, "multiple_of": 32}
    rows = {"wq": (256, 512), "wk": (256, 512), "wv": (256, 512), "wo": (512, 256), "w1": (688, 512), "w2": (512, 688), "w3": (688, 512)}
    for n in range(2):
        part = {"tok_embeddings.weight": torch.ones(VOCAB, 256), "norm.weight": torch.ones(512), "output.weight": torch.ones(150, 512)}
        for i in range(24):
            part |= {
                f"layers.{i}.{'attention' if k in ('wq', 'wk', 'wv', 'wo') else 'feed_forward'}.{k}.weight": torch.ones(s)
                for k, s in rows.items()
            }
            part |= {f"layers.{i}.{k}_norm.weight": torch.ones(512) for k in ("attention", "ffn")}
        torch.save(part, tmp_path / f"consolidated.{n:02d}.pth")
    (tmp_path / "params.json").write_text(json.dumps(params))
    done = processes.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    total, grown = map(int, done.stdout.split())
    assert total > 250e6 and grown < 60e6
