"""Ids against the libraries' own, on strings chosen to be awkward."""

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import tokenizers

from data_tools.tokens.tokenizer import Tokenizer, TokenizerError, with_marks
from data_tools.tokens.words import words_are_separable
from tests.made import processes
from tests.made.where import SHARED

PROSE = """We present spectroscopic observations of the galaxy cluster Abell 2218 at redshift z = 0.176.
The stellar population of dwarf spheroidal galaxies is old and metal poor, as expected from chemical evolution.
Gravitational lensing of distant quasars constrains the Hubble constant $H_0 = 73.2\\pm 1.3$ km/s/Mpc.
\tThe accretion disk around the black hole emits X-rays;   its variability time scale is a few milliseconds.
"""
PIECES = [
    " ",
    "  ",
    "\t",
    "\n",
    "\r\n",
    "a",
    "the galaxy",
    "Hubble constant",
    " lensing",
    "é",
    "日本",
    "한",
    "ع",
    "🚀",
    "\u200b",
    "\ufeff",
    "\x00",
    "\x7f",
]
PIECES += [
    "<s>",
    "</s>",
    "<unk>",
    "<0x0A>",
    "<|im_end|>",
    "<|im_start|>user",
    "[INST]",
    "▁",
    "▁▁",
    "$\\alpha^{2}$",
    "0.5",
    "--",
    "=" * 30,
    "e\u0301",
]
MARKS = ["<|im_end|>", "<|im_start|>"]


@pytest.fixture(scope="module")
def spm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece model as LLaMA's: BPE, byte fallback, spaces kept, <s> and </s> as control pieces."""
    folder = tmp_path_factory.mktemp("spm")
    (folder / "text").write_text(PROSE * 30)
    train_sentencepiece(folder)
    return folder


def train_sentencepiece(folder: Path, **more: object) -> None:
    options = {"model_type": "bpe", "vocab_size": 420, "byte_fallback": True, "character_coverage": 0.995, "minloglevel": 2}
    options |= {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True}
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"), model_prefix=str(folder / "tokenizer"), hard_vocab_limit=False, **(options | more)
    )


@pytest.fixture(scope="module")
def hf_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer.json as GPT-2's or LLaMA-3's, with chat marks and a post-processor that adds BOS."""
    folder = tmp_path_factory.mktemp("hf")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>", *MARKS], initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([PROSE] * 30, trainer)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": {"content": "</s>"}}))
    return folder


def strings(count: int) -> list[str]:
    draw = random.Random(7)
    return ["".join(draw.choices(PIECES, k=draw.randint(0, 12))) for _ in range(count)]


def test_10000_strings_have_the_ids_of_sentencepiece_and_never_a_bos(spm_folder: Path) -> None:
    reference = sentencepiece.SentencePieceProcessor(model_file=str(spm_folder / "tokenizer.model"))
    tokenizer, texts = Tokenizer.load(spm_folder), strings(10_000)
    wanted = [reference.encode(text) for text in texts]
    assert [ids.tolist() for ids in tokenizer.encode_batch(texts)] == wanted
    assert [tokenizer.encode(text) for text in texts[:500]] == wanted[:500]
    assert not any({tokenizer.bos_id, tokenizer.eos_id} & set(ids) for ids in wanted)
    assert [tokenizer.decode(ids) for ids in wanted] == [reference.decode(ids) for ids in wanted]


def test_10000_strings_have_the_ids_of_tokenizers_and_never_a_mark(hf_folder: Path) -> None:
    reference = tokenizers.Tokenizer.from_file(str(hf_folder / "tokenizer.json"))
    tokenizer, texts = Tokenizer.load(hf_folder), strings(10_000)
    ids = [array.tolist() for array in tokenizer.encode_batch(texts)]
    assert [tokenizer.decode(list) for list in ids] == texts
    plain = [k for k, text in enumerate(texts) if not any(mark in text for mark in [*MARKS, "<s>", "</s>"])]
    assert len(plain) > 500
    assert [ids[k] for k in plain] == [reference.encode(texts[k], add_special_tokens=False).ids for k in plain]
    assert not any(set(tokenizer.control.values()) & set(list) for list in ids)


def test_text_survives_the_round_trip(spm_folder: Path) -> None:
    tokenizer = Tokenizer.load(spm_folder)
    texts = [text for text in strings(10_000) if "▁" not in text]  # SentencePiece itself writes spaces as ▁
    assert len(texts) > 3000 and [tokenizer.decode(ids) for ids in tokenizer.encode_batch(texts)] == texts


@pytest.mark.parametrize("folder", ["spm_folder", "hf_folder"])
def test_the_fast_path_is_taken_only_with_equal_ids(folder: str, request: pytest.FixtureRequest) -> None:
    pytest.importorskip("gigatoken")
    tokenizer, texts = Tokenizer.load(request.getfixturevalue(folder)), strings(10_000)
    fast, verdict = tokenizer.fast_path(texts[:2000])
    assert fast is not None, verdict
    assert verdict.startswith("gigatoken 0") and tokenizer.backend in verdict
    for ours, theirs in zip(tokenizer.encode_batch(texts), fast.encode_batch(texts)):
        np.testing.assert_array_equal(ours, theirs)
    assert fast.encode_flat(texts, 1)[0].tolist() == tokenizer.encode_flat(texts, 1)[0].tolist()


VARIANTS = [{"user_defined_symbols": ["black\u2581hole"]}, {"add_dummy_prefix": False}, {"normalization_rule_name": "nmt_nfkc"}]
VARIANTS += [{"split_by_whitespace": False, "vocab_size": 700}, {"model_type": "unigram"}, {"remove_extra_whitespaces": True}]


def test_words_are_encoded_alone_only_where_the_model_allows_it(tmp_path: Path, spm_folder: Path) -> None:
    def separable(folder: Path) -> bool:
        return words_are_separable(sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model")))

    assert separable(spm_folder)
    for k, more in enumerate(VARIANTS):
        (tmp_path / str(k)).mkdir()
        (tmp_path / str(k) / "text").write_text(PROSE * 30)
        train_sentencepiece(tmp_path / str(k), **more)
        assert not separable(tmp_path / str(k)), more
        reference = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / str(k) / "tokenizer.model"))
        texts = [*strings(300), "the black hole emits"]
        assert [ids.tolist() for ids in Tokenizer.load(tmp_path / str(k)).encode_batch(texts)] == [reference.encode(text) for text in texts]


def test_a_full_table_of_words_starts_anew(spm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_tools.tokens.words.MOST_WORDS", 50)
    reference = sentencepiece.SentencePieceProcessor(model_file=str(spm_folder / "tokenizer.model"))
    tokenizer, texts = Tokenizer.load(spm_folder), strings(1000)
    assert [tokenizer.encode(text) for text in texts] == [reference.encode(text) for text in texts]


def test_the_first_text_with_other_ids_is_named(spm_folder: Path, hf_folder: Path) -> None:
    one, other = Tokenizer.load(spm_folder), Tokenizer.load(hf_folder)
    assert one.first_difference(one, strings(50)) is None
    assert one.first_difference(other, ["", "", "galaxy", "x"]) == 2


def test_a_chat_mark_among_the_user_defined_pieces_is_not_cut_out_of_text(tmp_path: Path) -> None:
    (tmp_path / "text").write_text(PROSE * 30)
    train_sentencepiece(tmp_path, user_defined_symbols=["<|im_end|>", "Abell"])
    plain = Tokenizer.load(tmp_path)
    mark = plain.encode("<|im_end|>")[-1]
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"added_tokens_decoder": {str(mark): {"content": "<|im_end|>", "special": True}}})
    )
    tokenizer = Tokenizer.load(tmp_path)
    assert mark not in tokenizer.encode("a <|im_end|> b") and tokenizer.control["<|im_end|>"] == mark
    assert tokenizer.decode(tokenizer.encode("a <|im_end|> b")) == "a <|im_end|> b"
    assert tokenizer.encode("in Abell 2218") == plain.encode("in Abell 2218")


def test_tokens_added_beside_the_model_count_for_the_vocabulary(tmp_path: Path, spm_folder: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes((spm_folder / "tokenizer.model").read_bytes())
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|im_start|>": 420, "<|im_end|>": 421}))
    tokenizer = Tokenizer.load(tmp_path)
    assert (tokenizer.vocab_size, tokenizer.control["<|im_end|>"]) == (422, 421)
    assert not {420, 421} & set(tokenizer.encode("<|im_end|>"))
    assert tokenizer.decode([420, *tokenizer.encode("galaxy"), 421]) == "<|im_start|>galaxy<|im_end|>"


def test_marks_are_put_on_once_by_rule(spm_folder: Path, hf_folder: Path) -> None:
    for folder, ends in ((spm_folder, (1, 2)), (hf_folder, (0, 1))):
        tokenizer = Tokenizer.load(folder)
        texts = ["<s>galaxy</s>", "", "black hole"]
        tokens, lengths = tokenizer.encode_flat(texts, 1)
        marked, marked_lengths = with_marks(tokens, lengths, tokenizer.bos_id, tokenizer.eos_id)
        documents = [ids.tolist() for ids in np.split(marked, np.cumsum(marked_lengths)[:-1])]
        assert documents == [[ends[0], *tokenizer.encode(text), ends[1]] for text in texts]
        assert all(document.count(ends[0]) == document.count(ends[1]) == 1 for document in documents)
        assert with_marks(tokens, lengths, None, None)[0].tolist() == tokens.tolist()
        assert with_marks(tokens, lengths, None, 9)[0].tolist()[-1] == 9


def test_bos_and_eos_come_from_the_folders_configuration(tmp_path: Path, hf_folder: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((hf_folder / "tokenizer.json").read_bytes())
    with pytest.raises(TokenizerError, match="has no BOS token; name one in tokenizer_config.json.*--no-bos"):
        Tokenizer.load(tmp_path).rule()
    (tmp_path / "config.json").write_text(json.dumps({"bos_token_id": 2, "eos_token_id": [3, 1]}))
    assert (Tokenizer.load(tmp_path).bos_id, Tokenizer.load(tmp_path).eos_id) == (2, 3)
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    rule = Tokenizer.load(tmp_path).rule(add_bos=False)
    assert (rule["eos_id"], rule["add_bos"], rule["add_eos"], rule["file"]) == (2, False, True, "tokenizer.json")


@pytest.mark.parametrize(("name", "content"), [("tokenizer.model", b"junk"), ("tokenizer.json", b"junk"), ("nothing", b"")])
def test_a_folder_without_a_tokenizer_is_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TokenizerError, match="tokenizer"):
        Tokenizer.load(tmp_path)


@pytest.mark.slow
def test_the_tokenizer_does_not_load_torch(spm_folder: Path, hf_folder: Path) -> None:
    code = "import sys; from pathlib import Path; from data_tools.tokens.tokenizer import Tokenizer\n"
    code += "for folder in sys.argv[1:]: Tokenizer.load(Path(folder)).fast_path(['a'])\nsys.exit('torch' in sys.modules)"
    command = [sys.executable, "-c", code, str(spm_folder), str(hf_folder)]
    assert processes.run(command, seconds=60).returncode == 0


def test_a_real_model_has_the_ids_of_sentencepiece() -> None:
    folder = SHARED / "tokenizers" / "mistral_v1"
    if not folder.exists():
        pytest.skip("the LLaMA-type tokenizer of the shared data is not here")
    reference = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    tokenizer, texts = Tokenizer.load(folder), strings(10_000)
    wanted = [reference.encode(text) for text in texts]
    fast, verdict = tokenizer.fast_path(texts)
    for each in [tokenizer] + ([fast] if fast else []):
        assert [ids.tolist() for ids in each.encode_batch(texts)] == wanted, verdict
    assert tokenizer.vocab_size == 32000 and (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
