"""May a changed recipe go on from a checkpoint?"""

from train.recipe.changes import differences, refusal


def test_recipe_changes_are_sorted_and_allowed_by_name():
    old = {"optim": {"lr": 1e-5}, "logging": {"every_steps": 1}, "data": {"sources": {"a": {"path": "x", "weight": None}}}, "steps": 5}
    new = {"optim": {"lr": 2e-5}, "logging": {"every_steps": 9}, "data": {"sources": {"a": {"path": "y", "weight": None}}}, "steps": 5}
    safe, changing = differences(old, new)
    assert safe == ["data.sources.a.path: x → y", "logging.every_steps: 1 → 9"] and changing == ["optim.lr: 1e-05 → 2e-05"]
    assert "checkpoint.allow='[optim.lr]'" in refusal(changing, safe, (), "c")
    assert refusal(changing, safe, ("optim.lr",), "c") is None and refusal(changing, safe, ("optim",), "c") is None
