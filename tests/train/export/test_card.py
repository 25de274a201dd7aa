"""A card is valid whatever the names in it are, says what the Hub wants to know, and has no figure of another model."""

import json
from pathlib import Path

import pytest
import yaml

from train.export.card import Parts, model_card
from train.model_files.dtypes import BF16

RECIPE = {
    "model": {"path": "meta-llama/Llama-2-7b-hf"}, "tokens_per_step": 2048, "data": {"seq_len": 512, "sources": {"astro": {"path": "shards", "weight": 0.9}}},
    "optim": {"lr": 1e-5, "betas": [0.9, 0.95], "weight_decay": 0.1, "clip": 1.0}, "schedule": {"kind": "cosine"},
}  # fmt: skip


def step(
    root: Path, number: int = 500, *, base: str | None = None, source: str = "astro", shards: str = "shards", chat: bool = False
) -> Path:
    """A checkpoint as far as its card is made from it."""
    folder = root / "checkpoints" / f"step_{number:06d}"
    folder.mkdir(parents=True)
    recipe = json.loads(json.dumps(RECIPE))
    recipe["model"]["path"] = base or recipe["model"]["path"]
    recipe["data"]["sources"] = {source: {"path": shards, "weight": None}}
    state = {"recipe": recipe, "step": number, "tokens": 2048 * number, "versions": {"torch": "2.13"}, "heldout_loss": 2.0}
    (folder / "state.json").write_text(json.dumps(state))
    if chat:
        (folder / "chat_template.jinja").write_text("x")
    return folder


def parsed(card: str) -> tuple[dict, str]:
    _, matter, text = card.split("---\n", 2)
    return yaml.safe_load(matter), text


def test_a_run_says_what_the_hub_wants_and_what_was_measured(tmp_path):
    front, text = parsed(model_card(Parts([step(tmp_path / "cpt")], [], []), BF16))
    assert front == {
        "library_name": "transformers", "pipeline_tag": "text-generation", "license": "llama2", "base_model": ["meta-llama/Llama-2-7b-hf"],
        "base_model_relation": "finetune", "language": ["en"], "tags": ["astronomy", "llama", "astrollama-trainer"],
    }  # fmt: skip
    assert "# cpt\n" in text and "| training | 500 steps, 1,024,000 tokens, 2,048 tokens a step" in text
    assert "| held-out perplexity | 7.389" in text


@pytest.mark.parametrize("how", ["averaged", "merged"])
def test_what_is_made_of_several_has_no_figure_of_any(tmp_path, how):
    own = [step(tmp_path / "run", 400), step(tmp_path / "run2", 500)] if how == "averaged" else [step(tmp_path / "run")]
    merged = [] if how == "averaged" else [tmp_path / "chat"]
    front, text = parsed(model_card(Parts(own, merged, ["0.5 of a", "0.5 of b"]), BF16))
    assert "perplexity" not in text and "1,024,000" not in text and "500 steps" not in text
    assert "Nothing was measured of this model itself" in text and "- 0.5 of a" in text and "lr 1e-05" in text
    assert "merge" in front["tags"] and ("base_model_relation" in front) == (how == "averaged")
    assert ("The first part: full-parameter" in text) == (how == "merged")


@pytest.mark.parametrize(
    "name", ["a: b", "- x", "{y}", "# z", "a | b", "---", "*a", "'q' \"p\"", "naïve ∑", "<script>x</script>", "two\nlines", "[l](u)"]
)
def test_no_name_breaks_the_card(tmp_path, name):
    folder = step(tmp_path / name.replace("/", "∕"), base=f"models/{name}", source=name)
    front, text = parsed(model_card(Parts([folder], [], [name]), BF16))
    assert front["library_name"] == "transformers" and front["license"] == "other" and "base_model" not in front
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 8 and all(line.replace("\\|", "").count("|") == 3 for line in rows)
    assert "<script>" not in text.replace("\\<", "") and len([t for t in text.splitlines() if t.startswith("# ")]) == 1


def test_licence_base_and_language_come_from_the_cards_of_those_before(tmp_path, monkeypatch):
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: [en, de]\nbase_model: HuggingFaceTB/SmolLM2-135M\n---\n# Base\n")
    first = step(tmp_path / "cpt", base=str(base))
    second = step(tmp_path / "sft", base=str(first), chat=True)
    front, _ = parsed(model_card(Parts([second], [], []), BF16))
    assert front["license"] == "apache-2.0" and front["language"] == ["en", "de"] and front["base_model"] == ["HuggingFaceTB/SmolLM2-135M"]
    assert "conversational" in front["tags"]
    assert parsed(model_card(Parts([second], [], [], license="mit"), BF16))[0]["license"] == "mit"
    front, text = parsed(model_card(Parts([base], [], []), BF16))  # any Hugging Face folder
    assert front["license"] == "apache-2.0" and "Weights in" in text and "astrollama-trainer" not in front["tags"]


def test_data_sets_are_named_by_the_shards_that_are_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shards").mkdir()
    inputs = [
        {"path": p} for p in ("GAIR/lima", "HuggingFaceH4/ultrachat_200k:train_sft", "papers/all.jsonl", "/home/me/x.jsonl", "GAIR/lima")
    ]
    (tmp_path / "shards" / "manifest.json").write_text(json.dumps({"inputs": inputs}))
    front, _ = parsed(model_card(Parts([step(tmp_path / "run")], [], []), BF16))
    assert front["datasets"] == ["GAIR/lima", "HuggingFaceH4/ultrachat_200k"]


@pytest.mark.parametrize(
    "matter", ["---\n{a: [\n---\n", "---\n- list\n---\n", "no matter", "---\nlicense: {x: 1}\nlanguage: 3\nbase_model: 7\n---\n", ""]
)
def test_a_bad_card_of_the_base_is_no_hindrance(tmp_path, matter):
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text(matter)
    front, _ = parsed(model_card(Parts([step(tmp_path / "run", base=str(base))], [], []), BF16))
    assert front["license"] == "other" and front["license_name"] == "of-the-base-model" and front["language"] == ["en"]
