"""The comparison itself: all tools make the same tokens from the same text."""

import argparse
import json
import random
from pathlib import Path

import pytest
import sentencepiece

from data_tools.corpus import bench as tokenize_bench

WORDS = "the galaxy cluster redshift star black hole of a in we observe spectra mass dark matter halo é 日本 $z=0.5$ emission".split()


@pytest.mark.soak
def test_every_tool_makes_the_same_tokens_and_ours_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(1)
    lines = [json.dumps({"id": str(k), "text": " ".join(draw.choices(WORDS, k=300))}) for k in range(200)]
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    (tmp_path / "plain").write_text((" ".join(WORDS) + "\n") * 50)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "plain"),
        model_prefix=str(tmp_path / "tokenizer"),
        model_type="bpe",
        vocab_size=360,
        byte_fallback=True,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    monkeypatch.setattr(tokenize_bench, "LITTLE_BYTES", 100_000)
    monkeypatch.setattr(tokenize_bench, "LEAST_MEGABYTES", 0.1)
    parser = argparse.ArgumentParser()
    tokenize_bench.add_arguments(parser)
    words = [str(tmp_path / "text.jsonl"), "--tokenizer", str(tmp_path), "--megabytes", "0.5", "--rounds", "1", "--workers", "2"]
    rows = tokenize_bench.run(parser.parse_args(words))["rows"]
    assert [row["tool"] for row in rows if row["bar"]] == [tokenize_bench.REFERENCE, tokenize_bench.FAST] and len(rows) == 6
