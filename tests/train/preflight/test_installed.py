"""A library that a recipe asks for by name is told missing, whatever folder has its name."""

import sys
from pathlib import Path

import pytest

from train.preflight.installed import absent
from train.recipe.vocabulary import Data, Model, Recipe, Source


def asking(attention: str) -> Recipe:
    return Recipe(
        name="x", tokens=1, tokens_per_step=1, model=Model(path="x", attention=attention), data=Data(sources={"a": Source(path=Path("x"))})
    )


@pytest.mark.parametrize(("attention", "name"), [("flash", "flash-attn"), ("flash4", "flash-attn-4")])
def test_a_kernel_that_is_not_installed_is_told_with_its_remedy(attention, name, tmp_path, monkeypatch):
    (tmp_path / "flash_attn" / "cute").mkdir(parents=True)  # flash-attn-4 leaves it, also for flash-attn 2 to be taken for
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "flash_attn", raising=False)
    [said] = absent(asking(attention))
    assert said == f"model.attention={attention}: {name} is not installed here; pip install 'astrollama-trainer[{attention}]', or use auto"
    made = tmp_path / "flash_attn_4-4.0.0b36.dist-info"
    made.mkdir()
    (made / "METADATA").write_text("Name: flash-attn-4\nVersion: 4.0.0b36\n")
    assert len(list(absent(asking(attention)))) == (attention == "flash")
