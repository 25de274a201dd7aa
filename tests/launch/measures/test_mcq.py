"""`evaluate.py mcq` as its user calls it, and EleutherAI's harness on the same exported folder and questions."""

import importlib.util
import json
import random
from pathlib import Path

import pytest

from launch.evaluate import main
from tests.made.tiny import save_tiny

pytestmark = pytest.mark.timeout(300)  # several models are loaded in one test, which takes a while on a loaded machine

LETTERS_TASK = """task: ours_letters
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question.strip()}}}}\\nA. {{{{choices[0]}}}}\\nB. {{{{choices[1]}}}}\\nC. {{{{choices[2]}}}}\\nD. {{{{choices[3]}}}}\\nAnswer:"
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: answer
metric_list: [{{metric: acc}}]
metadata: {{version: 1.0}}
"""
ANSWERS_TASK = """task: ours_answers
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{question.strip()}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
metadata: {{version: 1.0}}
"""


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Path:
    folder, draw = tmp_path_factory.mktemp("mcq"), random.Random(4)
    for seed in (0, 1):
        save_tiny(folder / f"model{seed}", seed)
    words = [f"star {n}" * (1 + n % 3) for n in range(9)]
    rows = [
        {"question": f"Which is {n}?", "choices": draw.sample(words, 4), "answer": draw.randrange(4), "article": n // 4} for n in range(44)
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    withheld = [{"question": row["question"], **dict(zip("ABCD", row["choices"]))} for row in rows]
    (folder / "withheld.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*withheld, {"question": "no options"}]))
    return folder


def run(*words: object) -> int:
    return main(["mcq", *map(str, words)])


def test_two_models_are_compared_on_the_same_questions(ground, tmp_path, capsys):
    models = [ground / "model0", ground / "model1"]
    assert run("--model", *models, "--data", ground / "questions.jsonl", "--out", tmp_path, "--cluster", "article", "--orders", 2) == 0
    told = json.loads((tmp_path / "mcq.json").read_text())
    answers = [json.loads(line) for line in (tmp_path / "mcq_answers.jsonl").read_text().splitlines()]
    assert told["questions"] == len(answers) == 44 and told["by"] == "letters"
    assert told["accuracy"] == sum(row["models"][str(models[0])]["letters"] == row["answer"] for row in answers) / 44
    assert {one["by"] for one in told["paired"]} == {"letters", "answers", "answers_norm"}
    assert len(told["models"][str(models[0])]["orders"]["accuracy"]) == 2 and "points" in capsys.readouterr().out


def test_withheld_answers_make_a_file_to_hand_in(ground, tmp_path, capsys):
    assert run("--model", ground / "model0", "--data", ground / "withheld.jsonl", "--out", tmp_path, "--score", "letters") == 0
    rows = [json.loads(line) for line in (tmp_path / "submission.jsonl").read_text().splitlines()]
    told = json.loads((tmp_path / "mcq.json").read_text())
    assert len(rows) == 44 and all(row["answer"] in "ABCD" for row in rows)
    assert told["accuracy"] is None and told["questions"] == 0 and told["withheld"] == 44
    assert told["left_out"] == {"fewer than two choices": 1} and "fewer than two choices" in capsys.readouterr().out


def test_shots_and_a_prompt_of_ones_own_change_what_is_asked(ground, tmp_path):
    (tmp_path / "prompt.txt").write_text('{question}\n{options}\nResponse:\n{\n"ANSWER": "')
    ways = {"plain": (), "shots": ("--shots", 1, "--shots-from", ground / "questions.jsonl"), "own": ("--prompt", tmp_path / "prompt.txt")}
    for name, more in ways.items():
        words = ("--model", ground / "model0", "--data", ground / "questions.jsonl", "--out", tmp_path / name, "--score", "letters")
        assert run(*words, *more) == 0
    journals = {name: next((tmp_path / name / "journal").iterdir()) for name in ways}
    assert len({path.name for path in journals.values()}) == 3 and len({path.read_bytes() for path in journals.values()}) == 3


@pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm_eval is not installed (pip install lm-eval, in an environment of its own)"
)
def test_the_harness_runs_an_exported_folder_as_it_stands_and_gets_the_same_score(ground, tmp_path):
    import lm_eval
    from lm_eval.tasks import TaskManager

    from launch.export_hf import main as export

    assert export([str(ground / "model0"), str(tmp_path / "exported"), "--dtype", "fp32"]) == 0
    for name, task in (("letters", LETTERS_TASK), ("answers", ANSWERS_TASK)):
        (tmp_path / f"{name}.yaml").write_text(task.format(file=ground / "questions.jsonl"))
    told = lm_eval.simple_evaluate(
        model="hf", model_args=f"pretrained={tmp_path / 'exported'},dtype=float32", tasks=["ours_letters", "ours_answers"], batch_size=4,
        device="cpu", task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False), bootstrap_iters=0,
    )["results"]  # fmt: skip
    assert run("--model", tmp_path / "exported", "--data", ground / "questions.jsonl", "--out", tmp_path / "out") == 0
    ours = json.loads((tmp_path / "out" / "mcq.json").read_text())["models"][str(tmp_path / "exported")]
    theirs = (told["ours_letters"]["acc,none"], told["ours_answers"]["acc,none"], told["ours_answers"]["acc_norm,none"])
    assert theirs == pytest.approx([ours[name]["accuracy"] for name in ("letters", "answers", "answers_norm")], abs=1e-9)
    assert len(set(theirs)) > 1
