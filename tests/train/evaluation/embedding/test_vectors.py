"""A paper's vector is the mean of transformers' own last hidden states without BOS, and what is on disk is not computed again."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.made.papers import sentences
from tests.made.ranks import run_ranks
from tests.made.tiny import save_tiny
from train.evaluation.embedding.papers import Paper
from train.evaluation.embedding.vectors import embedder, read, write
from train.evaluation.loaded import Loaded
from train.evaluation.texts import EvaluationError
from train.world.ranks import World

PAPERS = [Paper(str(n), sentences(n, 2), f"title {n}") for n in range(70)]
ALONE = World(0, 1, 0, torch.device("cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model whose tokenizer puts BOS before every text, as LLaMA's does."""
    folder = save_tiny(tmp_path_factory.mktemp("vectors") / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing", "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


def embedded(world: World, folder: Path, out: Path) -> list[list[float]]:
    model = Loaded.of(folder, "tiny", torch.device("cpu"), row_tokens=500)
    write(PAPERS, ["abstract", "title"], embedder(model), out, world, "tiny")
    return read(out, "abstract", len(PAPERS)).tolist()


def test_vectors_are_means_without_bos_of_what_transformers_computes(folder, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = embedded(ALONE, folder, tmp_path)
    theirs, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    for n in (0, 33, 69):
        ids = tokenizer(PAPERS[n].abstract, return_tensors="pt").input_ids[:, :256]
        assert ids[0, 0] == 1
        with torch.no_grad():
            told = theirs.model(ids).last_hidden_state[0, 1:].mean(dim=0).numpy()
        assert np.abs(told - found[n]).max() < 1e-5


def test_what_is_there_is_not_embedded_again_and_damage_is_named(folder, tmp_path):
    embedded(ALONE, folder, tmp_path)
    first, second, *_ = sorted(tmp_path.rglob("*.npy"))
    second.unlink()
    asked = []
    write(PAPERS, ["abstract", "title"], lambda texts: (asked.append(len(texts)), np.ones((len(texts), 48)))[1], tmp_path, ALONE, "tiny")
    assert asked == [32]
    first.write_bytes(first.read_bytes()[:300])
    with pytest.raises(EvaluationError, match=f"{first.name}: not to be read"):
        read(tmp_path, "abstract", len(PAPERS))
    with pytest.raises(EvaluationError, match="papers 0 … 31 is not finite"):
        write(PAPERS, ["first"], lambda texts: np.full((len(texts), 48), np.nan), tmp_path, ALONE, "tiny")


@pytest.mark.slow
def test_two_ranks_embed_as_one(folder, tmp_path):
    alone = embedded(ALONE, folder, tmp_path / "1")
    for found in run_ranks(embedded, 2, folder, tmp_path / "2"):
        assert np.abs(np.array(found) - np.array(alone)).max() < 1e-6
