"""`data_tools.show --step N --recipe R`, as its user types it."""

import json
import re
import sys

import pytest

from tests.made import processes, tiny

pytestmark = pytest.mark.slow


def show(*words) -> tuple[int, str, str]:
    done = processes.run([sys.executable, "-m", "data_tools.show", *words])
    return done.returncode, done.stdout, done.stderr


def test_the_documents_behind_a_step_are_shown_for_a_recipe_and_for_a_run_with_what_it_skipped_and_left_out(tmp_path):
    from data_tools.shards.reader import Shards
    from train.data.behind import behind
    from train.data.positions import Span
    from train.preflight.epochs import data_settings
    from train.recipe.load import load

    tiny.ground(tmp_path)
    recipe = load(tmp_path / "recipe.yaml")
    shards = {"a": Shards.open(tmp_path / "shards")}

    def pieces(step: int, left_out=()) -> list[list[str]]:
        return [["a", p.id, f"{p.start}:{p.stop}", str(p.length)] for p in behind(shards, data_settings(recipe), step, left_out)]

    code, out, err = show("--step", "3", "--recipe", tmp_path / "recipe.yaml", "data.workers=2")
    head, _, _, *rows = out.splitlines()
    assert code == 0 and [row.split()[2:] for row in rows] == pieces(3), err
    assert re.match(r"step 3 of 4 of \S+: 4 rows of 64 tokens, \d+ pieces of \d+ documents$", head)

    run = tmp_path / "runs" / "tiny"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text((tmp_path / "recipe.yaml").read_text())
    lines = [
        {"step": 2, "loss": 9.0, "skipped": True, "why": "loss 9.1 deviations out"},
        {"step": 1, "event": "rewind", "left_out": [[0, 4, 12]], "plans": []},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, out, err = show("--step", "2", "--recipe", run)
    head, _, _, *rows = out.splitlines()
    assert [row.split()[2:] for row in rows] == pieces(2, (Span(0, 4, 12),)) == pieces(4), err
    assert head.endswith("; skipped: loss 9.1 deviations out; the run leaves out 8 rows")
    code, out, err = show("--step", "2", "--recipe", run, "--tokenizer", tmp_path / "model")
    assert code == 0 and out.count("\n--- row ") == len(rows) and out.count(f"--- row 1  {rows[0].split()[3]} (a)") == 1, err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--step", "5", "--recipe", "RECIPE"], "--step 5: .* has steps 1 to 4"),
        (["--step", "0", "--recipe", "RECIPE"], "--step 0: .* has steps 1 to 4"),
        (["--step", "1", "--recipe", "none.yaml"], "none.yaml: 1 fault"),
        (["--step", "1", "--recipe", "RECIPE", "data.sources.a.path=nowhere"], "nowhere"),
        (["--step", "1"], "--step N and --recipe R go together"),
        (["--step", "1", "--recipe", "RECIPE", "--verify"], "--step goes with --tokenizer alone"),
        ([], "give one folder of shards"),
    ],
)
def test_a_mistake_is_one_message(words, said, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "mistakes"
    if not folder.exists():
        folder.mkdir()
        tiny.ground(folder)
    code, out, err = show(*(str(folder / "recipe.yaml") if word == "RECIPE" else word for word in words))
    assert code in (1, 2) and not out and re.search(said, err) and "Traceback" not in err, err
