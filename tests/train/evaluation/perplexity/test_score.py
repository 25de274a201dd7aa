"""A text's loss is transformers' own, whatever is packed beside it, at any number of ranks."""

from pathlib import Path

import pytest
import torch

from tests.made.papers import sentences
from tests.made.ranks import run_ranks
from tests.made.tiny import save_tiny
from train.evaluation.loaded import Loaded
from train.evaluation.perplexity.score import Asked, score
from train.evaluation.texts import EvaluationError, Text
from train.world.ranks import World

TEXTS = [Text(f"p{n // 2}", sentences(("score", n), 1 + n % 2)[: 20 + 17 * n]) for n in range(14)] + [
    Text("long", "x" * 700),
    Text("one", "a"),
]
ALONE = World(0, 1, 0, torch.device("cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("score") / "model")


def by_transformers(folder: Path, text: str) -> float:
    """Mean loss of a text alone by its own model, in float64: its mean in fp32 is off by up to 1e-6 itself."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt").input_ids
    with torch.no_grad():
        return float(torch.nn.functional.cross_entropy(model(input_ids=ids).logits[0, :-1], ids[0, 1:]))


def scored(world: World, folder: Path, out: Path, batch_tokens: int) -> list:
    model = Loaded.of(folder, "tiny", torch.device("cpu"), row_tokens=batch_tokens)
    return score(model, TEXTS, Asked(), {"model": "tiny"}, out, world)


def test_each_text_has_the_loss_transformers_gives_it_alone_however_it_is_packed(folder, tmp_path):
    few, many = (scored(ALONE, folder, tmp_path, tokens) for tokens in (64, 4096))
    for text, a, b in zip(TEXTS[:14], few, many, strict=False):
        told = by_transformers(folder, text.text)
        assert a.tokens == len(text.text) - 1 and a.bytes == len(text.text.encode()) and a.unscored_bytes == 1
        assert abs(a.nats / a.tokens - told) < 1e-6 and abs(b.nats / b.tokens - told) < 1e-6
    assert few[14].tokens == 699 and few[15].tokens == 0 and few[15].nats == 0


@pytest.mark.slow
def test_any_number_of_ranks_gives_the_same_numbers(folder, tmp_path):
    alone = scored(ALONE, folder, tmp_path / "1", 200)
    for size in (2, 4):
        for found in run_ranks(scored, size, folder, tmp_path / f"{size}", 200):
            for one, same in zip(alone, found, strict=True):
                assert one.tokens == same.tokens and abs(one.nats - same.nats) <= 1e-6 * max(one.tokens, 1)


def test_an_architecture_that_is_not_packed_is_scored_document_by_document(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    from tests.made.tiny import VOCAB, write_tokenizer

    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=2, n_positions=256)).save_pretrained(tmp_path / "gpt2")
    write_tokenizer(tmp_path / "gpt2")
    model = Loaded.of(tmp_path / "gpt2", "gpt2", torch.device("cpu"))
    assert not model.packed and "one document at a time" in model.said and model.positions == 256
    found = score(model, TEXTS[:4], Asked(), {"model": "gpt2"}, tmp_path / "journal", ALONE)
    for text, one in zip(TEXTS[:4], found, strict=True):
        assert abs(one.nats / one.tokens - by_transformers(tmp_path / "gpt2", text.text)) < 1e-6


def test_a_loss_that_is_no_number_is_told_with_its_document(folder, tmp_path):
    model = Loaded.of(folder, "tiny", torch.device("cpu"))
    with torch.no_grad():
        model.model.lm_head.weight[5] = float("nan")
    with pytest.raises(EvaluationError, match="document p0 is nan"):
        score(model, TEXTS, Asked(), {"model": "damaged"}, tmp_path, ALONE)


def test_a_part_that_another_process_wrote_elsewhere_is_named(folder, tmp_path):
    model = Loaded.of(folder, "tiny", torch.device("cpu"), row_tokens=64)
    half = World(0, 2, 0, torch.device("cpu"))
    object.__setattr__(half, "barrier", lambda: None)
    object.__setattr__(half, "broadcast", lambda value: value)
    with pytest.raises(EvaluationError, match="one folder that all processes share"):
        score(model, TEXTS, Asked(), {"model": "tiny"}, tmp_path, half)


def test_a_window_beyond_the_models_positions_is_refused(folder, tmp_path):
    model = Loaded.of(folder, "tiny", torch.device("cpu"))
    with pytest.raises(EvaluationError, match="has 256 positions"):
        score(model, TEXTS, Asked(window=257), {}, tmp_path, ALONE)
