"""A tokenizer.json in either spelling of its merges is the same tokenizer, for tokenizers and for shards."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from data_tools.shards.fingerprint import tokenizer_fingerprint, tokenizer_fingerprints
from data_tools.shards.format import ShardError
from data_tools.shards.merges import as_words, spellings
from data_tools.shards.reader import Shards
from data_tools.shards.writer import ShardWriter

PIECES = ["a", "b", "é", "ab", "abé", "Ġ", '"', "\\", "Ġ\\", "\x7f", "\u2028"]


def saved(folder: Path, merges: list[tuple[str, str]]) -> bytes:
    """tokenizer.json as the installed tokenizers writes it."""
    vocabulary = {piece: i for i, piece in enumerate([*PIECES, *("".join(pair) for pair in merges if "".join(pair) not in PIECES)])}
    vocabulary |= {piece: len(vocabulary) + i for i, piece in enumerate({p for pair in merges for p in pair} - set(vocabulary))}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, dropout=None))
    made.pre_tokenizer = pre_tokenizers.Split("c", "isolated")
    folder.mkdir(exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    return (folder / "tokenizer.json").read_bytes()


MERGES = [("a", "b"), ("ab", "é"), ("Ġ", "\\")]


def test_the_older_spelling_reads_the_same(tmp_path):
    pairs = saved(tmp_path, MERGES)
    words = as_words(pairs)
    assert json.loads(words)["model"]["merges"] == ["a b", "ab é", "Ġ \\"] and as_words(words) == words
    for text in ("abé", "ab", "aab\\Ġ\\"):
        assert Tokenizer.from_str(words.decode()).encode(text).ids == Tokenizer.from_str(pairs.decode()).encode(text).ids


def test_each_spelling_tells_the_other(tmp_path):
    pairs = saved(tmp_path / "a", MERGES)
    words = as_words(pairs)
    assert spellings(pairs) == (pairs, words) and spellings(words) == (words, pairs)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "tokenizer.json").write_bytes(words)
    one, other = tokenizer_fingerprints(tmp_path / "a"), tokenizer_fingerprints(tmp_path / "b")
    assert one == other[::-1] and one[0] == tokenizer_fingerprint(tmp_path / "a")


OTHERS = {
    "a blank in a piece": lambda pairs: pairs.decode().replace("Ġ", " ").encode(),
    "laid out otherwise": lambda pairs: json.dumps(json.loads(pairs)).encode(),
    "no merges": lambda pairs: b'{\n  "model": {\n    "merges": []\n  }\n}',
    "no tokenizer": lambda pairs: b'{"merges": ["',
    "cut short": lambda pairs: pairs[:-9],
    "merges of numbers": lambda pairs: b'{\n  "model": {\n    "merges": [\n      [\n        1,\n        2\n      ]\n    ]\n  }\n}',
    "not a pair": lambda pairs: b'{\n  "model": {\n    "merges": [\n      "a b c"\n    ]\n  }\n}',
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_has_one_spelling_stays_as_it_is(tmp_path, case):
    text = OTHERS[case](saved(tmp_path, MERGES))
    assert as_words(text) == text and spellings(text) == (text,)


def test_shards_fit_a_model_in_either_spelling(tmp_path):
    pairs = saved(tmp_path / "a", MERGES)
    rule = {"fingerprint": tokenizer_fingerprint(tmp_path / "a"), "bos_id": None, "eos_id": None, "add_bos": False, "add_eos": False}
    writer = ShardWriter(tmp_path / "shards", kind="corpus", vocab_size=20, tokenizer=rule)
    writer.add("one", "astro", np.arange(5))
    writer.finish()
    shards = Shards.open(tmp_path / "shards")
    saved(tmp_path / "b", MERGES)
    (tmp_path / "b" / "tokenizer.json").write_bytes(as_words(pairs))
    saved(tmp_path / "c", MERGES[:1])
    for folder in ("a", "b"):
        shards.require_tokenizer(tokenizer_fingerprints(tmp_path / folder), "model.path")
    with pytest.raises(ShardError, match="was made with"):
        shards.require_tokenizer(tokenizer_fingerprints(tmp_path / "c"), "model.path")
