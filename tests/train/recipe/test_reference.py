"""The reference says of every key what the vocabulary does."""

import dataclasses
import re
import types

import pytest

from launch import pretrain, sft
from tests.made.where import ROOT
from train.recipe import reference
from train.recipe.load import load
from train.recipe.typed_yaml import build
from train.recipe.vocabulary import Recipe, RecipeError
from train.recipe.written import read_word


def test_every_key_stands_there_once_with_a_sentence():
    known = [key.dotted for key in reference.keys()]
    assert len(known) == len(set(known)) > 50
    assert not (silent := [key.dotted for key in reference.keys() if len(key.says) < 10]), f"no comment in vocabulary.py: {silent}"
    unlisted = {f.name for kind in reference.sections().values() for f in dataclasses.fields(kind)} - {
        name.split(".")[-1] for name in known
    }
    assert unlisted == {name for name in reference.sections() if name and "." not in name}, "what is no key is a section"


def test_a_recipe_accepts_every_key_and_no_other(tmp_path):
    """Each is given a value that cannot be: the fault names it, and none is unknown."""
    words = [f"{key.dotted.replace('NAME', 'a')}=[[" for key in reference.keys()]
    (tmp_path / "empty.yaml").write_text("name: x\n")
    with pytest.raises(RecipeError) as error:
        load(tmp_path / "empty.yaml", words)
    assert "unknown" not in str(error.value)
    named = [key.dotted.replace("NAME", "a") for key in reference.keys() if key.kind not in ("text", "path")]
    assert len(named) > 40 and not [n for n in named if not re.search(rf"(^|\W){re.escape(n)}\W", str(error.value)) and ".a." not in n]


def test_defaults_are_those_a_recipe_gets(tmp_path):
    written = "name: x\nsteps: 1\ntokens_per_step: 4096\nmodel: {path: m}\ndata: {sources: {a: {path: s}}}\n"
    (tmp_path / "least.yaml").write_text(written)
    run = load(tmp_path / "least.yaml")
    looked = 0
    for key in reference.keys():
        if "NAME" in key.section or key.dotted in ("steps", "name", "tokens_per_step", "model.path", "data.sources", "adapter.rank"):
            continue
        at = run
        for part in key.dotted.split("."):
            if getattr(at, part) is None and part == key.section:  # a section that is not asked for: what it is where it stands
                at = getattr(load(tmp_path / "least.yaml", ["adapter.rank=8"]), part)
            else:
                at = getattr(at, part)
        again: list = []
        kind = reference.sections()[key.section]
        told = build(kind, {key.name: read_word(key.default if key.default != reference.UNSET else "null")}, "", {}, again)
        assert getattr(told, key.name) == at and not [f for f in again if f.key == key.name], key
        looked += 1
    assert looked > 45


def test_required_is_what_cannot_be_left_out(tmp_path):
    (tmp_path / "none.yaml").write_text("runs: elsewhere\nmodel: {}\ndata: {sources: {NAME: {}}}\nheldout: {sources: {NAME: {}}}\n")
    with pytest.raises(RecipeError) as error:
        load(tmp_path / "none.yaml")
    missing = re.findall(r"- ([\w.]+): missing", str(error.value))
    assert sorted(missing) == sorted([key.dotted for key in reference.keys() if key.default == "required" and key.dotted != "data.sources"])


def test_units_and_allowed_values_are_told():
    of = {key.dotted: key for key in reference.keys()}
    assert of["tokens_per_step"].unit == "tokens" and of["guard.timeout_seconds"].unit == "seconds" and of["epochs"].unit == "passes"
    assert (
        of["model.dtype"].kind == "one of bf16, fp32"
        and "at least 2" in of["data.seq_len"].kind
        and "0 to below 1" in of["optim.betas"].kind
    )
    assert of["optim.lr"].default == "2e-5" and of["heldout.prompts"].default == "[]" and of["checkpoint.trainer_state"].default == "true"


def test_the_page_is_what_the_vocabulary_says():
    page = (ROOT / "launch" / "recipes" / "KEYS.md").read_text(encoding="utf-8")
    assert page == reference.as_page() + "\n", "python launch/pretrain.py --keys=page > launch/recipes/KEYS.md"
    for row in (line for line in page.splitlines() if line.startswith("| ")):
        assert row.count("|") == 6, row


@pytest.mark.parametrize("door", [pretrain, sft])
def test_the_doors_print_it(door: types.ModuleType, capsys):
    def said(*words: str) -> str:
        with pytest.raises(SystemExit) as ended:
            door.main([*words])
        out = capsys.readouterr().out
        assert (ended.value.code == 0) == ("no key" not in out)
        return out

    everything = said("--keys")
    assert all(f"  {key.dotted}  (" in everything for key in reference.keys())
    assert set(re.findall(r"^  ([\w.]+)  \(", said("--keys", "warmup"), re.MULTILINE)) == {
        f"schedule.warmup_{u}" for u in ("ratio", "steps", "tokens")
    }
    assert "no key has 'wurmup'" in said("--keys", "wurmup")
    assert said("--keys=page").startswith("# All keys")


def test_a_page_knows_the_whole_recipe():
    assert reference.sections()[""] is Recipe
